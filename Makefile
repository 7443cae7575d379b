# The only command runner: `make help` lists what there is. CI calls the same targets.

.DEFAULT_GOAL := help
.PHONY: help demo test crash soak mutants bench-spool check audit generate

# Two compilers at a time: more only fight over a small machine.
export CARGO_BUILD_JOBS ?= 2
CARGO ?= cargo

PROMISES := $(shell sed -n '/^\[\[test\]\]/{n;s/name = "\(.*\)"/\1/p}' tests/Cargo.toml)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Watch an outage: mail is kept, then delivered byte for byte (about 15 seconds after the build)
	@echo "Building (some minutes the first time) ..."
	@$(CARGO) build --quiet --package backupmx-relay --package backupmx-tests --bins
	@$${CARGO_TARGET_DIR:-target}/debug/demo

# Those that wait for a cluster most of the time run many at a time; the others measure, and would disturb each other.
test: ## Install what the tests need (as root on Debian; else it is named), then run them all
	@tests/tools/packages.sh
	@tests/tools/kubernetes.sh >/dev/null
	$(CARGO) build --workspace --all-targets
	@begun=$$(date +%s); $(CARGO) test --workspace --lib --bins $(addprefix --test ,$(filter-out reconciles,$(PROMISES))) && \
		RUST_TEST_THREADS=10 $(CARGO) test --workspace --test reconciles; code=$$?; \
		echo "tests took $$(($$(date +%s) - begun)) s, building not counted; budget: relay 180 s," \
		"crash simulation 60 s, real faults 120 s, control plane 120 s"; exit $$code

crash: ## Live one simulated life again and tell it: make crash SEED=4711
	@test -n "$(SEED)" || { echo "Name the life: make crash SEED=4711" >&2; exit 2; }
	SEED=$(SEED) $(CARGO) test --package backupmx-tests --test survives_crashes every_recipient -- --nocapture

soak: ## A million crashes, 200 kills, faults at every call, a million conversations, a thousand resources (hours); note the results in docs/reliability.md and docs/performance.md
	@tests/tools/packages.sh
	CRASHES=$${CRASHES:-1000000} $(CARGO) test --release --package backupmx-tests --test survives_crashes -- --nocapture
	$(CARGO) build --release --package backupmx-relay --package backupmx-tests --bins
	SOAK=1 $(CARGO) test --release --package backupmx-tests --test survives_kill --test bears_a_sick_disk -- --nocapture
	CASES=$${CASES:-1000000} $(CARGO) test --release --package backupmx-tests --test reads_alike_however_it_is_cut -- --nocapture
	@tests/tools/kubernetes.sh >/dev/null
	$(CARGO) build --release --package backupmx-operator
	SOAK=1 $(CARGO) test --release --package backupmx-tests --test reconciles many -- --nocapture

mutants: ## Show that the crash simulation can fail: each planted defect must be caught (about half an hour)
	@tests/tools/mutants.sh

bench-spool: ## Measure the spool on the disk below target/ (some minutes, 6 GiB; or: make bench-spool ARGS=--quick)
	@echo "Building (some minutes the first time) ..."
	@$(CARGO) build --quiet --release --package backupmx-tests --bin bench-spool
	@$${CARGO_TARGET_DIR:-target}/release/bench-spool --folder "$${CARGO_TARGET_DIR:-target}" $(ARGS)

check: ## Format, lints, what dependencies may be, generated files, and each crate on its own
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- --deny warnings
	@for package in backupmx-relay-api backupmx-relay backupmx-operator backupmx-tests; do \
		echo "cargo check --package $$package"; \
		$(CARGO) check --quiet --package $$package || exit 1; \
	done
	@deny=$$(tests/tools/cargo-deny.sh) && echo "cargo deny check" && $$deny --locked check bans licenses sources
	@$(MAKE) --no-print-directory generate
	@git diff --exit-code --stat -- crds/backupmx.yaml docs/relay-help.txt docs/openapi.json || { echo "These were not current; commit them"; exit 1; }

# By hand, not in CI: an advisory published today is no fault of the change that CI looks at.
audit: ## Look for known holes in the dependencies (asks the network); note the result in SECURITY.md
	@deny=$$(tests/tools/cargo-deny.sh) || exit 1; \
		$$deny fetch db || { echo "Nothing was checked: the advisory database cannot be fetched. With a mirror of it:" \
			"git config --global url.<mirror>.insteadOf https://github.com/RustSec/advisory-db" >&2; exit 1; }; \
		for database in "$${CARGO_HOME:-$$HOME/.cargo}"/advisory-dbs/advisory-db-*/; do \
			git -C "$$database" log -1 --format='Advisories as of %cs (%h)'; \
		done; \
		$$deny --locked check advisories

generate: ## Write the files that are made from the code
	@$(CARGO) build --quiet --workspace --all-targets # what `make test` builds, so that nothing is built twice
	@$${CARGO_TARGET_DIR:-target}/debug/backupmx-operator crd > crds/backupmx.yaml
	@$${CARGO_TARGET_DIR:-target}/debug/backupmx-relay --help > docs/relay-help.txt
	@$${CARGO_TARGET_DIR:-target}/debug/openapi > docs/openapi.json
