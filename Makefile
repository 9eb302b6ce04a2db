# What a developer and CI run. `make` alone builds; `make test` is what has to pass before a change lands.
#
#   make build      the program, as ./sluice
#   make test       lint, then every test with the race detector; installs the Debian packages that the tests need when
#                   they are missing and it may (root, or sudo without a password), and says so
#   make quick      the tests without other people's programs and without the race detector
#   make lint       gofmt and go vet
#   make fuzz       every fuzz target for FUZZTIME (10s)
#   make generate   what is made from something else: examples/full/sluice.toml, the protocol's Go code
#   make bench      the Go benchmarks

SHELL    := /bin/bash
GO       ?= go
FUZZTIME ?= 10s
TIMEOUT  ?= 40m
INTEROP_PACKAGE := ./cmd/internal/interop/...

# Those that take longest come first, so that no core waits for them in the end; pluginhost mostly waits, so three packages at
# a time keep two cores busy.
LONG_ROOMS := ./pipeline/pluginhost ./storage ./pipeline/queue ./storage/crashtest ./cmd/internal/conformance

# A program with the race detector sleeps a second when it ends, for races that come yet. The tests end thousands of
# processes (each server, each of its commands): 20 ms are enough for what is under way.
export GORACE ?= atexit_sleep_ms=20

.PHONY: build test quick lint fmt vet packages fuzz generate bench clean

build:
	$(GO) build -o sluice ./cmd/sluice

# The quick packages come first, so that a plain mistake is seen before the programs of others are started.
test: lint packages
	@echo "== tests of the rooms"
	INTEROP=require $(GO) test -race -shuffle=on -p 3 -timeout $(TIMEOUT) $(LONG_ROOMS) $$($(GO) list ./... | grep -v /internal/interop)
	@echo "== tests with real mail programs"
	INTEROP=require $(GO) test -race -shuffle=on -parallel 3 -timeout $(TIMEOUT) $(INTEROP_PACKAGE)
	@echo "== what the race detector would distort: restart within 5 s, memory at full size"
	INTEROP=require $(GO) test -timeout $(TIMEOUT) -run '^(TestCrash|TestMemory)$$' $(INTEROP_PACKAGE)

quick: lint
	$(GO) test -short -shuffle=on $$($(GO) list ./... | grep -v /internal/interop)

lint: fmt vet

fmt:
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted; run gofmt -w on:"; echo "$$files"; exit 1; fi

vet:
	$(GO) vet ./...

packages:
	@bash .ci/packages

fuzz:
	@set -e; for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | sed 's/^func //' | sort -u); do \
	    echo "== $$dir $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x $$dir; \
	  done; \
	done

generate:
	$(GO) generate ./...
	$(GO) test ./cmd/internal/config -run TestFullIsFresh -update

bench:
	$(GO) test -run '^$$' -bench . -benchmem $$($(GO) list ./... | grep -v /internal/interop)

clean:
	rm -f sluice
