# Everyday commands. `go run ./cmd/neb` and `go test ./...` need none of this.

GO      ?= go
VERSION ?=
LINT    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
VULN    := golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME ?= 20s
# Packages with goroutines, and others whose quick tests boot nothing. Not ./internal/hermetic/component:
# unpacking and hashing takes a quarter of an hour under the detector. Its test with several builders runs
# alone.
RACE    := ./eif ./image ./initramfs ./nsm ./internal/cli ./internal/contract ./internal/hermetic/lock \
           ./internal/hermetic/resolve ./internal/hermetic/output ./internal/hermetic/sandbox ./internal/hermetic/store \
           ./internal/hermetic/fetch ./internal/linuxkit ./internal/machine/... ./internal/pack

# Packages that must work on macOS and Windows too.
PORTABLE := ./eif ./image ./initramfs ./nsm ./kernel ./internal/cli ./cmd/neb

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: ## the blobs for this machine's architecture, into result/
	$(GO) run ./cmd/neb build

.PHONY: test
test: ## all tests but the slow ones; what the machine lacks is skipped by name
	$(GO) test ./...

.PHONY: test-all
test-all: ## the slow tests too: kernels compiled again, Docker, Nix, releases, large images
	$(GO) test -tags slow -timeout 60m ./...

.PHONY: race
race: ## the packages of RACE under the race detector, with coverage
	$(GO) test -race -short -timeout 30m -coverprofile coverage.out $(RACE)
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
cover: ## the tests with coverage, the total at the end
	$(GO) test -coverprofile coverage.out -coverpkg ./... ./...
	$(GO) tool cover -func coverage.out | tail -n 1

.PHONY: check
check: form ## what to run before a push: form, and go test ./...
	$(GO) test ./...

.PHONY: form
form: ## formatting, vet for each platform, the Go modules
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./cmd/... ./internal/cli/...
	GOOS=darwin $(GO) vet $(PORTABLE)
	GOOS=windows $(GO) vet $(PORTABLE)
	$(GO) vet -tags slow ./...
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
