# What neb.lock names, as files that Nix fetches by the hashes in it. No hash is written a second time except
# that of the Go modules: `make nix-hash` writes nix/modules.json from go.sum.
{
  pkgs, # packages for the machine that builds
  host, # Debian's name of that machine: amd64 or arm64
  mirror, # URL or null
  source, # neb's source tree
}:
let
  lock = builtins.fromJSON (builtins.readFile ../neb.lock);

  # Nix's store names allow fewer characters than Debian's file names.
  name = path: builtins.replaceStrings [ "~" "%" ":" ] [ "-" "-" "-" ] (baseNameOf path);

  urls =
    f:
    let
      time = builtins.replaceStrings [ "-" ":" ] [ "" "" ] f.snapshot;
    in
    (if mirror == null then [ ] else [ "${mirror}/${f.archive}/${f.path}" ])
    ++ [ "https://snapshot.debian.org/archive/${f.archive}/${time}/${f.path}" ];

  fetch = f: {
    inherit (f) sha256;
    file = pkgs.fetchurl {
      name = name f.path;
      urls = urls f;
      inherit (f) sha256;
    };
  };

  # Downloads through the Go command, which knows the machine's module proxy.
  online = {
    nativeBuildInputs = [ pkgs.cacert ];
    impureEnvVars = pkgs.lib.fetchers.proxyImpureEnvVars ++ [
      "GOPROXY"
      "GOSUMDB"
    ];
    GOTOOLCHAIN = "local";
    GONOSUMDB = "*"; # Nix checks the hash. For toolchains Go asks GOSUMDB nevertheless
    GOFLAGS = "-modcacherw";
  };

  locked = builtins.head (builtins.filter (f: f.arch == host) lock.go);
  zip = pkgs.runCommand (name locked.path) (
    online
    // {
      outputHashMode = "flat";
      outputHashAlgo = "sha256";
      outputHash = locked.sha256;
    }
  ) ''
    export HOME=$TMPDIR
    ${pkgs.go}/bin/go mod download ${locked.name}@${locked.version}
    cp $HOME/go/pkg/mod/cache/download/${locked.path} $out
  '';
in
rec {
  # Each of these is a list of { sha256, file }.
  toolchain = [
    {
      inherit (locked) sha256;
      file = zip;
    }
  ];
  kernel = [ (fetch lock.kernel) ];
  packages =
    arch:
    map fetch (
      builtins.filter (
        p:
        builtins.any (set: builtins.elem set (p.sets.${host} or [ ])) [
          "base"
          "gcc-${arch}"
        ]
      ) lock.packages
    );

  # The locked Go toolchain, unpacked. Module zips hold no permissions.
  go = pkgs.runCommand "go-${host}" { nativeBuildInputs = [ pkgs.unzip ]; } ''
    unzip -q ${zip}
    mv golang.org/toolchain@* $out
    chmod -R +x $out/bin $out/pkg/tool
  '';

  # The Go modules of go.sum, laid out as a module proxy.
  modules = pkgs.runCommand "neb-go-modules" (
    online
    // {
      outputHashMode = "recursive";
      outputHashAlgo = "sha256";
      outputHash = (builtins.fromJSON (builtins.readFile ./modules.json)).sha256;
    }
  ) ''
    export HOME=$TMPDIR GOROOT=${go} GOENV=off
    cp ${source}/go.mod ${source}/go.sum .
    ${go}/bin/go mod download
    cd $HOME/go/pkg/mod/cache/download
    find . -name '*.mod' -o -name '*.zip' | while read -r f; do
      mkdir -p "$out/$(dirname "$f")"
      cp "$f" "$out/$f"
    done
  '';
}
