# DivBase. `make help` lists what there is to do; `setup` needs nothing but Python 3.11 or later.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
# Tests run side by side, one worker a core.
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: help setup demo test test-fast cluster-up cluster-down test-cluster lint docs bench clean

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

test: lint ## Everything: lint, then every test
	$(BIN)/python -m pytest -n $(WORKERS)

test-fast: $(STAMP) ## The tests that take no time, without lint
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

cluster-up: ## A SLURM cluster in containers; as root on Debian and Ubuntu, Docker Engine is installed if missing
	@if [ "$$(id -u)" = 0 ]; then slurm-docker-cluster/cluster install; fi
	slurm-docker-cluster/cluster up

cluster-down: ## Remove the containers, the network and the volumes of the cluster
	slurm-docker-cluster/cluster down

test-cluster: $(STAMP) ## The tests on the cluster, which is started and stopped if it is not up
	@if [ "$$(id -u)" = 0 ]; then slurm-docker-cluster/cluster install || true; fi
	DIVBASE_CLUSTER=1 $(BIN)/python -m pytest -m cluster

lint: $(STAMP) ## ruff, mypy --strict, import contracts, shellcheck, generated pages; FIX=1 mends what ruff can
	$(BIN)/ruff check $(if $(FIX),--fix) .
	$(BIN)/ruff format $(if $(FIX),,--check) .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck tests/golden/*.sh .ci/run slurm-docker-cluster/cluster slurm-docker-cluster/role
	$(BIN)/python docs/generate.py --check

docs: $(STAMP) ## Write the generated pages: settings, command line, OpenAPI
	$(BIN)/python docs/generate.py

bench: $(STAMP) ## Measure: transfers, API latency, query overhead (some minutes)
	$(BIN)/python -m benchmarks

clean: ## Remove what was made: .venv, caches, the demo's data
	rm -rf .venv build demo-data .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
