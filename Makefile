# make setup | study | test | check | bench | clean      (see README.md)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup study test check bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	  || { echo "colinear needs Python 3.11 or 3.12: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "setup: making $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: installing the exact versions of constraints.txt (a minute or two; torch is the largest)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'setuptools>=77' torch==2.13.0
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "setup: done; run '$(BIN)/colinear --help'"

study: setup
	$(BIN)/colinear study tiny

test: setup
	COLINEAR_DATA="$${COLINEAR_DATA:-$$(test -d ../shared/data && cd ../shared/data && pwd)}" $(BIN)/python -m pytest tests --ignore=tests/benchmarks

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python tests/benchmarks/whole_study.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
