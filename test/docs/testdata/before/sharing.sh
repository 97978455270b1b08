# The EIF that docs/sharing.md speaks of, and trusted keys of its own.
mkdir hello tree
export XDG_CONFIG_HOME=$PWD/config # of neb trust
cat > hello/main.go <<'END'
package main

func main() { println("hello from an enclave") }
END
CGO_ENABLED=0 go build -o tree/hello ./hello/main.go
neb eif build --rootfs tree --entrypoint /hello --output hello.eif
PCR0=$(neb eif describe hello.eif | sed -n 's/.*"PCR0": "\([0-9a-f]*\)".*/\1/p' | head -n 1)
