# Everything runs in .venv, which is made on first use. Needs Python 3.11 or newer, git and make.

PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
SETUP := pyproject.toml constraints.txt

.PHONY: help demo test test-slow lint clean
help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

demo: .venv/.ready  ## draw, score, improve by search; writes runs/demo/report.html
	$(BIN)/impasto demo

test: lint  ## lint, types and the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-slow: .venv/.ready-test  ## the tests that take longer than a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

lint: .venv/.ready-test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove .venv and caches; runs/ is kept
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "impasto needs Python 3.11 or newer on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "could not make .venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# torch first and alone: the constraint then decides its build before anything can ask for another.
.venv/.ready: $(SETUP) | .venv/bin/python
	$(PIP) torch
	$(PIP) -e .
	touch $@

.venv/.ready-test: .venv/.ready
	$(PIP) -e '.[test]'
	touch $@
