# `make demo` and `make test` need Python 3.11 or newer and make; they create .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-upstream lint bench clean

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh

test: lint $(VENV)/.torchao
	$(BIN)/python -m pytest

# transformers' own common tests on our models; downloads them once. For pytest: make test-upstream ARGS="-k alibi"
test-upstream: $(INSTALLED)
	$(BIN)/python scripts/test_upstream.py $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(INSTALLED)
	$(BIN)/python scripts/benchmark.py --output results/benchmark.json

clean:
	rm -rf $(VENV) runs build src/*.egg-info .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bipe-hf needs Python 3.11 or newer; choose one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

# The tests alone have torchao: once it is there, importing transformers prints what of it fits no CPU.
$(VENV)/.torchao: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[torchao]'
	touch $(VENV)/.torchao
