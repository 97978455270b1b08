# Unpacks, patches and configures a kernel.
#
# /src/linux.tar   the source, unless /build/linux is there already
# /src/series      names of patches in /src, in order
# /src/all.config  what is asked for on top of allnoconfig
# /out/config      what Kconfig made of it
# /out/patch       when a patch does not apply: what patch(1) says, and last the patch's name
if [ ! -d linux ]; then
	mkdir linux
	tar -x -f /src/linux.tar -C linux --strip-components=1 --no-same-owner --no-same-permissions
	rm /src/linux.tar
	cd linux
else
	cd linux
	make mrproper # what was compiled in there elsewhere is not taken
fi
while read -r patch; do
	# Not tried before: a trial does not see what the file did to a place that it comes back to, as a series of commits does.
	if ! patch -p1 --fuzz=0 --forward --batch --no-backup-if-mismatch -r - -i "/src/$patch" > /out/said 2>&1; then
		cat /out/said
		grep -e '^patching file' -e '^Hunk .* FAILED' -e 'malformed' -e 'nly garbage' -e "can't find file" -e 'Reversed' \
			/out/said > /out/patch || :
		echo "$patch" >> /out/patch
		exit 1
	fi
	cat /out/said
done < /src/series
make KCONFIG_ALLCONFIG=/src/all.config allnoconfig
cp .config /out/config
