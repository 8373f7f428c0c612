# `make demo` watches an agent learn; `make test` proves the laws; `make check` is what CI runs.
# TORCH_INDEX: a package index for torch alone, e.g. https://download.pytorch.org/whl/cpu to avoid the CUDA build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 3

.PHONY: setup demo test soak check fmt lint types layers docs api clean

# torch first, and alone: TORCH_INDEX holds torch and little else.
$(VENV)/torch.done: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	touch $@

$(VENV)/demo.done: $(VENV)/torch.done pyproject.toml
	$(PIP_INSTALL) -e '.[demo]'
	touch $@

$(VENV)/dev.done: $(VENV)/torch.done pyproject.toml
	$(PIP_INSTALL) -e '.[dev]'
	touch $@

setup: $(VENV)/dev.done

demo: $(VENV)/demo.done
	$(BIN)/agl demo

test: setup
	$(BIN)/python -m pytest -m 'not soak' -n $(WORKERS) --dist worksteal

soak: setup
	$(BIN)/python -m pytest -m soak --timeout 3600

fmt: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: setup
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: setup
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python -m pytest tests/docs -q

api: setup
	$(BIN)/python -m tests.api > api.txt
	$(BIN)/python -m tests.openapi > openapi.json
	$(BIN)/python docs/generate_reference.py > docs/reference.md
	$(BIN)/python docs/generate_lifecycle.py > docs/lifecycle.md
	$(BIN)/python docs/generate_store_rest.py > docs/store_rest.md
	$(BIN)/python docs/generate_migrate.py > docs/migrate.md

check: lint types layers docs test

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
