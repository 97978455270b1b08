#!/bin/sh
# Measures init: instructions that the virtual machine executes from the start of PID 1 to the application's
# first instruction, the time with the waits, peak memory of PID 1, size. Instructions do not depend on the machine or
# its load. Other programs, such as the reference's C init built from its published source, can be measured too:
# NEB_REFERENCE_INIT=/path/a:/path/b bench/init.sh
set -eu
cd "$(dirname "$0")/.."
echo "$(date -u +%F), $(uname -m), $(nproc) processors, load $(cut -d' ' -f1 /proc/loadavg)"
exec go test -run '^$' -bench BenchmarkStart -benchtime 1x -count "${COUNT:-3}" -timeout 30m ./cmd/init
