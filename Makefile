# `make train` and `make test` are all a newcomer needs; `make help` lists the rest.

PYTHON  ?= python3
DATASET ?= synthetic
METHOD  ?= darlr
SEEDS   ?= 0,1,2
WORKDIR ?= runs/$(DATASET)_$(METHOD)
# Of `make soak`: what part of it.
SHARE ?= 1
# Empty means: as the preset says (EPOCHS), not needed (DATA_DIR), nothing (ARGS).
EPOCHS   ?=
DATA_DIR ?=
ARGS     ?=

VENV := .venv
BIN  := $(VENV)/bin
# Compilation dominates the tests: the workers, and the next run, share what is compiled.
KEPT := JAX_COMPILATION_CACHE_DIR="$(CURDIR)/.cache/jax"
TEST := $(KEPT) $(BIN)/python -m pytest
# Nor are programs optimised that run for a moment: that is half of their compilation.
QUICK := XLA_FLAGS="--xla_backend_optimization_level=0 $(XLA_FLAGS)"
DATA_FLAGS = --dataset="$(DATASET)" $(if $(DATA_DIR),--data_dir="$(DATA_DIR)")

.DEFAULT_GOAL := help
.PHONY: help train test lint types audit unit slow soak gpu format bench bench-quick bench-report clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

train: $(VENV)/installed-plots ## train METHOD on DATASET (DATA_DIR, SEEDS, EPOCHS, WORKDIR, ARGS)
	$(BIN)/python -m experiments.train $(DATA_FLAGS) --method="$(METHOD)" \
	  --seeds="$(SEEDS)" --workdir="$(WORKDIR)" \
	  $(if $(EPOCHS),--epochs="$(EPOCHS)") $(ARGS)

test: lint types audit unit ## lint, types, audit and tests: what has to pass

lint: $(VENV)/installed-dev ## style of the source
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev ## types of the source
	$(BIN)/mypy

audit: $(VENV)/installed-dev ## versions, installed files and source, without a network
	$(BIN)/python -m launch.audit

unit: $(VENV)/installed-dev ## the tests that need neither minutes nor an accelerator
	JAX_PLATFORMS=cpu $(QUICK) $(TEST) -n 2 --dist worksteal --durations=25 \
	  -m "not slow and not gpu" $(ARGS)

slow: $(VENV)/installed-dev ## the tests that take long
	JAX_PLATFORMS=cpu $(TEST) -m "slow and not gpu" $(ARGS)

soak: $(VENV)/installed-dev ## kills, damage, full disks, long runs: SHARE of some hours
	JAX_PLATFORMS=cpu DARLR_SOAK="$(SHARE)" $(TEST) -s -m "not gpu" $(ARGS) tests/soak

# Not in .venv, whose pins have no CUDA: there every such test is skipped.
gpu: ## the tests that need a GPU, by a PYTHON with '.[cuda13,dev]'
	@$(PYTHON) -c 'import jax, sys; sys.exit(jax.default_backend() != "gpu")' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no JAX that sees a GPU; choose one of an environment with" \
	    "'.[cuda13,dev]', as: make gpu PYTHON=/path/to/python" >&2; exit 1; }
	$(KEPT) $(PYTHON) -m pytest -m gpu $(ARGS)

format: $(VENV)/installed-dev ## rewrite the source in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed-plots ## throughput of METHOD on DATASET, as one line of JSON
	$(BIN)/python -m benchmarks.throughput $(DATA_FLAGS) --method="$(METHOD)" --json $(ARGS)

bench-quick: $(VENV)/installed-plots ## measure phases and the floor in minutes; docs/speed.md
	$(BIN)/python -m benchmarks.report --quick $(ARGS)

bench-report: $(VENV)/installed-plots ## all of that, with growth curves
	$(BIN)/python -m benchmarks.report $(ARGS)

clean: ## remove the virtual environment and every cache; runs/ stays
	rm -rf $(VENV) .cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python >= 3.11 is needed and '$(PYTHON)' is not; choose another," \
	    "as: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# One stamp for each extra, so that the second call installs nothing. Every file that is
# installed has the SHA-256 of the pins; the package itself, which has none, comes last.
$(VENV)/installed-%: setup.py $(wildcard constraints/*.txt) | $(BIN)/python
	@pip="$(BIN)/python -m pip --quiet --disable-pip-version-check install"; \
	pins=constraints/$$($(BIN)/python -c 'import sys; print("py%d%d" % sys.version_info[:2])'); \
	case $* in dev) pins=$$pins-dev.txt;; *) pins=$$pins.txt;; esac; \
	if [ -f "$$pins" ]; then set -ex; \
	  $$pip --only-binary=:all: --require-hashes --requirement="$$pins"; \
	  $$pip --no-deps --no-build-isolation --editable .; \
	else \
	  echo "$$pins does not exist: installing the newest versions, untested here"; \
	  set -x; $$pip --editable '.[$*]'; \
	fi
	@touch $@
