# document.bin and hello.eif and root.pem of docs/attest.md: an enclave attests with the nonce "nonce-1", and prints the document.
mkdir tree
CGO_ENABLED=0 go build -o tree/guest ./test/e2e/guest
neb eif build --rootfs tree --entrypoint /guest --cmd attest --cmd nonce-1 --output hello.eif
neb attest ca init ca
neb attest ca show ca --pem > root.pem
neb run hello.eif --attestation-ca ca --timeout 300s | tr -d '\r' | sed -n 's/^document: //p' > document.bin
