#!/bin/sh
# engine26.sh ROOT [overlay2|overlayfs]: Debian 13's Docker engine (26.1) in an unpacked root, beside whatever runs on this
# machine. With overlayfs, containerd keeps the images, as newer engines have it by default.
#
# Unpacks docker.io and all it needs into ROOT (once), starts dockerd there with everything of its own below ROOT, and stays
# until it ends. The engine listens on ROOT/run/docker.sock. Needs root, apt-get, dpkg-deb and a mirror that the
# machine's apt already uses. No maintainer script is run.
set -eu
root=$(mkdir -p "$1" && cd "$1" && pwd)

if ! [ -e "$root/.unpacked" ]; then
	site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -n 1)
	apt=$root/.apt
	mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/etc"
	: >"$apt/status"
	echo "deb $site trixie main" >"$apt/sources.list"
	# Signatures are checked with the keys of this machine; those of Debian 12 know Debian 13.
	options="-o Dir::State::status=$apt/status -o Dir::State::lists=$apt/lists -o Dir::Cache=$apt -o Dir::Cache::archives=$apt/archives
		-o Dir::Etc::sourcelist=$apt/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o APT::Sandbox::User=root"
	# shellcheck disable=SC2086
	apt-get -q $options update
	# shellcheck disable=SC2086
	apt-get -qy $options --download-only --no-install-recommends install docker.io base-files coreutils ca-certificates
	mkdir "$root/.new"
	# base-files brings the links from /bin to /usr/bin, which the others are unpacked through
	for deb in "$apt"/archives/base-files_*.deb "$apt"/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -C "$root/.new" -xf - --keep-directory-symlink
	done
	for d in "$root"/.new/*; do
		rm -rf "${root:?}/${d##*/}"
		mv "$d" "$root/"
	done
	rm -rf "$root/.new" "$apt"
	: >"$root/.unpacked"
fi

mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/mnt" "$root/var/lib/docker"
driver=${2:-overlay2}
mkdir -p "$root/etc/docker"
case $driver in
overlayfs) echo '{"features": {"containerd-snapshotter": true}}' ;;
*) echo '{}' ;;
esac >"$root/etc/docker/daemon.json"
rm -f "$root/run/docker.pid" "$root/run/docker.sock" "$root/run/docker/containerd/containerd.pid"
# Mounts live and die with the engine, and so does its network: without a bridge it would remove docker0, which the machine's own
# engine needs. It wants a root that is a mount point, which chroot does not give.
exec unshare --mount --net --propagation private sh -c '
	mount --bind "$0" "$0" && cd "$0" &&
	mount -t proc proc proc && mount --rbind /sys sys && mount --rbind /dev dev &&
	pivot_root . mnt &&
	exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root chroot . \
		dockerd --host unix:///run/docker.sock --bridge none --iptables=false --ip6tables=false --storage-driver "$1"
' "$root" "$driver"
