# The tree of docs/kms.md: an application that asks for a data key.
export XDG_CONFIG_HOME=$PWD/config
mkdir tree
CGO_ENABLED=0 go build -o tree/guest ./test/e2e/guest
openssl genrsa 2048 2> genrsa.log | openssl rsa -pubout -outform DER -out tree/key.der 2>> genrsa.log
