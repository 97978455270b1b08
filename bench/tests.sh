#!/bin/sh
# Prints a table of go test ./... by package, with times, for docs/benchmarks.md. No result comes from the
# cache of go test. Arguments go to go test: bench/tests.sh -tags slow -timeout 60m
set -eu
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
from=$(date +%s)
status=0
go test -count=1 "$@" ./... >"$log" 2>&1 || status=$?
took=$(($(date +%s) - from))
echo "$(date -u +%F), $(uname -m), $(nproc) processors, load $(cut -d' ' -f1 /proc/loadavg): $took s"
echo
echo "| package | seconds | |"
echo "|---|---|---|"
# ok PACKAGE 1.23s, and FAIL PACKAGE 1.23s or FAIL PACKAGE [build failed]
awk '($1 == "ok" || $1 == "FAIL") && NF > 1 {
	sub(/^github.com\/nitro-enclaves-bootstrap\//, "", $2)
	seconds = $3 ~ /^[0-9.]+s$/ ? $3 : "-"
	sub(/s$/, "", seconds)
	printf "| `%s` | %s | %s |\n", $2, seconds, $1
}' "$log" | sort -t'|' -k3,3 -rn
if [ "$status" != 0 ]; then
	echo
	grep -v -e '^ok ' -e '^?' "$log"
fi
exit "$status"
