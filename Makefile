# kiln's targets. Each does its own set-up; "make help" lists them.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# The product is static: cgo is for the embedded runc and the race detector.
export CGO_ENABLED := 0
export GOFLAGS     := -trimpath -buildvcs=false

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SEEDS   ?= 20000
STEPS   ?= 200

.PHONY: help build test check demo demo-down bench sim mutants soak kills conformance
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## install what is needed, and build bin/kiln
	@scripts/packages build
	@scripts/build-runtime
	@echo "building bin/kiln $(VERSION)"
	@go build -ldflags '-s -w -X main.version=$(VERSION)' -o bin/kiln ./cmd/kiln
	@ls -lh bin/kiln | awk '{print "bin/kiln: " $$5}'

test: build ## all tests: units, races, layers, simulation, the binary end to end
	@scripts/packages test
	@scripts/test units
	@scripts/test races
	@$(MAKE) --no-print-directory sim
	@scripts/test e2e
	@scripts/test short-soak

check: ## format, vet, layers and linters
	@scripts/packages build
	@scripts/build-runtime
	@scripts/check

demo: build ## two applications, deployed, replaced under load and rolled back
	@scripts/packages test
	@scripts/demo

demo-down: ## remove everything that the demo made
	@scripts/demo-down

bench: build ## measure against Docker, runc, nginx and HAProxy; writes docs/benchmarks.md
	@scripts/packages bench
	@go run ./test/bench

sim: ## simulate: SEEDS=20000 STEPS=200, or SEED=n for one
	@scripts/test sim $(SEEDS) $(STEPS) $(SEED)

mutants: ## break each promise on purpose, and see that it is found
	@scripts/test mutants

soak: build ## an hour: deploys, rollbacks and kills under load, then recycling and chaos; SOAK="-seed 7 -deploys 10"
	@scripts/packages test
	@scripts/test soak

kills: build ## the daemon killed at 200 moments of deploys, any two processes at 50; KILLS="-seed 7 -kills 20"
	@scripts/packages test
	@scripts/test kills

conformance: build ## HTTP/2, WebSocket, TLS, ACME, signatures and the registry, judged by programs of others
	@scripts/conformance
