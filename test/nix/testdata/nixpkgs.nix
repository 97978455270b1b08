# Stands in for nixpkgs in tests: the few names that default.nix uses, with busybox as the only program. Downloads are
# derivations that cannot run, so whoever builds must have put the files into the Nix store by their hashes.
{
  system ? builtins.currentSystem,
  target ? system,
}:
let
  busybox = builtins.path {
    name = "busybox";
    path = ./busybox;
  };

  cannot = "echo 'no network in this test: the file is not in the store by its hash' >&2; exit 1";

  runCommand =
    name: env: script:
    derivation (
      {
        inherit name system;
        builder = "${busybox}/sh";
        args = [
          "-euc"
          ''
            export PATH=${busybox} TMPDIR=$PWD
            ${if env ? outputHash then cannot else script}
          ''
        ];
      }
      // removeAttrs env [ "nativeBuildInputs" ]
    );

  here = {
    inherit runCommand;
    stdenv.hostPlatform.system = system;
    lib.fetchers.proxyImpureEnvVars = [ ];
    fetchurl =
      {
        name,
        urls,
        sha256,
      }:
      runCommand name {
        inherit urls;
        outputHashMode = "flat";
        outputHashAlgo = "sha256";
        outputHash = sha256;
      } cannot;
    go = "/no-go";
    cacert = "/no-certificates";
    unzip = busybox;
    buildPackages = here;
  };
in
here
// {
  stdenv.hostPlatform.system = target;
  pkgsCross.aarch64-multiplatform = here // {
    stdenv.hostPlatform.system = "aarch64-linux";
  };
}
