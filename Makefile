# make demo        an environment, a sample, nine feature arrays of it (under 12 minutes on 2 cores)
# make test        all tests but the long ones        make test-long   those: minutes, or real data
# make lint        style                              make types       types
# make clean       removes the environment and caches, not data/ or features/
#
# VENV=dir         where the environment goes (.venv); its path has no spaces, the checkout's may
# PYTHON=python3.12  what makes it (the first of python3.11 ... python3 that is 3.11 or newer)
# PIP_ARGS=...     passed to pip, e.g. --index-url of a CPU build of torch
# PYTEST_ARGS=...  passed to pytest; -n 0 for one test at a time (make test runs two)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-long lint types clean

VENV ?= .venv
PYTHON ?=
PIP_ARGS ?=
PYTEST_ARGS ?=

# Two tests of different files at a time: many use one core, or wait. In the order of the files, or
# the long ones, of few tests, would come last, one of them alone.
TWO_AT_A_TIME = -n 2 --dist loadfile --no-loadscope-reorder

# Targets and prerequisites stay relative, so a checkout may lie in a folder with spaces.
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
INSTALLED_TEST = $(VENV)/.installed-test
WANTED = pyproject.toml constraints.txt

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(INSTALLED)
	"$(BIN)/python" -m jobs.demo

test: $(INSTALLED_TEST)
	"$(BIN)/python" -m pytest -m "not long" $(TWO_AT_A_TIME) $(PYTEST_ARGS)

test-long: $(INSTALLED_TEST)
	"$(BIN)/python" -m pytest -m long $(PYTEST_ARGS)

lint: $(INSTALLED_TEST)
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

types: $(INSTALLED_TEST)
	"$(BIN)/mypy"

# What is installed is recorded by a file in the environment, made last: nothing is installed twice,
# an interrupted installation is taken up again, and a changed list of packages is noticed.
$(VENV)/.made:
	@python=; for name in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	    if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	        then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make: no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$($$python --version)"; \
	$$python -m venv "$(VENV)"
	@touch "$@"

$(INSTALLED): $(VENV)/.made $(WANTED)
	"$(BIN)/python" -m pip install $(PIP_ARGS) -c constraints.txt -e .
	@touch "$@"

$(INSTALLED_TEST): $(VENV)/.made $(WANTED)
	"$(BIN)/python" -m pip install $(PIP_ARGS) -c constraints.txt -e '.[test]'
	@touch "$(INSTALLED)" "$@"

clean:
	rm -rf "$(VENV)" build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
