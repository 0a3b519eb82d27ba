# Every target makes what it needs in .venv first; where nothing changed, that takes no time.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check fix test-engines requirements clean

BIN := .venv/bin
DEMO := .venv/requirements-demo.txt.stamp
DEV := .venv/requirements-dev.txt.stamp
CODE := gateway estimator tests benchmarks

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(DEMO) ## gateway, two simulated engines and a real client; DEMO_EXIT=1 checks it and exits
	@$(BIN)/kvgate demo $(if $(filter-out 0,$(DEMO_EXIT)),--exit)

test: check ## every check, then every test with coverage
	@$(BIN)/python -m pytest -q --cov

check: $(DEV) ## lint, format, types and import rules; changes nothing
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo

fix: $(DEV) ## mend what ruff can mend, and format
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

test-engines: $(DEV) ## install vLLM for CPU apart, and run the suite against real engines
	@PYTHON=$(BIN)/python tests/engines/install.sh
	@$(BIN)/python -m pytest -q -m engines tests/engines

requirements: .cache/uv/bin/uv ## pin what pyproject.toml asks for; UV_FLAGS=--upgrade takes the newest
	@$(PIN) --group dev --all-extras -o requirements-dev.txt
	@$(PIN) --group build --extra demo -c requirements-dev.txt -o requirements-demo.txt
	@$(PIN) -c requirements-dev.txt -o requirements.txt

clean: ## remove environments, caches and builds
	@rm -rf .venv .venv-engines .cache build dist .coverage* .*_cache .hypothesis
	@find $(wildcard $(CODE)) -name __pycache__ -prune -exec rm -rf {} +

# Pins hold for Python 3.11 to 3.14 on any POSIX system, and name no index: the machine's own settings say where to look.
PIN = .cache/uv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make requirements' $(UV_FLAGS)

.cache/uv/bin/uv:
	@python3 -m venv .cache/uv
	@.cache/uv/bin/pip install -qq --disable-pip-version-check uv

.venv/%.txt.stamp: %.txt pyproject.toml .ci/install
	@.ci/install $<
