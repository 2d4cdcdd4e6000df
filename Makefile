# Each target does all its own set-up. Only make and Python 3.11 or newer are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= demo
DATA ?=

.PHONY: demo test lint types bundles bundle-check bench clean

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -e ".[dev]" -c constraints.txt
	touch $(READY)

demo: $(READY)
	$(BIN)/monai-lgg demo --output "$(DEMO)" $(if $(DATA),--data "$(DATA)")

test: lint types $(READY)
	$(BIN)/python -m pytest --cov=monai_lgg --cov-report=term-missing:skip-covered --cov-fail-under=90

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

bundles: $(READY)
	$(BIN)/python scripts/build_bundles.py

bundle-check: $(READY)
	$(BIN)/python -m pytest tests/test_bundles.py

bench: $(READY)
	$(BIN)/python scripts/benchmark_training.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage
