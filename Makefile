# Everything a fresh clone needs; `.venv` is made on first use.

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11 python; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest
OUT ?= out/demo
# For pip, such as PIP_ARGS="--index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple".
PIP_ARGS ?=

SLICER ?=
# The Python with the engine's packages that Slicer's tests use; this folder's own if not named.
ENGINE ?=
ENGINE_PYTHON = $(or $(ENGINE),$(CURDIR)/$(BIN)/python)
STORY_OUT ?= out/story
MODULES := ContrastDiagnosis ContrastDiagnosisAtlas
FOLDER := ContrastDiagnosisSlicer
# Those of the stand-ins themselves, and of their being there, have nothing to try in Slicer.
SIDE_TESTS ?= $(filter-out %/test_headless.py %/test_there.py,\
	$(sort $(wildcard Testing/Python/slicer_side/test_*.py)))

define check_slicer
	@program=$$(command -v "$(SLICER)") && [ -f "$$program" ] && [ -x "$$program" ] || { \
		echo "Name the Slicer 5.12 (or newer) program: make $@ SLICER=/path/to/Slicer" >&2; \
		[ -z "$(SLICER)" ] || echo "'$(SLICER)' is not a program that can be run." >&2; exit 1; }
endef

define check_engine
	@"$(ENGINE_PYTHON)" -c "import torch" 2>/dev/null || { \
		echo "'$(ENGINE_PYTHON)' is no Python with the engine's packages:" \
			"make $@ SLICER=... ENGINE=/path/to/python" >&2; exit 1; }
endef

.PHONY: demo test test-lowest coverage mutants bench attack pictures docs lint audit slicer slicer-test slicer-story clean

demo: $(READY)  ## diagnose a nodule of the phantom CT with the bundled weights; report in out/demo
	$(BIN)/contrastdiagnosis demo --out $(OUT)

# A core for each process: threads that wait for each other on shared cores are many times slower.
test: $(READY)  ## all tests, on up to four cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
		--dist loadfile --no-loadscope-reorder --durations=10

# uv alone resolves to the lowest versions; Python 3.11 and 3.12, for which they have wheels.
test-lowest:  ## the engine's tests with the lowest versions that pyproject.toml declares
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || \
		{ echo "The lowest versions have wheels up to Python 3.12; name one by make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		--editable ".[dev]"
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest --numprocesses auto --maxprocesses 4 \
		--dist loadfile Testing/Python/engine

# What tests start in processes of their own is not counted.
coverage: $(READY)  ## all tests, and the share of the lines that they run; fails below what was reached
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
		--dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

mutants: $(READY)  ## faults put into central functions, one at a time: do the tests see them?
	$(BIN)/python Testing/mutants.py

bench: $(READY)  ## speed and memory: a table, and bench.json
	$(BIN)/python Testing/benchmark.py --json bench.json

attack: $(READY)  ## what SECURITY.md promises, tried on this machine: a table
	$(BIN)/python Testing/attack.py

pictures: $(READY)  ## the pictures of Resources and docs made anew; needs Chromium
	$(BIN)/python Testing/pictures.py

docs: $(READY)  ## the pages of docs/ with the API, in out/docs; every link is checked
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --severity-level medium \
		$(FOLDER)/contrastdiagnosis $(FOLDER)/ContrastDiagnosisLib training/contrastdiagnosis_training

# Strict, for else a package that the index does not know counts as sound; PyTorch's CPU wheels have
# their number with `+cpu` only in its own index.
audit: $(READY)  ## known vulnerabilities of the installed packages; asks the package index
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/frozen.txt
	sed 's/+[a-z0-9.]*$$//' $(VENV)/frozen.txt > $(VENV)/installed.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)/installed.txt

slicer:  ## Slicer with the modules of this folder: make slicer SLICER=/path/to/Slicer
	$(check_slicer)
	"$(SLICER)" --additional-module-paths "$(CURDIR)/$(FOLDER)"

# Each file of them in a Slicer of its own: what ends one Slicer ends the tests of no other file.
slicer-test: $(if $(ENGINE),,$(READY))  ## in Slicer: each module's self test, with its window and without, and the tests of the panels
	$(check_slicer)
	$(check_engine)
	@failed=; for module in $(MODULES); do for window in "" --no-main-window; do \
		echo "== $$module $$window"; \
		CONTRASTDIAGNOSIS_ENGINE="$(ENGINE_PYTHON)" "$(SLICER)" --no-splash --testing $$window \
			--additional-module-paths "$(CURDIR)/$(FOLDER)" \
			--python-code "import slicer.testing; slicer.testing.runUnitTest([], '$$module')" \
			|| failed="$$failed $$module$${window:+ ($$window)}"; \
	done; done; \
	for tests in $(SIDE_TESTS); do \
		echo "== $$tests"; \
		CONTRASTDIAGNOSIS_ENGINE="$(ENGINE_PYTHON)" SLICER_SIDE_TESTS="$$tests" PIP_ARGS="$(PIP_ARGS)" \
		"$(SLICER)" --no-splash --testing --additional-module-paths "$(CURDIR)/$(FOLDER)" \
			--python-script "$(CURDIR)/Testing/slicer_side_tests.py" || failed="$$failed $$tests"; \
	done; \
	[ -z "$$failed" ] || { echo "failed in Slicer:$$failed" >&2; exit 1; }

slicer-story: $(if $(ENGINE),,$(READY))  ## the user's story in Slicer, with its window (pictures in out/story) and without
	$(check_slicer)
	$(check_engine)
	@failed=; for window in "" --no-main-window; do \
		echo "== story $$window"; \
		CONTRASTDIAGNOSIS_ENGINE="$(ENGINE_PYTHON)" CONTRASTDIAGNOSIS_STORY="$(abspath $(STORY_OUT))" \
		"$(SLICER)" --no-splash --testing $$window \
			--additional-module-paths "$(CURDIR)/$(FOLDER)" \
			--python-script "$(CURDIR)/Testing/slicer_story.py" \
			|| failed="$$failed story$${window:+ ($$window)}"; \
	done; \
	[ -z "$$failed" ] || { echo "failed in Slicer:$$failed" >&2; exit 1; }

$(READY): pyproject.toml
	@$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' || \
		{ echo "Python 3.11 or newer is needed; name one by make PYTHON=..."; exit 1; }
	@echo "Setting up $(VENV): about 4 GB to download and 8 GB of disk on Linux, of which PyTorch's"
	@echo "libraries for NVIDIA GPUs are more than half. Without a GPU, name an index with CPU wheels"
	@echo "by PIP_ARGS (README: Two commands)."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $$([ -t 2 ] || echo --quiet) --disable-pip-version-check $(PIP_ARGS) \
		--editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) out bench.json
