# Everyday commands. `go run ./cmd/neb` and `go test ./...` need none of this.

GO      ?= go
VERSION ?=
LINT    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
VULN    := golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME ?= 20s
# The libraries that others import, and neb for the commands that do not need Linux.
PORTABLE := ./eif ./image ./initramfs ./kernel ./nsm ./internal/cli ./cmd/neb
# Packages whose tests boot nothing and compile nothing. Under the race detector, unpacking and hashing the
# toolchain takes a quarter of an hour: component is not among them.
UNIT    := $(filter-out %/internal/hermetic/component %/cmd/init %/internal/machine %/kernel, \
           $(shell $(GO) list ./... | grep -v -e /test/ -e /testing/ -e /bench/))
# Tests in files with the build tag slow: all, those with the programs of others, and those that compile a
# kernel or an emulator, or boot a kernel that the first command of the README does not compile.
SLOW    := $(shell grep -rl '^//go:build slow' --include='*_test.go' . | \
           xargs sed -n 's/^func \(Test[A-Za-z0-9_]*\).*/\1/p' | paste -sd '|')
OTHERS  := TestVerifiers|TestBoto3|TestExamples|TestDebianPrograms|TestDebianTrees|TestGvproxy
KERNELS := TestKernels|TestSetAsUser|TestDocker|TestRelease|TestNitroEnclave|TestAArch64KMS|TestPCIeKernel|TestOtherToolchain

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: ## the blobs for this machine's architecture, into result/
	$(GO) run ./cmd/neb build

.PHONY: test
test: ## the quick tests, after make build
	$(GO) test ./...

.PHONY: test-all
test-all: ## all tests: also kernels compiled again, Docker, Nix's sandbox, releases, large images
	$(GO) test -tags slow -timeout 60m ./...

# What test-all adds to test, in four parts.
.PHONY: test-slow test-foreign test-kernels test-series
test-slow: ## the slow tests, without the three below
	$(GO) test -tags slow -timeout 60m ./image ./test/unpack
	$(GO) test -tags slow -timeout 60m -run '^($(SLOW))$$' \
	  -skip '^($(OTHERS)|$(KERNELS)|TestSecondSeries|TestMain)$$' \
	  ./eif ./image ./internal/... ./test/...

test-foreign: ## programs of others: verifiers, SDKs of AWS, gvproxy, packages of Debian
	$(GO) test -tags slow -timeout 60m -run '^($(OTHERS))$$' ./test/foreign ./test/e2e

test-kernels: ## both kernels, one also as another user and in Docker; that of the profile pcie; releases
	$(GO) test -tags slow -timeout 60m -skip '^TestSecondSeries$$' ./cmd/init ./internal/machine ./kernel
	$(GO) test -tags slow -timeout 60m -run '^($(KERNELS)|TestAArch64.*)$$' ./internal/hermetic/component ./test/...

test-series: ## the kernels of the second series, compiled and booted
	$(GO) test -tags slow -timeout 90m -run '^TestSecondSeries$$' ./kernel ./test/e2e

.PHONY: unit
unit: ## the tests that boot nothing
	$(GO) test $(UNIT)

.PHONY: race
race: ## the unit tests under the race detector, with coverage
	$(GO) test -race -timeout 30m -coverprofile coverage.out $(UNIT)
	$(GO) test -race -run '^TestTwoAtOnce$$' ./internal/hermetic/component
	$(GO) tool cover -func coverage.out | tail -n 1

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (20s; 10000x counts runs)
	@set -e; grep -r '^func Fuzz' --include='*_test.go' . | \
	sed -E 's,^(.*)/[^/]*:func (Fuzz[A-Za-z0-9_]+).*,\1 \2,' | sort | while read -r pkg target; do \
	  echo "$$pkg $$target"; \
	  $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x "$$pkg" </dev/null; \
	done

.PHONY: cover
cover: ## the quick tests with coverage, the total at the end
	$(GO) test -timeout 30m -coverprofile coverage.out -coverpkg ./... ./...
	$(GO) tool cover -func coverage.out | tail -n 1

.PHONY: check
check: form unit ## before a push: form, and the unit tests

.PHONY: form
form: ## formatting, vet for each platform, the Go modules
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags slow ./...
	GOARCH=arm64 $(GO) vet ./...
	GOOS=darwin GOARCH=arm64 $(GO) vet $(PORTABLE)
	GOOS=windows $(GO) vet $(PORTABLE)
	$(GO) mod verify
	$(GO) mod tidy -diff

.PHONY: lint
lint: ## formatting, vet and the linters of .golangci.yml
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(LINT) run

.PHONY: vuln
vuln: ## known vulnerabilities in what is linked (asks vuln.go.dev, or VULNDB=file:///copy)
	$(GO) run $(VULN) $(if $(VULNDB),-db $(VULNDB)) ./...

.PHONY: docs
docs: ## man pages and shell completions, into build-docs/
	$(GO) run ./cmd/neb man build-docs/man
	@mkdir -p build-docs/completions
	$(GO) run ./cmd/neb completion bash > build-docs/completions/neb.bash
	$(GO) run ./cmd/neb completion zsh > build-docs/completions/_neb
	$(GO) run ./cmd/neb completion fish > build-docs/completions/neb.fish

.PHONY: notices
notices: ## NOTICE, THIRD_PARTY_LICENSES and the licence table, from the linked modules
	$(GO) run ./internal/tools/notices

.PHONY: nix-hash
nix-hash: ## nix/modules.json, after a change of go.sum
	$(GO) run ./internal/tools/nixhash

.PHONY: release
release: ## archives, sums, bill of materials, provenance: make release VERSION=1.2.0
	$(GO) run ./cmd/neb release $(VERSION)

.PHONY: clean
clean: ## remove what the above wrote here (not the store: neb cache prune)
	rm -rf result release build-docs coverage.out
