# Set-up, service, tests and checks. Everything runs in .venv, which each target makes if need be.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
VENV := .venv
UV := uv==0.13.9
INSTALL := $(VENV)/bin/uv pip install --quiet --python $(VENV) --constraint constraints.txt --editable .

.PHONY: serve test check format bench bench-peers train lock clean
.DEFAULT_GOAL := serve

serve: $(VENV)/served  ## Serve on HOST:PORT.
	$(VENV)/bin/convnext-serve serve --host $(HOST) --port $(PORT)

test: $(VENV)/developed  ## Run the tests.
	$(VENV)/bin/pytest

check: $(VENV)/developed  ## Lint, formatting, types.
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/developed  ## Mend what can be mended.
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

bench: $(VENV)/developed bench-peers  ## Measure the engine, preprocessing and the service; see docs/benchmarks.
	$(VENV)/bin/python -m benchmarks.engine
	$(VENV)/bin/python -m benchmarks.preprocess
	$(VENV)/bin/python -m benchmarks.service --networks minimal convnext_tiny
	$(VENV)/bin/python -m benchmarks.plots

bench-peers: .venv-mosec .venv-torchserve  ## Install the servers that the service is compared with; one needs Java 17.

.venv-mosec: PEER := mosec==0.9.8
.venv-torchserve: PEER := torchserve==0.12.0 torch-model-archiver==0.12.0
.venv-mosec .venv-torchserve: | $(VENV)/bin/uv
	$(VENV)/bin/uv venv --quiet --python $(VENV)/bin/python $@
	$(VENV)/bin/uv pip install --quiet --python $@ --constraint constraints.txt $(PEER) torch torchvision pillow pyyaml \
		|| (rm -r $@; false)

train: $(VENV)/developed  ## Make the embedded model anew from Tiny ImageNet-200 in DATA.
	$(VENV)/bin/python -m training.train --data $(DATA)

lock: $(VENV)/bin/uv  ## Pin the newest versions that pyproject.toml allows.
	$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --group dev --group training \
		--no-emit-index-url --no-annotate --no-header --output-file constraints.txt pyproject.toml

clean:  ## Remove what was made.
	rm -rf $(VENV) .venv-mosec .venv-torchserve .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check '$(UV)'

$(VENV)/served: $(VENV)/bin/uv pyproject.toml constraints.txt
	$(INSTALL)
	@touch $@

$(VENV)/developed: $(VENV)/bin/uv pyproject.toml constraints.txt
	$(INSTALL) --group dev --group training
	@touch $@ $(VENV)/served
