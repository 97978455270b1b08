#!/bin/sh
# Measures init: instructions that the virtual machine executes from the beginning of PID 1 to the application's first instruction, the clock with
# what was waited for, peak memory of PID 1, size. Instructions do not depend on the machine or its load. Other programs, such as
# the reference's C init built from its published source, can be measured beside it: NEB_REFERENCE_INIT=/path/a:/path/b bench/init.sh
set -eu
cd "$(dirname "$0")/.."
echo "$(date -u +%F), $(uname -m), $(nproc) processors, load $(cut -d' ' -f1 /proc/loadavg)"
exec go test -run '^$' -bench BenchmarkStart -benchtime 1x -count "${COUNT:-3}" -timeout 30m ./cmd/init
