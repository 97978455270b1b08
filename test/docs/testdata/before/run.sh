# hello.eif of docs/run.md, with a program of our own in the place of alpine's echo.
mkdir hello tree
export XDG_CONFIG_HOME=$PWD/config # of neb attest ca init
cat > hello/main.go <<'END'
package main

func main() { println("hello from an enclave") }
END
CGO_ENABLED=0 go build -o tree/hello ./hello/main.go
neb eif build --rootfs tree --entrypoint /hello --output hello.eif
