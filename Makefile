# `make` alone explains itself. Everything is installed into .venv, and only when something has changed.

PYTHON ?= python3
ARGS ?= attack=uncertainty defense=influence
VENV := .venv
BIN := $(VENV)/bin
# one more than there are cores: some tests wait for processes that they have started
WORKERS := $(shell expr $$(nproc 2> /dev/null || sysctl -n hw.ncpu) + 1)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DELETE_ON_ERROR:
.PHONY: help install run test claims bench check lint types clean

help:
	@echo 'make run                     play one game (installs first): $(ARGS)'
	@echo 'make run ARGS="attack=random defense=none data=mnist"   play another; ARGS="--help" shows all choices'
	@echo 'make test                    run the tests (installs the test tools first)'
	@echo 'make claims                  test the claims that take long: an hour or so'
	@echo 'make bench                   run the benchmarks'
	@echo 'make check                   make lint (ruff) and make types (mypy)'
	@echo 'make install                 only create .venv and install'
	@echo 'make clean                   remove .venv and caches; results in outputs/ stay'
	@echo 'Another Python (3.11 to 3.13 will do): make install PYTHON=python3.12'

$(VENV)/.created:
	@command -v $(PYTHON) > /dev/null || { echo '$(PYTHON) is not here; name a Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 install' >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"$(PYTHON) is Python {v[0]}.{v[1]}, and 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=python3.12 install")'
	@echo 'Creating $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo 'Installing into $(VENV): a minute or two, most of it for torch'
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created pyproject.toml constraints.txt
	@echo 'Installing with the test tools into $(VENV): a minute or two the first time, most of it for torch'
	@$(PIP_INSTALL) -e '.[test]'
	@touch $(VENV)/.installed $@

install: $(VENV)/.installed
	@echo 'Installed. Next: make run, or $(BIN)/python experiments/run.py --help'

run: $(VENV)/.installed
	$(BIN)/python experiments/run.py $(ARGS)

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

claims: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --claims -m claims

bench: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only

check: lint types

lint: $(VENV)/.installed-test
	$(BIN)/python -m ruff check .

types: $(VENV)/.installed-test
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
