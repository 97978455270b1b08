# The package set from which default.nix takes a shell, unzip and a downloader; no byte of it goes into a
# blob.
#
# Pinned to the release tag 25.11. The hash is the one that public projects pin the same tarball by, among
# them the file with `nixpkgs/archive/refs/tags/25.11.tar.gz` in astro-nix's default.nix.
import (fetchTarball {
  url = "https://github.com/NixOS/nixpkgs/archive/refs/tags/25.11.tar.gz";
  sha256 = "1zn1lsafn62sz6azx6j735fh4vwwghj8cc9x91g5sx2nrg23ap9k";
})
