# Each target first makes .venv with the exact versions of requirements.lock and the package in it.
# Nothing is assumed but Python 3.11 or newer, make, and a package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: setup demo test lint bench chaos lock

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

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -W ignore -m benchmarks.speed

chaos: $(STAMP)
	$(BIN)/python -W ignore -m benchmarks.chaos

lock:
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --extra dev --extra heif --extra openvino pyproject.toml -o requirements.lock
