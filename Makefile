# edgeprune: `make help` lists what can be made.
PYTHON ?= python3
# Which torch. The default is 2.13.0 from the package index; see README for CUDA and Jetson, for example
#   make TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH  ?= torch==2.13.0
recipe ?= quickstart
target ?= cpu
set    ?=
host   ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: run rtx test lint format bench docs clean help
# what a target needs beyond the rest: TensorRT for RTX, 95 MB (234 MB unpacked), no GPU; TensorRT, for a GPU that is here
EXTRA  := $(if $(filter rtx%,$(target)),$(VENV)/.tensorrt-rtx) $(if $(filter tensorrt,$(target)),$(VENV)/.tensorrt)
run: $(STAMP) $(EXTRA)  ## recipe + target -> verified engine: make recipe=R target=T [set="key=value …"] [host=user@board]
	$(BIN)/edgeprune run $(recipe) --target $(target) $(foreach s,$(set),--set '$(s)') $(if $(host),--host $(host))

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

$(VENV)/.tensorrt-rtx: $(STAMP)
	$(BIN)/pip install -q -e ".[tensorrt-rtx]"
	touch $@

$(VENV)/.tensorrt: $(STAMP)
	$(BIN)/pip install -q -e ".[tensorrt]"
	touch $@

rtx: $(VENV)/.tensorrt-rtx  ## TensorRT for RTX (95 MB), which its tests need; `make target=rtx4090` gets it by itself

test: $(STAMP)  ## all tests, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)  ## ruff, format, types, import contract
	$(BIN)/ruff check edgeprune tests deploy benchmarks docs
	$(BIN)/ruff format --check edgeprune tests deploy benchmarks docs
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(STAMP)  ## format the code
	$(BIN)/ruff check --fix edgeprune tests deploy benchmarks docs
	$(BIN)/ruff format edgeprune tests deploy benchmarks docs

bench: $(STAMP)  ## the benchmarks; tables on the terminal, results beside the scripts
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

docs: $(STAMP)  ## write the reference of recipe keys from the schema
	$(BIN)/python docs/make_reference.py

clean:  ## remove the environment and caches (runs/ is kept)
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist

help:  ## this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'
