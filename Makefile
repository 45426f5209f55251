# Everything a person or CI does with micro-kiki. 'make run' is the first; 'make help' lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SBOM   ?= dist/sbom.json
ASK    ?= What is the capital of France?
RUNTIME_TESTS := tests/runtime tests/e2e tests/fault tests/clients
NODE_MODULES := $(addsuffix /node_modules,tests/contract tests/clients/node deploy/client/examples)

.DEFAULT_GOAL := help
.PHONY: help install dev lock run check test test-rooms test-runtime soak lint audit sbom types newer wheels coverage format bench contract recipes page client models adapters test-models clean

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed ## Build .venv with what the runtime needs
dev: $(VENV)/.dev ## ... and with what tests need

# PyTorch's own index of CPU builds, asked on a Linux without an NVIDIA GPU; empty takes torch from where all else comes from.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

PIP_OPTIONS := --disable-pip-version-check --progress-bar on
PIP := $(BIN)/python -m pip install $(PIP_OPTIONS)
LOCKED := $(PIP) --no-deps --only-binary :all: --require-hashes
BUILT := $(PIP) --no-deps --no-build-isolation
LOCKS := $(addprefix deploy/requirements/,runtime.txt source.txt torch.txt)

# Every file is compared with its hash, torch and its CUDA packages aside; the project itself brings nothing more.
$(VENV)/.installed: pyproject.toml $(LOCKS) deploy/torch_build.py
	@echo "Installing: some hundred MB of packages are fetched, then torch, which says itself how much it is here"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "micro-kiki needs Python 3.11 or later")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(LOCKED) -r deploy/requirements/runtime.txt
	$(BUILT) --require-hashes -r deploy/requirements/source.txt
	$(BIN)/python deploy/torch_build.py "$(TORCH_CPU_INDEX)" $(PIP_OPTIONS)
	$(BUILT) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed deploy/requirements/dev.txt
	$(LOCKED) -r deploy/requirements/dev.txt
	@touch $@

lock: dev ## Renew deploy/requirements/ after a change of pyproject.toml; UPGRADE=1 takes the newest versions
	$(BIN)/python -m tests.supply.locking $(if $(UPGRADE),--upgrade)

run: install ## Start everything, ask one question, keep serving on :8000
	$(BIN)/kiki up --ask "$(ASK)"

models: install ## Fetch and prepare the default models
	$(BIN)/kiki models pull

# They go where "kiki up" finds them with the default model; ADAPTERS=FOLDER puts them elsewhere.
SMALL_FLEET := $(notdir $(basename $(wildcard configs/lora/small/*.yaml)))

adapters: models ## Train the small experts for the default model, on any CPU
	@set -e; for domain in $(SMALL_FLEET); do \
	$(BIN)/kiki train $$domain --recipe configs/lora/small/$$domain.yaml $(if $(ADAPTERS),--output $(ADAPTERS)); done

# Most tests ask the small model; the default one is converted and loaded by a few.
test-models: models
	$(BIN)/kiki models pull smollm2-135m-instruct

test: dev test-models $(NODE_MODULES) ## Run all tests, in two processes side by side
	$(MAKE) -j2 test-rooms test-runtime

# Markers of what takes long to have (tests/needs.py); tests that need another thing are skipped where it is missing.
QUICK := not (soak or broker or model or mlx or stores or process or packages or neo4j)

check: lint types ## The quick part of lint, types and test: no broker, no model, no other process
	$(BIN)/python -m pytest -q -m "$(QUICK)"

# Both take about as long: agents with models in one, runtimes that start and die in the other.
PYTEST := $(BIN)/python -m pytest

test-rooms:
	$(PYTEST) -m "not soak" $(addprefix --ignore ,$(RUNTIME_TESTS))

test-runtime:
	$(PYTEST) -m "not soak" $(RUNTIME_TESTS)

soak: dev test-models $(NODE_MODULES) ## The long fault and endurance runs, and all checks of the stock clients
	$(BIN)/python -m pytest -m soak --timeout 3600

lint: dev ## ruff, import-linter, deptry, licences
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/deptry tests --exclude '^$$' --ignore DEP002,DEP004
	$(BIN)/python -m tests.supply.licences

audit: dev ## Known vulnerabilities of what is locked; asks an advisory service
	$(BIN)/pip-audit --strict --disable-pip --no-deps -r deploy/requirements/dev.txt -r deploy/requirements/source.txt -r deploy/requirements/torch.txt

sbom: dev ## What the runtime consists of, as CycloneDX, into dist/
	@mkdir -p $(dir $(SBOM))
	cat $(LOCKS) | $(BIN)/cyclonedx-py requirements - --pyproject pyproject.toml --output-reproducible --output-file $(SBOM)

types: dev ## mypy, strict, code and tests
	$(BIN)/mypy

NEWER := 3.12 3.13
SPELLINGS_OF_3_12 := UP040,UP043,UP046,UP047

newer: dev ## lint and types as Python 3.12 and 3.13 see them
	@set -e; for version in $(NEWER); do \
	$(BIN)/ruff check --target-version py$$(echo $$version | tr -d .) --extend-ignore $(SPELLINGS_OF_3_12) .; \
	$(BIN)/mypy --python-version $$version; done

wheels: dev ## Does every locked package have a wheel for Python 3.12 and 3.13? Asks the index, fetches none
	$(BIN)/python -m tests.supply.wheels $(NEWER)

coverage: dev test-models $(NODE_MODULES) ## Branch coverage of all tests, child processes included; fails below 90 %
	$(BIN)/coverage erase
	$(MAKE) -j2 test-rooms test-runtime PYTEST="$(BIN)/coverage run -m pytest"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

format: dev ## Let ruff format and mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## The budgets of the architecture, measured
	$(BIN)/kiki bench overhead

contract: install ## Write docs/asyncapi.json, docs/openapi.json and docs/settings.md again
	$(BIN)/kiki asyncapi --output docs/asyncapi.json
	$(BIN)/kiki openapi --output docs/openapi.json
	$(BIN)/kiki settings --output docs/settings.md

recipes: install ## Write configs/lora again from configs/domains.yaml
	$(BIN)/python -m runtime.training.generation

page: install tests/contract/node_modules ## The contract as one HTML page, into dist/
	@mkdir -p dist
	$(BIN)/kiki asyncapi --html --output dist/asyncapi.html

# What npm brings: the official AsyncAPI parser, the stock clients, what the TypeScript example needs. Without npm the
# tests of these are skipped and say so.
$(NODE_MODULES): %/node_modules: %/package.json %/package-lock.json
	@if command -v npm >/dev/null; then cd $* && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && touch node_modules; \
	else echo "npm is not here: the tests that need $@ will be skipped"; fi

client: dev ## The client's wheel, into dist/
	$(BIN)/python -m pip wheel --no-deps --disable-pip-version-check -w dist deploy/client

clean: ## Remove the virtual environment and caches of tools
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info dist deploy/client/src \
		$(NODE_MODULES)
