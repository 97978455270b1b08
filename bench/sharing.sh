#!/usr/bin/env bash
# Times what docs/sharing.md promises, with Debian's docker-registry on loopback: a first neb build of both
# architectures from a remote, the cost of a remote that has nothing, and pushing a second EIF of 1 GiB. The
# store must hold builds of both architectures.
#
#	bench/sharing.sh
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'kill $registry 2>/dev/null; chmod -R u+w "$work"; rm -rf "$work"' EXIT
registry=
go build -o "$work/neb" ./cmd/neb
export XDG_CONFIG_HOME="$work/config" NEB_SOURCE=$PWD
port=5055
cat >"$work/registry.yml" <<END
version: 0.1
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:$port"}
END
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry=$!
until curl -fs "http://127.0.0.1:$port/v2/" >/dev/null; do sleep 0.1; done
remote=127.0.0.1:$port/team/neb

timed() { # timed NAME COMMAND...
	local name=$1 from
	shift
	from=$(date +%s.%N)
	"$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
	awk -v n="$name" -v a="$from" -v b="$(date +%s.%N)" 'BEGIN {printf "%s: %.1f s\n", n, b - a}'
}
size() { du -sb "$work/registry" | awk '{printf "%d", $1}'; }

openssl ecparam -name prime256v1 -genkey -noout -out "$work/key.pem" 2>/dev/null
openssl ec -in "$work/key.pem" -pubout -out "$work/key.pub" 2>/dev/null
"$work/neb" trust add builder "$work/key.pub" >/dev/null
both=x86_64,aarch64

timed "report of a remote that has nothing, 6 builds" "$work/neb" trust report --remote "$remote" --arch $both
timed "push of both architectures" \
	"$work/neb" cache push --remote "$remote" --key "$work/key.pem" --arch $both
echo "bytes in the registry: $(size)"
mkdir -m 0700 "$work/store"
NEB_CACHE=$work/store timed "first neb build, empty store, both architectures" \
	"$work/neb" build --remote "$remote" --arch $both -o "$work/result"
grep -c "taken from a remote" "$work/log" | sed 's/^/taken from the remote: /'
grep 'sent\|response completed' "$work/registry.log" | grep -o 'http.response.written=[0-9]*' |
	awk -F= '{n += $2} END {print "bytes that the registry sent in all: " n}'

mkdir -p "$work/tree/app"
head -c 1073741824 /dev/urandom >"$work/tree/app/data"
CGO_ENABLED=0 go build -o "$work/tree/app/run" ./bench/run/guest
for name in a b; do
	"$work/neb" eif build --blobs "$work/result/x86_64" --rootfs "$work/tree" --entrypoint /app/run \
		--name $name --output "$work/$name.eif" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
done
timed "push of an EIF of 1 GiB" "$work/neb" eif push "$work/a.eif" "127.0.0.1:$port/team/app:a"
before=$(size)
timed "push of one with another name" "$work/neb" eif push "$work/b.eif" "127.0.0.1:$port/team/app:b"
echo "bytes that it added: $(($(size) - before))"
timed "pull" "$work/neb" eif pull "127.0.0.1:$port/team/app:a" -o "$work/c.eif"
cmp "$work/a.eif" "$work/c.eif" && echo "pulled bytes: the same"
