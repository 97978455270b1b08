#!/bin/sh
# Times neb run of a hello image until the application printed its line: the first run with an empty store,
# which downloads and unpacks the emulator, then five more. BLOBS is a directory that neb build made.
#
#	bench/first-run.sh result
set -eu
blobs=$(realpath "$1")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
mkdir "$work/hello" "$work/tree"
cat >"$work/hello/main.go" <<'END'
package main

func main() { println("hello from an enclave") }
END
go build -o "$work/neb" ./cmd/neb
CGO_ENABLED=0 go build -ldflags '-s -w' -o "$work/tree/hello" "$work/hello/main.go"
"$work/neb" eif build --blobs "$blobs" --rootfs "$work/tree" --entrypoint /hello \
	--output "$work/hello.eif" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }

export NEB_CACHE="$work/store"
mkdir -m 0700 "$NEB_CACHE"
seconds() { date +%s.%N; }
run() {
	from=$(seconds)
	"$work/neb" run --accel tcg "$work/hello.eif" 2>"$work/log" | grep -q '^hello from an enclave' ||
		{ cat "$work/log"; exit 1; }
	awk -v name="$1" -v from="$from" -v to="$(seconds)" 'BEGIN {printf "%s: %.1f s\n", name, to - from}'
}
run "first run"
for n in 1 2 3 4 5; do run "run $n"; done
du -sm "$NEB_CACHE" | awk '{print "store: " $1 " MB"}'
