# Each target does all its own set-up. Only make and Python 3.11 or newer are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= demo
DATA ?=
# MONAI Label needs other versions of some packages, so it has an environment of its own; Python 3.11
LABEL_PYTHON ?= $(PYTHON)
LABEL_VENV := .venv-label
LABEL_BIN := $(LABEL_VENV)/bin
LABEL_READY := $(LABEL_VENV)/.ready
LABEL_DEMO ?= label-demo

.PHONY: demo test lint types bundles bundle-check bench clean label-env label-test label-demo label-dicom-test

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'monai-lgg needs Python 3.11 or later: make PYTHON=python3.11')"
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

$(LABEL_READY): setup.cfg pyproject.toml constraints-label.txt
	$(LABEL_PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11) and 'MONAI Label 0.8.5 needs Python 3.11: make LABEL_PYTHON=python3.11')"
	$(LABEL_PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_BIN)/python -m pip install --quiet --upgrade pip -c constraints-label.txt
	$(LABEL_BIN)/python -m pip install --quiet -e ".[label]" pytest -c constraints-label.txt
	$(LABEL_BIN)/python -m pip install --quiet --no-deps monailabel pydicom-seg -c constraints-label.txt
	touch $(LABEL_READY)

label-env: $(LABEL_READY)

label-test: $(LABEL_READY)
	$(LABEL_BIN)/python -m pytest tests/label_app tests/test_uncertainty.py tests/integration/test_label_server.py

# in a network of its own, because Orthanc cannot be told to listen on 127.0.0.1 alone
label-dicom-test: $(LABEL_READY)
	unshare --map-root-user --net $(LABEL_BIN)/python -m tests.label_offline pytest tests/integration/test_label_dicomweb.py

label-demo: $(LABEL_READY)
	$(LABEL_BIN)/monai-lgg data synth "$(LABEL_DEMO)/data" --patients 8 --seed 0 --quiet
	$(LABEL_BIN)/monai-lgg label prepare "$(LABEL_DEMO)/data" "$(LABEL_DEMO)/studies" --labelled 3 --quiet
	@cat docs/label-demo.txt
	$(LABEL_BIN)/monai-lgg label start --studies "$(LABEL_DEMO)/studies"

clean:
	rm -rf $(VENV) $(LABEL_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage
