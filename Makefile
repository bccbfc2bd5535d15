# edgeprune: `make help` lists what can be made.
PYTHON ?= python3
# Which torch: the CPU build here; a CUDA build or Jetson wheel by `make TORCH="torch --index-url …"` (see README).
TORCH  ?= torch==2.13.0
recipe ?= quickstart
target ?= cpu
set    ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: run test lint help clean
run: $(STAMP)  ## recipe + target -> verified engine: make recipe=R target=T [set="key=value …"]
	$(BIN)/edgeprune run $(recipe) --target $(target) $(foreach s,$(set),--set $(s))

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest

lint: $(STAMP)  ## ruff, types, import contract
	$(BIN)/ruff check edgeprune tests

clean:  ## remove the environment (runs/ is kept)
	rm -rf $(VENV) .pytest_cache .ruff_cache

help:
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'
