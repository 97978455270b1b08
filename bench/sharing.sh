#!/usr/bin/env bash
# Measures what docs/sharing.md promises, with Debian's docker-registry on loopback: a first neb build of both
# architectures from a remote, the cost of a remote that has nothing, 50 builders at once, and pushing a
# second EIF of 1 GiB. The store must hold the kernels of both architectures. Needs openssl and docker-registry.
#
#	bench/sharing.sh
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
mkdir "$work/registry"
registry=
trap 'exit 1' TERM INT
trap '[ -z "$registry" ] || kill "$registry"; chmod -R u+w "$work"; rm -rf "$work"' EXIT
go build -o "$work/neb" ./cmd/neb
export XDG_CONFIG_HOME="$work/config" NEB_SOURCE=$PWD
port=5055
cat >"$work/registry.yml" <<EOF
version: 0.1
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:$port"}
EOF
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry=$!
until curl -fs "http://127.0.0.1:$port/v2/" >/dev/null; do sleep 0.1; done
remote=127.0.0.1:$port/team/neb
both=x86_64,aarch64

stored() { du -sb "$work/registry" | cut -f 1; }
sent() { # bytes of all answers of the registry
	sed -n 's/.*http.response.written=\([0-9]*\).*/\1/p' "$work/registry.log" | awk '{n += $1} END {print n + 0}'
}
# measure NAME COMMAND...: seconds, bytes that the registry sent, bytes that it stored
measure() {
	local name=$1 from got had
	shift
	got=$(sent) had=$(stored) from=$(date +%s.%N)
	"$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
	awk -v n="$name" -v a="$from" -v b="$(date +%s.%N)" -v s="$(($(sent) - got))" -v k="$(($(stored) - had))" \
		'BEGIN {printf "%-48s %6.1f s  sent %10d  stored %10d\n", n, b - a, s, k}'
}
uptime

openssl ecparam -name prime256v1 -genkey -noout -out "$work/key.pem" 2>/dev/null
openssl ec -in "$work/key.pem" -pubout -out "$work/key.pub" 2>/dev/null
"$work/neb" trust add builder "$work/key.pub" >/dev/null
"$work/neb" build --arch $both init linuxkit -o "$work/first" 2>"$work/log"

report=("$work/neb" trust report --arch $both --remote)
measure "report of 6 builds, empty directory" "${report[@]}" "$work/none/"
measure "report of 6 builds, empty registry" "${report[@]}" "$remote"
measure "push of both architectures" "$work/neb" cache push --remote "$remote" --key "$work/key.pem" --arch $both
for arch in x86_64 $both; do
	mkdir -m 0700 "$work/store"
	NEB_CACHE=$work/store measure "first neb build, empty store, $arch" \
		"$work/neb" build --remote "$remote" --arch "$arch" -o "$work/result"
	echo "taken from the remote: $(grep -c 'taken from a remote' "$work/log")"
	chmod -R u+w "$work/store" && rm -rf "$work/store"
done

# Without the kernel, which would take the time of the rest together. The builders start with empty stores.
fleet() {
	local i pids=()
	for i in $(seq 50); do
		mkdir -m 0700 "$work/store-$i"
		NEB_CACHE=$work/store-$i "$work/neb" build init linuxkit --remote "127.0.0.1:$port/fleet/neb" \
			--push "$work/key.pem" --wait -o "$work/result-$i" 2>"$work/log-$i" &
		pids+=($!)
	done
	for i in "${pids[@]}"; do wait "$i" || return 1; done
}
measure "50 builders of init and linuxkit, --wait" fleet
taken=$(cat "$work"/log-* | grep -c 'taken from a remote')
echo "2 keys, 50 builders: built $((100 - taken)) times, taken $taken times;" \
	"$(cat "$work"/result-*/SHA256SUMS | sort -u | wc -l) different files"
rm -rf "$work"/result-*
chmod -R u+w "$work"/store-* && rm -rf "$work"/store-*

mkdir -p "$work/tree/app"
head -c 1073741824 /dev/urandom >"$work/tree/app/data"
CGO_ENABLED=0 go build -o "$work/tree/app/run" ./bench/run/guest
for name in a b; do
	"$work/neb" eif build --blobs "$work/result/x86_64" --rootfs "$work/tree" --entrypoint /app/run \
		--name $name --output "$work/$name.eif" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
done
measure "push of an EIF of 1 GiB" "$work/neb" eif push "$work/a.eif" "127.0.0.1:$port/team/app:a"
measure "push of one with another name" "$work/neb" eif push "$work/b.eif" "127.0.0.1:$port/team/app:b"
measure "pull" "$work/neb" eif pull "127.0.0.1:$port/team/app:a" -o "$work/c.eif"
cmp "$work/a.eif" "$work/c.eif" && echo "pulled bytes: the same"
uptime
