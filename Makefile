# Two commands do everything on a machine that has Python (3.11 or newer) and make:
#   make demo    simulate a small particle set, reconstruct it, say how close the map is to the truth
#   make test    lint, types and tests
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint types tests format clean

demo: $(VENV)/installed
	$(BIN)/gem3d demo --out gem3d_demo --overwrite

test: lint types tests

lint: $(VENV)/installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: $(VENV)/installed
	$(BIN)/mypy

tests: $(VENV)/installed
	$(BIN)/python -m pytest

format: $(VENV)/installed
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

# The marker file is newer than what it was made from once the installation has succeeded.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) gem3d_demo build dist
