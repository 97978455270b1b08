# The blobs, built by neb inside Nix: `nix-build -A all`, or kernel, init, linuxkit. See docs/nix.md.
#
# Nix fetches what neb.lock names, by the hashes in it; neb then builds from these files with --offline, so
# the bytes are those of `neb build`. For the other architecture:
#
#   nix-build -A all --arg pkgs '(import ./nixpkgs.nix { }).pkgsCross.aarch64-multiplatform'
{
  pkgs ? import ./nixpkgs.nix { },
  # The URL of a mirror that holds debian/ and debian-security/, asked before the archive of snapshots.
  mirror ? null,
}:
let
  known =
    what: table: system:
    table.${system}
      or (throw "neb: ${what} ${system} is not supported, only ${toString (builtins.attrNames table)}");

  # The architecture of the blobs, and that of the machine that builds.
  arch = known "building for" {
    x86_64-linux = "x86_64";
    aarch64-linux = "aarch64";
  } pkgs.stdenv.hostPlatform.system;
  host = known "building on" {
    x86_64-linux = "amd64";
    aarch64-linux = "arm64";
  } pkgs.buildPackages.stdenv.hostPlatform.system;

  inherit (pkgs.buildPackages) runCommand;

  inputs = import ./nix/inputs.nix {
    inherit host mirror;
    pkgs = pkgs.buildPackages;
    source = src;
  };

  # The sources of neb only: a change of a test or a page must not compile a kernel. The same list is in
  # .dockerignore.
  src = builtins.path {
    name = "neb-source";
    path = ./.;
    filter =
      path: _:
      let
        name = baseNameOf path;
        below = builtins.substring (builtins.stringLength (toString ./.) + 1) (-1) path;
        top = builtins.head (builtins.match "([^/]*).*" below);
      in
      name != "testdata"
      && below != "internal/testing"
      && builtins.match ".*_test[.]go" name == null
      && builtins.elem top [
        "cmd"
        "eif"
        "image"
        "initramfs"
        "internal"
        "kernel"
        "nsm"
        "go.mod"
        "go.sum"
        "lockfile.go"
        "neb.lock"
        "LICENSE"
        "LICENSES"
        "NOTICE"
        "THIRD_PARTY_LICENSES"
      ];
  };

  neb = runCommand "neb" { } ''
    cp -r ${src} source && chmod -R u+w source && cd source
    export HOME=$TMPDIR GOROOT=${inputs.go} GOENV=off GOTOOLCHAIN=local GOSUMDB=off GOPROXY=file://${inputs.modules}
    CGO_ENABLED=0 ${inputs.go}/bin/go build -trimpath -buildvcs=false -o $out/bin/neb ./cmd/neb
  '';

  # One target of neb, built from the given downloads only.
  build =
    target: files: place:
    runCommand "${target}-${arch}" { } ''
      export HOME=$TMPDIR NEB_CACHE=$TMPDIR/cache GOPROXY=file://${inputs.modules}
      mkdir -m 0755 $NEB_CACHE $NEB_CACHE/downloads
      ${builtins.concatStringsSep "\n" (
        map (f: "ln -s ${f.file} $NEB_CACHE/downloads/${f.sha256}") files
      )}
      ${neb}/bin/neb build ${target} --arch ${arch} --offline --source ${src} --output result
      mkdir -p $out
      cp -r result/${arch}/. $out/${place}
    '';
in
rec {
  inherit neb;

  # [bz]Image, [bz]Image.config, cmdline, nsm.ko
  kernel = build "kernel" (inputs.kernel ++ inputs.packages arch) "";

  # init
  init = build "init" inputs.toolchain "";

  # bin/linuxkit
  linuxkit = build "linuxkit" inputs.toolchain "bin";

  # <arch>/…: nitro-cli's blobs directory
  all = runCommand "enclaves-blobs-${arch}" { } ''
    mkdir -p $out/${arch}
    cp -r ${kernel}/. ${init}/. ${linuxkit}/bin/. $out/${arch}/
  '';

  # Every file that Nix fetches by a hash of the lock, as { sha256, file }, for a test that compares the two.
  locked = inputs.toolchain ++ inputs.kernel ++ inputs.packages "x86_64" ++ inputs.packages "aarch64";

  # The Go modules, fetched by the hash in nix/modules.json.
  inherit (inputs) modules;
}
