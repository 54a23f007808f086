# `make` alone says what there is. Every stage ends with its name and its seconds (scripts/stage.sh).

SHELL  := bash
STAGE  := scripts/stage.sh
TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV   := $(TARGET)/venv

# A rustup installation that the shell's profile has not put into PATH is found as well.
export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run ensure test check chaos load fmt cargo

help: ## print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: cargo ## build, then start everything in one process with sample data and a page (ARGS="--port 8080")
	@$(STAGE) build cargo build --bin tidings
	@exec $(TARGET)/debug/tidings demo $(ARGS)

ensure:
	@$(STAGE) ensure scripts/ensure.sh

test: cargo ensure ## every test, against real servers and a real browser; installs or names what is missing (ARGS="sse")
	@$(STAGE) venv scripts/venv.sh $(VENV)
	@$(STAGE) test scripts/test.sh $(VENV) $(ARGS)

check: cargo ## format, lints, documentation, dependencies, the scripts in other languages, manifests and alerts
	@$(STAGE) fmt cargo fmt --check
	@$(STAGE) clippy cargo clippy --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(STAGE) doc cargo doc --no-deps --document-private-items
	@$(STAGE) deny scripts/deny.sh
	@$(STAGE) scripts scripts/check.sh
	@$(STAGE) manifests scripts/manifests.sh $(TARGET)/venv-manifests

chaos: cargo ensure ## the long fault injection run
	@TIDINGS_CHAOS=full $(STAGE) chaos cargo test --release --test it -- chaos:: flood:: hop:: revocations:: expiries:: stalled:: crowd:: outages:: silent:: away:: watched:: poll:: ws_abuse:: presence_departures:: presence_cluster:: rolling:: --nocapture --test-threads=1

load: cargo ## what streams cost and how soon updates come, beside a bare server and our goals; about four minutes
	@$(STAGE) build cargo build --release --example load --bin tidings
	@$(STAGE) load $(TARGET)/release/examples/load all --short

fmt: cargo ## format the Rust sources
	@$(STAGE) fmt cargo fmt

cargo:
	@command -v cargo >/dev/null || { echo 'cargo is missing. Install Rust with: curl --proto "=https" --tlsv1.2 -sSf https://sh.rustup.rs | sh'; exit 1; }
