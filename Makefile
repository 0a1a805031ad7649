# `make demo` and `make test` need Python 3.11 or newer and make; they create .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VLLM := .venv-vllm

.PHONY: demo test test-all test-upstream test-vllm lint docs bench gpu clean

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh

# Two processes of one thread each: small models gain nothing from more. A file stays in one of them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test: lint $(VENV)/.optional
	$(PYTEST) -m "not slow"

# What `make test` leaves out, too: more processes, more families.
test-all: lint $(VENV)/.optional
	$(PYTEST)

# transformers' own common tests on our models; downloads them once. For pytest: make test-upstream ARGS="-k alibi"
test-upstream: $(INSTALLED)
	$(BIN)/python scripts/test_upstream.py $(ARGS)

# The models in vLLM on a CPU, in an environment of 3 GB. For pytest: make test-vllm ARGS="-k drafts"
test-vllm: $(VLLM)/.installed
	PYTHONPATH=tests/vllm_plugin/stub TRITON_INTERPRET=1 OMP_NUM_THREADS=1 \
	  $(VLLM)/bin/python -m pytest --numprocesses 2 --dist loadfile tests/vllm_plugin $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The documentation site; build/site/index.html opens in a browser.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# An hour on an idle machine. Goes on where it was stopped; after a change of the model code: make bench ARGS=--fresh
bench: $(INSTALLED)
	$(BIN)/python scripts/benchmark.py --output results/benchmark.json $(ARGS)

# What only a GPU can say, at most eight minutes a call; the same command goes on. Needs torch and transformers, no network.
gpu:
	PYTHONPATH=src $(PYTHON) scripts/gpu.py --output results/gpu $(ARGS)

clean:
	rm -rf $(VENV) $(VLLM) runs build src/*.egg-info .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bipe-hf needs Python 3.11 or newer; choose one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

# What the tests use and the demo does not. Once torchao is there, importing transformers prints what of it fits no CPU.
$(VENV)/.optional: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --editable '.[docs,finetune,lm-eval,notebooks,onnx,peft,records,serve,torchao,trl]'
	touch $(VENV)/.optional

$(VENV)/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $(VENV)/.docs

$(VLLM)/.installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --no-deps --requirement constraints-vllm.txt --editable .
	touch $(VLLM)/.installed
