# Each target first makes .venv with the exact versions of requirements.lock and the package in it.
# Nothing is assumed but Python 3.11 or newer, make, and a package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# Two tests at a time, because most of the time is waiting for processes to start; tests/conftest.py divides them. Add
# options with PYTEST_ARGS, for example "-k resume".
PYTEST := $(BIN)/python -m pytest -n 2

.PHONY: setup demo test test-all test-slow lint docs bench chaos lock

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $(STAMP)

demo: $(STAMP)
	rm -rf demo
	$(BIN)/batchtag demo demo

# Before each commit: what proves that the product works, real Ray, S3 and DuckDB included. Only here are slow tests left
# out: `pytest` by itself runs what its arguments name, slow or not, so `pytest tests/x.py` never hides a test of x.
test: $(STAMP)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

# Everything: also benchmarks, trainings, the commands of the documentation, and faults injected into processes and networks.
test-all: $(STAMP)
	$(PYTEST) $(PYTEST_ARGS)

# What `make test` leaves out. `make test test-slow` is `make test-all` in two steps.
test-slow: $(STAMP)
	$(PYTEST) -m slow $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/python docs/generate_jobs.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

bench: $(STAMP)
	$(BIN)/python -W ignore -m benchmarks.speed

chaos: $(STAMP)
	$(BIN)/python -W ignore -m benchmarks.chaos

lock:
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --extra dev --extra docs --extra heif --extra openvino pyproject.toml -o requirements.lock
