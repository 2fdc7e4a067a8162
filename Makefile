# Each target sets up what it needs: .venv here, and the control plane's programs in ~/.cache/runyard.
#   PYTHON       the Python to use, 3.11 or newer          RUNYARD_BIN    a folder that has the programs already
#   ARGS         more arguments for pytest or the demo     RUNYARD_CACHE  where to keep what is built

ARGS ?=
BIN := .venv/bin
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)

export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo test test-full test-resume lint format generate bench up down clean setup binaries

help: ## Show what there is to run
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: up ## Pre-train and adapt two small models on a local control plane, a few minutes
	$(BIN)/python examples/demo.py $(ARGS)

test: lint binaries ## Lint, types, contracts, and every test but the long ones
	$(BIN)/pytest -n 2 --no-loadscope-reorder -m "not full and not gpu" $(ARGS)

test-full: test ## The long tests too, and those on a GPU if there is one
	$(BIN)/python -m tests.cluster.kueue
	$(BIN)/pytest -m "$(if $(GPU),full or gpu,full and not gpu)" $(ARGS)

test-resume: setup ## The tests that go on from a checkpoint, for another Python: make test-resume PYTHON=python3.14
	$(BIN)/pytest -n 2 -m "resume and not full and not gpu" $(ARGS)

lint: setup ## Style, format, types, who imports whom, where files lie, generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_layout.py
	$(BIN)/python scripts/draw_tree.py --check
	$(BIN)/python -m runyard.api.crd.generate --check

format: setup ## Mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

generate: setup ## Write the CRD from the pydantic models, and the tree of docs/architecture.md from the folders
	$(BIN)/python -m runyard.api.crd.generate
	$(BIN)/python scripts/draw_tree.py

bench: setup ## Trained tokens/s: our loop, a bare one, Hugging Face's Trainer
	$(BIN)/python benchmarks/training.py $(ARGS)

up: setup ## Bring the local control plane up, with the operator
	$(BIN)/runyard local up

down: setup ## Stop it; its data stays
	$(BIN)/runyard local down

clean: ## Remove the local control plane with its data, .venv and what tools left in this clone
	if [ -x $(BIN)/runyard ]; then $(BIN)/runyard local down --delete; fi
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache

setup:
	@scripts/setup.sh

binaries: setup
	@$(BIN)/runyard local build
