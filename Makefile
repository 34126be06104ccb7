# make demo   set up .venv, then simulate a population and an intervention on it
# make test   set up .venv, then run the tests
# make lint   ruff and mypy
# make docs   set up .venv, then build the documentation into site/
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: setup demo test lint docs clean

setup: .venv/.installed-all

.venv/.torch:
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	@touch $@

.venv/.installed-all: .venv/.torch pyproject.toml
	$(PIP) -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python -m mfenv simulate --method mf,state --agents 178 --seeds 3 \
	  --intervention fact_check/high@1 --out runs/demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.venv/.installed-docs: .venv/.installed-all
	$(PIP) -e '.[docs]'
	@touch $@

docs: .venv/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html; with its search: $(BIN)/python -m http.server -d site"

clean:
	rm -rf .venv runs build site *.egg-info
