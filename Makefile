# DivBase. `make help` lists what there is to do; `setup` needs nothing but Python 3.11 or later.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
export PYTHON
BIN := .venv/bin
STAMP := .venv/installed
CLUSTER_SCRIPT := slurm-docker-cluster/cluster
# Some machines forbid Python to keep what it compiled; the tests start our programs hundreds of times.
unexport PYTHONDONTWRITEBYTECODE
# Tests run side by side, one worker a core, and two more: those of the cluster, and those of whole stacks, mostly wait.
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: help setup demo demo-slurm demo-slurm-here test test-here test-fast test-matrix cluster-up cluster-down lint bench clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with pinned versions of everything

$(STAMP): requirements.txt cli/pyproject.toml jobscripts/pyproject.toml gateway/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "DivBase needs Python 3.11 or later; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  -e cli -e jobscripts -e gateway
	@touch $@

demo: $(STAMP) ## A researcher's day on this machine; KEEP=1 leaves DivBase running afterwards
	$(BIN)/python -m demo $(if $(KEEP),--keep)

demo-slurm: ## The same day on the SLURM cluster in containers, and the same result from both; KEEP=1 leaves it up
	@$(if $(KEEP),DIVBASE_KEEP_CLUSTER=1) $(CLUSTER_SCRIPT) around $(MAKE) --no-print-directory demo-slurm-here

demo-slurm-here: $(STAMP)
	$(BIN)/python -m demo --slurm $(if $(KEEP),--keep)

test: ## Everything: lint, then all tests; the cluster starts meanwhile. ONLY=cluster: those, no lint
	@$(CLUSTER_SCRIPT) around $(MAKE) --no-print-directory test-here

test-here: $(if $(ONLY),$(STAMP),lint)
	DIVBASE_CLUSTER=1 $(BIN)/python -m pytest -n $$(($(WORKERS) + 2)) --dist loadgroup $(if $(ONLY),-m '$(ONLY)')

test-fast: $(STAMP) ## The tests of what needs no server and starts no program, on SQLite: a minute on two cores
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not cluster" tests/unit tests/contract tests/integration

test-matrix: $(STAMP) ## The tests of the cluster on SLURM 22.05, 24.11 and 26.05; writes docs/compatibility.md
	$(BIN)/python -m tests.cluster.matrix $(RELEASES)

cluster-up: ## A SLURM cluster in containers; as root on Debian and Ubuntu, Docker Engine is installed if missing
	$(CLUSTER_SCRIPT) start

cluster-down: ## Remove the containers, the network and the volumes of the cluster
	$(CLUSTER_SCRIPT) down

lint: $(STAMP) ## ruff, mypy --strict, import contracts, shellcheck, generated pages; FIX=1 mends and generates
	$(BIN)/ruff check $(if $(FIX),--fix) .
	$(BIN)/ruff format $(if $(FIX),,--check) .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck tests/golden/*.sh .ci/run $(CLUSTER_SCRIPT) slurm-docker-cluster/role
	$(BIN)/python docs/generate.py $(if $(FIX),,--check)

bench: $(STAMP) ## Measure: transfers, API latency, query overhead (some minutes)
	$(BIN)/python -m benchmarks

clean: ## Remove what was made: .venv, caches, the demo's data
	rm -rf .venv build demo-data slurm-docker-cluster/weed \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
