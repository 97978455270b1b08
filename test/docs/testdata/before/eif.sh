# The files that docs/eif.md speaks of: a tree, an image of it, and two images to compare.
mkdir server tree
echo 'package main; func main() {}' > server/main.go
CGO_ENABLED=0 go build -o tree/server ./server/main.go
tar -C tree -cf tree.tar server
neb eif build --rootfs tree --entrypoint /server --output hello.eif
cp hello.eif yesterday.eif
cp hello.eif today.eif
echo hello > hello.txt
PCR0=$(neb eif describe hello.eif | sed -n 's/.*"PCR0": "\([0-9a-f]*\)".*/\1/p' | head -n 1)
