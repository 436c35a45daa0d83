# Everything a fresh clone needs; `.venv` is made on first use.

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11 python; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= out/demo

.PHONY: demo test bench lint clean

demo: $(READY)  ## diagnose a nodule of the phantom CT with the bundled weights; report in out/demo
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
	@$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' || \
		{ echo "Python 3.11 or newer is needed; name one by make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) out bench.json
