# `make` alone lists what there is. Works with GNU make 3.81 (macOS) and later.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME ?= 30s
ARGS ?=
TESTFLAGS ?=
RACE ?=
MINUTES ?= 2
REQUESTS ?= 0
HISTORIES ?= 2000000
OUTAGE ?= 1m
PARTITION ?= 40s
FAULTS ?= ClocksOfReplicas|ClockOfPostgres|TwentyReplicas|TwoVersions|BehindPgbouncer|OutOfMemory
# The version before this one: the last tag; before the first release the commit that last changed the schema.
PREVIOUS ?= $(shell git describe --tags --abbrev=0 2>/dev/null || git log -1 --format=%h -- migrations)
CUT ?= 40

# Without VCS stamps: VERSION says it, and stamping fails where the clone belongs to another user.
GO_BUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-X main.version=$(VERSION) \
	-X main.commit=$(shell git rev-parse --short=12 HEAD 2>/dev/null) -X main.date=$(shell git show -s --format=%cI 2>/dev/null)"
# A tool module of its own keeps the linter's dependencies out of the program's.
LINT = go tool -modfile=tools/go.mod

.PHONY: help build demo test lint vuln fuzz alerts chart manifests package snapshot net sim soak outages partitions blackhole faults bench containers screenshots clean postgres chromium node

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

build: ## bin/worker, bin/demo and bin/endpoint, static
	$(GO_BUILD) -o bin/ ./cmd/worker ./cmd/demo ./cmd/endpoint

demo: postgres build ## the whole on this machine: servers, replicas, events, a kill, the account (ARGS=...)
	bin/demo $(ARGS)

test: postgres chromium ## the tests but those of faults, chart and package, shuffled; an outage lasts a second; RACE=1: with the race detector, as CI does, for twice as long
	@set -- $(if $(RACE),-race); \
	if [ "$$(go env CGO_ENABLED)" = 1 ] && ! echo '#include <stdlib.h>' | $$(go env CC) -E - >/dev/null 2>&1; \
	then export CGO_ENABLED=0; fi; \
	if [ $$# = 1 ] && [ "$$(go env CGO_ENABLED)" = 0 ]; \
	then echo "test: the race detector needs a C compiler with its headers"; exit 1; fi; \
	set -x; go test "$$@" -parallel=$(if $(RACE),4,8) $(TESTFLAGS) -shuffle=on -timeout=30m ./... && \
	go test $(TESTFLAGS) ./internal/outbox -run '^TestSimulation$$' -count=1 -sim.histories=100000

lint: ## golangci-lint (.golangci.yml), gofmt, go mod tidy
	$(LINT) golangci-lint run
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not as gofmt writes it:"; echo "$$unformatted"; exit 1; fi
	go mod tidy -diff

vuln: ## known vulnerabilities in what the binaries call; needs vuln.go.dev
	scripts/vuln.sh

alerts: ## the rules for Prometheus: each alert firing and silent, twelve outages, the dashboard's queries (promtool)
	scripts/alerts.sh

chart: ## the Helm chart without a cluster: linted, rendered over five sets of values, decoded strictly, held against its rules
	cd tools/chart && go test $(TESTFLAGS) ./...

manifests: ## deploy/manifests, rendered anew from the chart
	cd tools/chart && go test . -run '^TestManifests$$' -update

package: ## what a release has, for this machine alone: binary, bill of materials, chart; .goreleaser.yaml is read
	scripts/package.sh

snapshot: ## a whole release by GoReleaser, published nowhere, into dist; compiles GoReleaser first, for many minutes
	scripts/snapshot.sh

fuzz: ## every fuzz target for FUZZTIME=30s
	scripts/fuzz.sh $(FUZZTIME)

net: postgres ## MINUTES=2 of random histories on the simulation's tables and on Postgres, compared after each step (ARGS=-net.seed=N)
	go test $(TESTFLAGS) ./internal/outbox -run '^TestHistoriesOnPostgres$$' -count=1 -timeout=24h -v -net.for=$(MINUTES)m $(ARGS)

sim: postgres ## HISTORIES=2000000 random histories in memory, with virtual time (ARGS=-sim.seed=N)
	go test $(TESTFLAGS) ./internal/outbox -run '^TestSimulation$$' -count=1 -timeout=24h -v -sim.histories=$(HISTORIES) $(ARGS)

soak: postgres ## MINUTES=2, or REQUESTS=1000000, of faults on one to six replicas, then the account: none lost, none twice (ARGS=...)
	$(GO_BUILD) -o bin/ ./cmd/worker ./cmd/soak
	bin/soak $(if $(filter 0,$(REQUESTS)),-minutes=$(MINUTES),-requests=$(REQUESTS)) $(ARGS)

bench: postgres ## the worker beside a loop that keeps nothing: ratios with their spread (ARGS=-small|-only ...|-out docs)
	$(GO_BUILD) -o bin/ ./cmd/worker ./cmd/bench
	bin/bench $(ARGS)

outages: postgres ## OUTAGE=1m each without Postgres, without NATS and without Flex, and five rounds with three servers of NATS, under load
	cd cmd/worker && go test $(TESTFLAGS) -run 'Away$$|FlexBroken$$|ThreeServers$$' -parallel=2 -timeout=60m -outage=$(OUTAGE)

partitions: postgres ## one of two replicas loses the way to NATS, Postgres or Flex, or its answers, for PARTITION=40s (root)
	cd cmd/worker && go test $(TESTFLAGS) -run '^TestPartition$$' -count=1 -timeout=30m -v -partition=$(PARTITION)

blackhole: postgres ## the way to Twilio lost for 65 s under a call, with default settings: one interaction (root; two minutes)
	cd cmd/worker && go test $(TESTFLAGS) -run '^TestBlackHole$$' -count=1 -timeout=20m -v -blackhole

faults: postgres ## what takes long or needs more than Go: clocks, 20 replicas, two versions (PREVIOUS=tag), pgbouncer, no memory (Linux, root; five minutes)
	scripts/faults.sh
	cd cmd/worker && go test $(TESTFLAGS) -tags faults -run '^Test($(FAULTS))$$' -count=1 -timeout=60m -v -previous=$(PREVIOUS)

containers: ## Dockerfile and docker-compose.yml on a Docker engine: a kill, cut networks, the account (root where no engine runs)
	CUT=$(CUT) scripts/containers.sh

screenshots: postgres chromium ## a picture of each screen of the page, into docs/screens
	go test $(TESTFLAGS) ./internal/admin/page -run '^TestScreens$$' -count=1 -screenshots=$(CURDIR)/docs/screens

clean: ## remove bin/ and what tests left
	rm -rf bin dist coverage.out
	go clean -testcache

postgres:
	@scripts/postgres.sh

chromium: node
	@scripts/chromium.sh

node:
	@scripts/node.sh
