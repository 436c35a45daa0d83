# Everything a fresh clone needs; `.venv` is made on first use.

PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,$(if $(shell command -v $(p) 2>/dev/null),$(p))))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= out

.PHONY: demo test bench lint clean

demo: $(READY)  ## diagnose a nodule of the phantom CT with the bundled weights; report in out/
	$(BIN)/contrastdiagnosis demo --out $(OUT)

test: $(READY)  ## all tests
	$(BIN)/python -m pytest

bench: $(READY)  ## speed and memory: a table, and bench.json
	$(BIN)/python Testing/benchmark.py --json bench.json

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(OUT) bench.json
