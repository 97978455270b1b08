# go install installs into the copy of the source, not into the home of whoever runs the tests.
GOBIN=$PWD/bin
export GOBIN
