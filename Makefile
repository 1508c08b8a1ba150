# `make help` lists the targets. Nothing here needs an environment variable,
# but any Python from 3.11 on may be chosen: make test PYTHON=python3.11

# What XLA asks of the system at each step comes in huge pages, where there are
# any (results/training_knobs).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# The first of these that is at least Python 3.11 makes .venv.
PYTHON ?= python3.12 python3.11 python3
# The interpreters whose versions constraints.txt holds, oldest first.
PYTHONS = python3.11 python3.12
# What the tests need besides. Without hf, for example, there is no torch, and
# the tests against it are skipped: make test TEST_EXTRAS=test,beam,tpu-compile
TEST_EXTRAS = test,hf,beam,tpu-compile,docs,study

BIN = .venv/bin
SUPPORTED = import sys; sys.exit(sys.version_info < (3, 11))
PIP_INSTALL = $(BIN)/python -m pip install --quiet \
  --disable-pip-version-check --constraint constraints.txt --editable
PYTEST = $(BIN)/python -m pytest
PARALLEL = --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: help install test test-slow test-all lint format quickstart docs \
  constraints clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' \
	  $(MAKEFILE_LIST)

install: .venv/.tests ## Make .venv and install all that the tests need, once

quickstart: .venv/.quickstart ## Convert and fine-tune a public T5 on a CPU
	JAX_PLATFORMS=cpu $(BIN)/python -m experiments.quickstart

test: lint ## Run the linters and the quick tests, ten minutes on two cores
	$(PYTEST) -m 'not slow and not alone' $(PARALLEL)

test-slow: .venv/.tests ## Run the other tests, half an hour on two cores
	$(PYTEST) -m alone
	$(PYTEST) -m 'slow and not alone' $(PARALLEL)

test-all: test test-slow ## Run everything

lint: .venv/.tests ## Check style, format, imports between rooms, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: .venv/.tests ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.tests ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

constraints: ## Resolve constraints.txt again from the package index
	.ci/constraints $(PYTHONS)

clean: ## Remove .venv, builds and caches; results and runs stay
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache \
	  .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -exec rm -rf {} +

.venv/.made:
	@for python in $(PYTHON); do \
	  if $$python -c '$(SUPPORTED)' >/dev/null 2>&1; then \
	    echo "Installing into .venv with $$python; this takes minutes, once."; \
	    $$python -m venv .venv && touch $@ && exit; \
	  fi; \
	done; \
	echo "gqa_flax needs Python 3.11 or later and found none among: $(PYTHON)" \
	  "(choose one with: make PYTHON=/path/to/python3.12)." >&2; \
	exit 1

.venv/.quickstart: pyproject.toml constraints.txt | .venv/.made
	@$(PIP_INSTALL) '.[quickstart]'
	@touch $@

.venv/.tests: pyproject.toml constraints.txt | .venv/.made
	@$(PIP_INSTALL) '.[$(TEST_EXTRAS)]'
	@touch $@
