# The five things people do here. Everything happens in .venv; nothing needs root or a GPU.
#
#   make quickstart                  from nothing to a mesh made from a picture, and a page to look at
#   MESHES=DIR make quickstart       the same with your own meshes
#   make setup PYTHON=python3.11     choose the Python that .venv is made from
#   make setup CONSTRAINTS=FILE      exact versions, as pip's --constraint; .ci/run passes its own

VENV   ?= .venv
BIN    := $(VENV)/bin
TEST   := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
RESULT := build/test-full

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-cluster test-full lint format clean

help:  ## this list
	@echo "threed-gen: meshes in, trained sparse 3D shape models out"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Your own meshes:  MESHES=DIR make quickstart"

setup:  ## make .venv and install everything into it (says how much it downloads first)
	@python3 launcher/bootstrap.py --venv "$(VENV)" $(if $(PYTHON),--python "$(PYTHON)") \
		$(if $(CONSTRAINTS),--constraints "$(CONSTRAINTS)")

quickstart: setup  ## 12 shapes, three models, a mesh made from a picture, a page (minutes, CPU)
	@$(BIN)/threed-gen quickstart $(if $(MESHES),--meshes "$(MESHES)")

test: setup  ## the tests everyone runs before a commit (at most 9 minutes on 2 cores)
	$(TEST) -m "not long and not cluster" -n 2 --dist loadfile
	$(TEST) -m "cluster and not long"

test-cluster: setup  ## trainings and tools on a real Slurm of four nodes (9 minutes; as root)
	@tests/slurm/install.sh
	$(TEST) -m "slurm and not matrix"

test-full: setup  ## every test (up to 90 minutes, as root); writes docs/test-full.md
	@tests/slurm/install.sh
	@mkdir -p $(RESULT)
	@rm -f $(RESULT)/*.xml
	$(TEST) -m "not cluster" -n 2 --dist loadfile --junitxml $(RESULT)/side-by-side.xml; first=$$?; \
	$(TEST) -m "cluster" --junitxml $(RESULT)/alone.xml; second=$$?; \
	$(BIN)/python tests/summary.py $(RESULT)/*.xml > docs/test-full.md && cat docs/test-full.md; \
	exit $$((first + second))

lint: setup  ## ruff (rules and layout) and mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove caches and build leftovers; .venv and runs/ stay
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find launcher kernels threed_gen tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
