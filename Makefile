# make demo    create the environment, install, run recipes/quickstart.yaml
# make test    create the environment, install, check and test everything
#
# PYTHON chooses the interpreter, VENV the environment (an existing one is used as it is).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := torch,onnx,digits,tensorboard,dev
# MindSpore's wheels stop at Python 3.12; without it, its tests are skipped and say so.
MINDSPORE := $(BIN)/python -c 'import sys; print(",mindspore" * (sys.version_info < (3, 13)))'

.PHONY: demo test test-slow check format clean
.DELETE_ON_ERROR:

$(VENV)/.vision-runner: pyproject.toml
	$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info[:2] <= (3, 13) or sys.exit(f"Python 3.10 to 3.13 is needed, this is {sys.version.split()[0]}; choose another with: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)$$($(MINDSPORE))]"
	touch $@

demo: $(VENV)/.vision-runner
	$(BIN)/runner run recipes/quickstart.yaml

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow' -rs

test-slow: $(VENV)/.vision-runner
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m slow -rs

check: $(VENV)/.vision-runner
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.vision-runner
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
