# `make help` lists the targets. Nothing here needs an environment variable,
# but any Python from 3.11 on may be chosen: make test PYTHON=python3.12

# What XLA asks of the system at each step comes in huge pages, where there are
# any (results/training_knobs).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# The first of these that is at least Python 3.11 makes .venv.
PYTHON = python3 python3.12 python3.11
# The interpreters whose versions constraints.txt holds, oldest first.
PYTHONS = python3.11 python3.12

BIN = .venv/bin
INSTALLED = .venv/.installed
SUPPORTED = import sys; sys.exit(sys.version_info < (3, 11))

.PHONY: help install test lint format quickstart constraints clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' \
	  $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv and install the package into it, once

test: lint ## Run the linters, then every test, the slow ones included
	$(BIN)/python -m pytest -m alone
	$(BIN)/python -m pytest -m 'not alone' --numprocesses auto \
	  --maxprocesses 4 --dist loadfile

lint: $(INSTALLED) ## Check style, format, imports between rooms, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: $(INSTALLED) ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quickstart: $(INSTALLED) ## Convert, uptrain and compare a small model on CPU
	JAX_PLATFORMS=cpu $(BIN)/python -m experiments.quickstart

constraints: ## Resolve constraints.txt anew from what the package index offers
	.ci/constraints $(PYTHONS)

clean: ## Remove .venv, builds and caches; results and runs stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache \
	  .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@for python in $(PYTHON); do \
	  if $$python -c '$(SUPPORTED)' >/dev/null 2>&1; then \
	    echo "Installing into .venv with $$python; this takes minutes, once."; \
	    exec $$python -m venv .venv; \
	  fi; \
	done; \
	echo "gqa_flax needs Python 3.11 or later and found none among: $(PYTHON)" \
	  "(choose one with: make PYTHON=/path/to/python3.12)." >&2; \
	exit 1
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.[test,quickstart]' --constraint constraints.txt
	@touch $@
