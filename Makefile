# Every target makes what it needs in .venv first; where nothing changed, that takes no time.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check lifecycle mutants fix test-engines test-ops chart requirements clean

BIN := .venv/bin
DEMO := .venv/requirements-demo.txt.stamp
DEV := .venv/requirements-dev.txt.stamp
CODE := gateway estimator tests benchmarks grafana deploy

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(DEMO) ## gateway, two simulated engines and a real client; DEMO_EXIT=1 checks it and exits
	@$(BIN)/kvgate demo $(if $(filter-out 0,$(DEMO_EXIT)),--exit)

test: check ## every check, then every test with coverage
	@$(BIN)/python -m pytest -q --cov -n 2

check: $(DEV) ## lint, format, types and import rules; changes nothing
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo

fix: $(DEV) ## mend what ruff can mend, and format
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

lifecycle: $(DEV) ## the life of every request in virtual time: 1,000 seeds of faults; SEEDS=100 for fewer
	@$(BIN)/python -m tests.lifecycle --seeds $(or $(SEEDS),1000)

mutants: $(DEV) ## plant bugs in the books, and see that each is noticed
	@$(BIN)/python -m tests.lifecycle --mutants

test-engines: $(DEV) ## install vLLM for CPU apart, and run the suite against real engines
	@PYTHON=$(BIN)/python tests/engines/install.sh
	@$(BIN)/python -m pytest -q -m engines tests/engines

test-ops: $(DEV) ## check deployments, rules and dashboards with the real tools; what this machine lacks is skipped
	@PYTHON=$(BIN)/python tests/deploy/install.sh
	@PYTHON=$(BIN)/python tests/live_ops/sdks/install.sh
	@$(BIN)/python -m pytest -q -rs -m ops tests/live_ops tests/deploy

chart: $(DEV) ## copy rules and dashboards into the Helm chart, and render it for kubectl
	@PYTHON=$(BIN)/python tests/deploy/install.sh
	@.venv-ops/bin/python deploy/generate.py

requirements: .cache/uv/bin/uv ## pin what pyproject.toml asks for; UV_FLAGS=--upgrade takes the newest
	@$(PIN) --group dev --all-extras -o requirements-dev.txt
	@$(PIN) --group build --extra demo -c requirements-dev.txt -o requirements-demo.txt
	@$(PIN) -c requirements-dev.txt -o requirements.txt
	@$(PIN:pyproject.toml=--group ops) -o requirements-ops.txt
	@echo langchain-openai | $(PIN:pyproject.toml=-) -o tests/live_ops/sdks/requirements-langchain.txt
	@echo llama-index-llms-openai-like | $(PIN:pyproject.toml=-) -o tests/live_ops/sdks/requirements-llamaindex.txt

clean: ## remove environments, caches and builds
	@rm -rf .venv .venv-engines .venv-ops .venv-sdks .cache build dist .coverage* .*_cache .hypothesis
	@find $(wildcard $(CODE)) -name __pycache__ -prune -exec rm -rf {} +

# Pins hold for Python 3.11 to 3.14 on any POSIX system, and name no index: the machine's own settings say where to look.
PIN = .cache/uv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make requirements' $(UV_FLAGS)

.cache/uv/bin/uv:
	@python3 -m venv .cache/uv
	@.cache/uv/bin/pip install -qq --disable-pip-version-check uv

.venv/%.txt.stamp: %.txt pyproject.toml .ci/install
	@.ci/install $<
