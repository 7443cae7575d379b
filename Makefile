# The only command runner: `make help` lists what there is. CI calls the same targets.

.DEFAULT_GOAL := help
.PHONY: help demo test bench-spool check generate

# Two compilers at a time: more only fight over a small machine.
export CARGO_BUILD_JOBS ?= 2
CARGO ?= cargo

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Watch an outage: mail is kept, then delivered byte for byte (about 15 seconds after the build)
	@echo "Building (some minutes the first time) ..."
	@$(CARGO) build --quiet --package backupmx-relay --package backupmx-tests --bins
	@$${CARGO_TARGET_DIR:-target}/debug/demo

test: ## Install what the tests need (as root on Debian; else it is named), then run them all
	@tests/tools/packages.sh
	$(CARGO) build --workspace --all-targets
	@begun=$$(date +%s); $(CARGO) test --workspace; code=$$?; \
		echo "relay: tests took $$(($$(date +%s) - begun)) s of a budget of 180 s (building not counted)"; exit $$code

bench-spool: ## Measure the spool on the disk below target/ (some minutes, 6 GiB; or: make bench-spool ARGS=--quick)
	@echo "Building (some minutes the first time) ..."
	@$(CARGO) build --quiet --release --package backupmx-tests --bin bench-spool
	@$${CARGO_TARGET_DIR:-target}/release/bench-spool --folder "$${CARGO_TARGET_DIR:-target}" $(ARGS)

check: ## Format, lints, generated files, and each crate on its own
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- --deny warnings
	@for package in backupmx-relay-api backupmx-relay backupmx-tests; do \
		echo "cargo check --package $$package"; \
		$(CARGO) check --quiet --package $$package || exit 1; \
	done
	@$(MAKE) --no-print-directory generate
	@git diff --exit-code --stat -- docs/relay-help.txt || { echo "docs/relay-help.txt was not current; commit it"; exit 1; }

generate: ## Write the files that are made from the code
	@$(CARGO) build --quiet --package backupmx-relay
	@$${CARGO_TARGET_DIR:-target}/debug/backupmx-relay --help > docs/relay-help.txt
