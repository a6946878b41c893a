# Every target creates what it needs: the virtual environment, the packages, the servers.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test bench campaign lint format clean distclean

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SERVERS := $(BIN)/python -m servers
TESTED := postgres mariadb redis mongo neo4j
STORES ?= embedded
SIMULATIONS ?= 10000
MINUTES ?= 5
REPORT ?= build/reliability.md

export PYTHONPATH := tests
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## Show this text
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  demo takes STORES=servers (real servers in place of embedded stores); test takes ARGS='-k name'"

demo: $(INSTALLED) ## Run the demo; it needs no server
ifeq ($(STORES),servers)
	$(SERVERS) run postgres mongo neo4j -- $(BIN)/python examples/demo.py --stores servers
else
	$(BIN)/python examples/demo.py --stores $(STORES)
endif

test: $(INSTALLED) ## Check style and types, and run all tests on real servers
	$(SERVERS) ensure $(TESTED) || test -z "$${CI:-}"
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest $(ARGS)

bench: $(INSTALLED) ## Measure against the drivers, on real servers; WRITE=1 the page, CHECK=1 the targets, ONLY=name
	$(SERVERS) ensure $(filter-out redis,$(TESTED))
	$(BIN)/python -m benchmarks $(if $(WRITE),--write) $(if $(CHECK),--check) $(if $(ONLY),--only '$(ONLY)')

campaign: $(INSTALLED) ## Attack it: SIMULATIONS=10000 seeds, then MINUTES=5 on real servers; REPORT= page, SEED=
	$(SERVERS) ensure $(TESTED)
	$(BIN)/python -m campaign --simulations $(SIMULATIONS) --minutes $(MINUTES) --report $(REPORT) $(if $(SEED),--seed $(SEED))

lint: $(INSTALLED) ## Check style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove caches and build outputs
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean ## Remove the virtual environment too
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[all,dev,demo]'
	@touch $@

# The first Python that is new enough. Debian keeps ensurepip, which venv needs, in a package of its own.
$(BIN)/python:
	@for candidate in "$${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	done; \
	if [ -z "$${python:-}" ]; then \
	    echo "Python 3.11 or later is needed; set PYTHON to one" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip' 2>/dev/null; then \
	    package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        apt-get -q update && apt-get -y -q install --no-install-recommends "$$package"; \
	    else \
	        echo "$$python has no ensurepip: apt-get install $$package" >&2; exit 1; \
	    fi; \
	fi; \
	"$$python" -m venv $(VENV)
