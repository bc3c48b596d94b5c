# Everything a person does with this repository. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

UV_VERSION := 0.13.9
EXTRA ?= cpu# cpu or gpu: which build of vLLM
PYTHON := .venv/bin/python
STAMP := .venv/.attune-$(EXTRA)
TEST_WORKERS ?= 2
# Tests of real engines and brokers run after the others, in one process: two engines starting at once on two cores
# time out. With ARGS="-k name" one of the two runs may find no test (pytest's exit code 5).
NONE_IS_FINE = $(if $(ARGS),|| test $$? -eq 5)

# Two cores are the reference machine: more threads per process than that make them crawl.
export OMP_NUM_THREADS ?= 1
export VLLM_NO_USAGE_STATS := 1
export HF_HUB_OFFLINE ?= $(if $(MODEL),0,1)
export TOKENIZERS_PARALLELISM := false

.PHONY: help
help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP) ## Make .venv with everything pinned (every other target does it when needed)

$(STAMP): pyproject.toml constraints.txt
	@command -v python3.11 >/dev/null || python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "attune: Python 3.11 is needed (Debian: apt-get install python3.11 python3.11-venv)" >&2; exit 1; }
	@uv="$$(command -v uv || true)"; \
	if [ -z "$$uv" ]; then \
		test -x .tools/bin/uv || { python3 -m venv .tools && .tools/bin/pip install -q uv==$(UV_VERSION); }; \
		uv=.tools/bin/uv; \
	fi; \
	test -x $(PYTHON) || "$$uv" venv -q --python 3.11 .venv; \
	echo "attune: installing (about 6 GB, 1-2 minutes with a fast line)" >&2; \
	"$$uv" pip install -q --python $(PYTHON) -c constraints.txt -e '.[$(EXTRA),dev]'
	@rm -f .venv/.attune-*; touch $@

.PHONY: demo
demo: $(STAMP) ## The whole loop, from nothing, on this machine (ARGS="--log kafka --keep", MODEL=path-or-name)
	@.venv/bin/attune demo $(if $(MODEL),--model '$(MODEL)') $(ARGS)

.PHONY: kafka
kafka: $(STAMP) ## A real Kafka broker until Ctrl-C, its data in .attune/kafka (ARGS=9093 for another port)
	@$(PYTHON) -m deploy.brokers .attune/kafka $(ARGS)

.PHONY: test
test: test-alone test-real ## All tests, with real vLLM and a real Kafka broker (ARGS="-k name")

.PHONY: test-alone
test-alone: $(STAMP) ## Of these, the ones that need no engine and no broker
	@$(PYTHON) -m deploy.needs java maven kcat
	@$(PYTHON) -m pytest -n $(TEST_WORKERS) -m "not engine and not kafka" --cov --cov-report= $(ARGS) $(NONE_IS_FINE)

.PHONY: test-real
test-real: $(STAMP) ## Of these, the ones that do
	@$(PYTHON) -m deploy.needs java maven kcat
	@$(PYTHON) -m pytest -m "engine or kafka" --cov --cov-append --cov-report=term:skip-covered $(ARGS) $(NONE_IS_FINE)

.PHONY: check
check: $(STAMP) ## Format, lint, types, import rules, generated docs
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PYTHON) -m deploy.docs --check

.PHONY: format
format: $(STAMP) ## Format the code and write the generated docs
	@.venv/bin/ruff check --fix-only -q .
	@.venv/bin/ruff format -q .
	@$(PYTHON) -m deploy.docs

.PHONY: bench
bench: $(STAMP) ## One benchmark: make bench NAME=swap
	@test -n "$(NAME)" || { echo "attune: name one: $$(ls tests/bench/*.py | xargs -n1 basename | sed 's/\.py//; s/_/-/g' | grep -v '^--' | tr '\n' ' ')" >&2; exit 2; }
	@$(PYTHON) -m tests.bench.$(subst -,_,$(NAME)) $(ARGS)

.PHONY: study
study: $(STAMP) ## PPO against DPO, KTO and controls, for an hour or two, resumable (ARGS="--batch test"; two at once share)
	@$(PYTHON) -m tests.bench.study $(ARGS)
	@$(PYTHON) -m tests.bench.study --tables $(ARGS)

.PHONY: study-quick
study-quick: $(STAMP) ## The study on one small world, in under five minutes
	@$(PYTHON) -m tests.bench.study --quick $(ARGS)

.PHONY: faults
faults: $(STAMP) ## Kill and starve real processes under load, count every event, write docs/faults.md (ARGS="--only broker")
	@$(PYTHON) -m deploy.needs java maven
	@$(PYTHON) -m tests.faults $(ARGS)

.PHONY: clean
clean: ## Remove what the demo and the tools left (not .venv)
	rm -rf .attune .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* .import_linter_cache
