# The only command runner: `make help` lists what there is. CI calls the same targets.

.DEFAULT_GOAL := help
.PHONY: help demo demo-kubernetes test tools image cluster-up cluster-down crash soak mutants bench-spool bench-pass-through check audit generate

# Two compilers at a time: more only fight over a small machine.
export CARGO_BUILD_JOBS ?= 2
CARGO ?= cargo

PROMISES := $(shell sed -n '/^\[\[test\]\]/{n;s/name = "\(.*\)"/\1/p}' tests/Cargo.toml)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Watch an outage: mail is kept, then delivered byte for byte (about 15 seconds after the build)
	@echo "Building (some minutes the first time) ..."
	@$(CARGO) build --quiet --package backupmx-relay --package backupmx-tests --bins
	@$${CARGO_TARGET_DIR:-target}/debug/demo

# Their cluster is another one than that of `make cluster-up`, so that both may be up.
TEST_CLUSTER = CLUSTER_STATE=$${XDG_CACHE_HOME:-$$HOME/.cache}/backupmx/test-cluster

# Those that wait for a cluster most of the time run many at a time; the others measure, and would disturb each other.
test: ## Install what the tests need (as root on Debian; else it is named), then run them all
	@$(MAKE) --no-print-directory tools
	$(CARGO) build --workspace --all-targets
	@$(TEST_CLUSTER) tests/cluster/images.sh
	@begun=$$(date +%s); \
		$(CARGO) test --workspace --lib --bins $(addprefix --test ,$(filter-out reconciles runs_on_kubernetes,$(PROMISES))) && relay=$$(date +%s) && \
		RUST_TEST_THREADS=10 $(CARGO) test --workspace --test reconciles && control=$$(date +%s) && \
		RUST_TEST_THREADS=16 $(CARGO) test --workspace --test runs_on_kubernetes; code=$$?; end=$$(date +%s); \
		echo "tests took $$((end - begun)) s, building not counted:" \
			"relay, crash simulation, real faults $$(($${relay:-$$end} - begun)) s (budget 360)," \
			"control plane $$(($${control:-$$end} - $${relay:-$$end})) s (120), cluster $$((end - $${control:-$$end})) s (480)"; exit $$code

# Foreign programs, built or fetched once, outside the clone.
tools:
	@tests/tools/packages.sh
	@env -u KUBEBUILDER_ASSETS tests/tools/kubernetes.sh >/dev/null # such a folder has no kubelet
	@tests/tools/helm.sh >/dev/null
	@tests/tools/definitions.sh >/dev/null

image: ## Build the images of relay and operator with docker, podman or buildah; pulls nothing (some minutes)
	@./images.sh

cluster-up: ## Bring up a real Kubernetes of one node on this machine, with our images in it (as root on Debian)
	@$(MAKE) --no-print-directory tools
	@tests/cluster/images.sh
	@tests/cluster/up.sh

cluster-down: ## End it, and remove what it left
	@tests/cluster/down.sh

demo-kubernetes: ## Watch the same outage on a real Kubernetes: chart, ten lines of YAML, mail kept and delivered (a minute after the builds)
	@$(MAKE) --no-print-directory tools
	@$(TEST_CLUSTER) tests/cluster/images.sh
	@echo "Building (some minutes the first time) ..."
	@$(CARGO) build --quiet --package backupmx-tests --bins
	@$${CARGO_TARGET_DIR:-target}/debug/demo-kubernetes

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

bench-pass-through: ## Measure what passing through to the primary costs, beside the primary alone (two minutes; or: ARGS=--quick)
	@echo "Building (some minutes the first time) ..."
	@$(CARGO) build --quiet --release --package backupmx-relay --package backupmx-tests --bins
	@$${CARGO_TARGET_DIR:-target}/release/bench-pass-through $(ARGS)

check: ## Format, lints, what dependencies may be, generated files, chart and examples, and each crate on its own
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- --deny warnings
	@for package in backupmx-relay-api backupmx-relay backupmx-operator backupmx-tests; do \
		echo "cargo check --package $$package"; \
		$(CARGO) check --quiet --package $$package || exit 1; \
	done
	@deny=$$(tests/tools/cargo-deny.sh) && echo "cargo deny check" && $$deny --locked check bans licenses sources
	@$(MAKE) --no-print-directory generate
	@tests/tools/chart.sh
	@git diff --exit-code --stat -- crds/backupmx.yaml charts/backupmx/files/crd.yaml docs/relay-help.txt docs/openapi.json || { echo "These were not current; commit them"; exit 1; }

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
	@cp crds/backupmx.yaml charts/backupmx/files/crd.yaml # Helm reads nothing outside the chart
	@$${CARGO_TARGET_DIR:-target}/debug/backupmx-relay --help > docs/relay-help.txt
	@$${CARGO_TARGET_DIR:-target}/debug/openapi > docs/openapi.json
