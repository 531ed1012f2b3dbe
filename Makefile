# Each target does its own set-up on a bare Debian 12 with Rust. ARGS is handed on, for example:
#   make run ARGS="--state /var/lib/nebula --sip-port 5070"
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Outside the clone, so that a second clone builds in seconds.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/nebula/target
BIN := $(CARGO_TARGET_DIR)/release
ARGS ?=

.PHONY: help run release test soak fuzz lint demo bench bench-micro bench-peers

help: ## What can be done here
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: release ## Build and start the whole system with an embedded store
	@exec $(BIN)/nebula up $(ARGS)

release:
	@scripts/install build
	cargo build --release --locked -p nebula -p nebula-dataplane -p nebula-load

test: ## Install what the tests need, peers included, and run all of them
	@scripts/install build test
	cargo build --locked --workspace --all-targets
	cargo nextest run --locked --workspace --no-fail-fast $(ARGS)
	@scripts/fuzz 3

fuzz: ## Fuzz each parser for ARGS seconds (10), on nightly; FUZZ_ROLES=1 for those that need the roles, too
	@scripts/install build
	@scripts/fuzz $(ARGS)

lint: ## Formatting, clippy, rustdoc, licences: warnings are errors
	@scripts/install build lint
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
	cargo deny --locked check bans licenses sources

soak: release ## Break everything under 500 calls, 20 rounds, and print the fault table (ARGS="--calls 50 --rounds 1")
	@scripts/install test
	cargo build --release --locked -p nebula-tests --bin nebula-soak
	@$(BIN)/nebula-soak $(ARGS)

demo: release ## Start the system on free ports, place 50 real calls with audio and print what came of them
	@scripts/demo $(BIN) $(ARGS)

bench: release ## Measure against rtpengine and print one table
	@scripts/install bench
	cargo build --release --locked -p nebula-bench --features libsrtp
	cargo build --release --locked -p nebula-bus --example rpc_round_trip
	@bench/run $(BIN) $(ARGS)

bench-micro: ## Time the parts of a packet's path: SRTP, parsing, latch, rings, a turn (ARGS="turn/AES" picks some)
	@scripts/install build
	cargo bench --locked -p nebula-simd -p nebula-ring -p nebula-core -- $(ARGS)

bench-peers: ## Hold the relay against rtpengine and a bare relay, all rows three times (ARGS=--quick: once, in a minute)
	@scripts/install build peers
	cargo build --release --locked -p nebula-dataplane -p nebula-bench --bin nebula-dataplane --bin relay-bench
	@bench/run $(BIN) peers $(ARGS)
