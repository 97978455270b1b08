{
  description = "Nitro Enclaves Bootstrap: kernel, NSM driver, init and linuxkit for AWS Nitro Enclaves";

  # No inputs, hence no flake.lock: nixpkgs.nix pins the package set for nix-build and for flakes.
  outputs =
    { self }:
    let
      packages =
        system:
        let
          blobs = import ./default.nix { pkgs = import ./nixpkgs.nix { inherit system; }; };
        in
        {
          inherit (blobs)
            all
            kernel
            init
            linuxkit
            neb
            ;
          default = blobs.all;
        };
    in
    {
      packages = {
        x86_64-linux = packages "x86_64-linux";
        aarch64-linux = packages "aarch64-linux";
      };
    };
}
