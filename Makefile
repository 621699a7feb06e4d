# Everything starts here: `make` lists what there is. Nothing is installed outside .venv, but for
# Chromium, which tests of the page need: `make test` asks apt for it where it may.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Folders in the order of their longest file, so that no worker is left with a long one at the end.
INTEGRATION       := training serving retrieval cluster evaluation
TWO_FILES_AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check lint audit lock up down clean setup setup-test

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup  ## set up, then fine-tune, serve and answer on this machine
	@$(BIN)/python examples/demo.py

test: setup-test  ## set up what tests need, then run all tests
	@$(BIN)/python -m pytest tests/unit tests/manifests -n auto --durations=10
	@GOMP_SPINCOUNT=10000 $(BIN)/python -m pytest $(INTEGRATION:%=tests/integration/%) $(TWO_FILES_AT_ONCE) --durations=10

check: lint  ## format, lint, types and unit tests: what must pass before every commit
	@$(BIN)/python -m pytest tests/unit -n auto

lint: setup-test  ## format, lint and types alone
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary --num-workers auto

# Of every version of Ray: its jobs API asks for no proof of identity. Ours asks for a token (docs/operations.md).
KNOWN_VULNERABILITIES := CVE-2023-48022

audit: setup  ## known vulnerabilities of all that is installed; asks osv.dev
	@$(BIN)/python -m pip install --quiet 'pip-audit>=2.10,<3'
	@$(BIN)/pip-audit --vulnerability-service osv $(KNOWN_VULNERABILITIES:%=--ignore-vuln %) --skip-editable --progress-spinner off

lock: setup  ## the versions that images are built with, into constraints.txt: the newest of those that are allowed
	@$(BIN)/python -m cluster.constraints

up: setup  ## start Ray on this machine
	@$(BIN)/python -m cluster up

down: $(BIN)/python  ## stop Ray and all that it runs
	@$(BIN)/python -m cluster down

clean:  ## delete the environment and caches (models and data in HAMLET_HOME stay)
	@if [ -x $(BIN)/ray ]; then $(BIN)/python -m cluster down; fi
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(BIN)/python
	@$(BIN)/python -m cluster.install

setup-test: $(BIN)/python
	@$(BIN)/python -m cluster.install --with test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }
