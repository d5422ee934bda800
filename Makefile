# make demo         create the environment, install locked versions, run recipes/quickstart.yaml
# make test         create the environment, install locked versions, check and test everything
# make test-lowest  test core and the PyTorch plugin with the lowest versions that pyproject.toml allows
# make test-newest  test everything with what the package index serves today
# make upgrade      resolve pyproject.toml anew, write the locks, and run `make test` with them
#
# PYTHON chooses the interpreter, VENV the environment (an existing one keeps its interpreter),
# MINDSPORE=no leaves MindSpore out (its tests are skipped and say so), LOCK another set of versions.

PYTHON ?= python3
VENV ?= .venv
MINDSPORE ?= yes
BIN := $(VENV)/bin
comma := ,
VERSION := $(shell $(or $(wildcard $(BIN)/python),$(PYTHON)) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
$(if $(VERSION),,$(error $(PYTHON) does not run here; choose another interpreter with: make PYTHON=python3.12 ...))
# MindSpore's wheels stop at Python 3.12
LOCK ?= $(firstword $(wildcard $(if $(filter yes,$(MINDSPORE)),requirements/python$(VERSION)-mindspore.txt)) requirements/python$(VERSION).txt)
EXTRAS := torch,onnx,digits,tensorboard,dev$(if $(findstring mindspore,$(LOCK)),$(comma)mindspore)
# Many tests wait for processes, so three workers keep two cores busy; a whole file goes to one of them,
# which sets its fixtures up once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile -rs

.PHONY: demo test test-slow test-core test-lowest test-newest upgrade check format clean
.DELETE_ON_ERROR:

requirements/python%.txt:
	@echo 'Python 3.10 to 3.13 is needed, $(PYTHON) is $(VERSION); choose another with: make PYTHON=python3.12 ...' >&2; exit 2

$(VENV)/.vision-runner: pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q core plugins  # as pip does with what is not editable
	touch $@

demo: $(VENV)/.vision-runner
	$(BIN)/runner run recipes/quickstart.yaml

test: check
	$(PYTEST) -m 'not slow'

test-slow: $(VENV)/.vision-runner
	$(PYTEST) -m slow

test-lowest:
	$(MAKE) VENV=$(VENV)-lowest PYTHON=python3.10 LOCK=requirements/python3.10-lowest.txt test-core

# the oldest packages say of the newest ones next to them that they are deprecated
test-core: $(VENV)/.vision-runner
	$(PYTEST) -W ignore::DeprecationWarning -m 'not slow' tests/core tests/contracts tests/plugins/torch

test-newest:
	$(PYTHON) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --upgrade --editable '.[$(EXTRAS)]'
	touch $(VENV)-newest/.vision-runner
	$(MAKE) VENV=$(VENV)-newest test

upgrade: $(VENV)/.vision-runner
	PATH="$(abspath $(BIN)):$$PATH" requirements/lock.sh
	$(MAKE) test

check: $(VENV)/.vision-runner
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.vision-runner
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-lowest .venv-newest runs dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
