# The EIF that docs/check.md checks.
mkdir hello tree
cat > hello/main.go <<'END'
package main

func main() { println("hello from an enclave") }
END
CGO_ENABLED=0 go build -o tree/hello ./hello/main.go
neb eif build --rootfs tree --entrypoint /hello --output hello.eif
