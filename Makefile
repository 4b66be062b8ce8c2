# Set-up, service, tests and checks. Everything runs in .venv, which each target makes if need be.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
RECIPE ?= cpu
VENV := .venv
UV := uv==0.13.9
INSTALL := $(VENV)/bin/uv pip install --quiet --python $(VENV) --constraint constraints.txt --editable .

.PHONY: serve test check format bench train lock clean
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

bench: $(VENV)/developed  ## Measure the engine, preprocessing and the service; see benchmarks/results, docs/benchmarks.
	$(VENV)/bin/python -m benchmarks.engine
	$(VENV)/bin/python -m benchmarks.preprocess
	$(VENV)/bin/python -m benchmarks.service
	$(VENV)/bin/python -m benchmarks.plots

train: $(VENV)/developed  ## Train the embedded model on Tiny ImageNet-200 in DATA with RECIPE (cpu or gpu).
	$(VENV)/bin/python -m training.train --data $(DATA) --recipe $(RECIPE)

lock: $(VENV)/bin/uv  ## Pin the newest versions that pyproject.toml allows.
	$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --group dev --group training \
		--no-emit-index-url --no-annotate --no-header --output-file constraints.txt pyproject.toml

clean:  ## Remove what was made.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

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
