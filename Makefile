# Targets for serving, testing and checking. Those that need the virtual environment in .venv create it.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
IMAGE ?= convnext-serve
TORCH_BACKEND ?= cpu
RECIPE ?= cpu
VENV := .venv
UV := uv==0.13.9
export UV_COMPILE_BYTECODE := 1
INSTALL := $(VENV)/bin/uv pip install --quiet --python $(VENV) --constraint constraints.txt --editable .

.PHONY: serve help test test-avx2 test-lowest reliability check format bench gpu bench-peers train image sbom audit lock clean
.DEFAULT_GOAL := serve

serve: $(VENV)/served  ## Serve on HOST:PORT (default).
	$(VENV)/bin/convnext-serve serve --host $(HOST) --port $(PORT)

help:  ## List the targets.
	@sed -nE 's/^([a-z0-9.-]+):.*  ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

test: $(VENV)/developed  ## Run the tests.
	$(VENV)/bin/pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test-avx2: $(VENV)/developed  ## Run the numeric tests as on a CPU without AVX-512 and AMX.
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(VENV)/bin/pytest tests/model

test-lowest: .venv-lowest  ## Run the tests with the lowest versions of the dependencies that pyproject.toml allows.
	.venv-lowest/bin/pytest --numprocesses auto --maxprocesses 8 --dist loadfile tests/app tests/model

.venv-lowest: pyproject.toml | $(VENV)/bin/uv
	$(VENV)/bin/uv venv --quiet --clear --python $(VENV)/bin/python $@
	$(VENV)/bin/uv pip install --quiet --python $@ --resolution lowest-direct --editable '.[otel]' --group dev \
		|| (rm -r $@; false)
	touch $@

reliability: $(VENV)/developed  ## Test under overload, faults and hostile input; LONG=1 for hours. Writes docs/reliability.md.
	$(VENV)/bin/pytest tests/reliability --timeout $(if $(LONG),0,300) $(if $(LONG),--long) --report docs/reliability$(if $(WORKERS),-$(WORKERS)-workers).md

check: $(VENV)/developed  ## Check linting, formatting, types and import rules.
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/developed  ## Format the code and fix lint errors that can be fixed automatically.
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

bench: $(VENV)/developed bench-peers  ## Run the benchmarks and redraw the plot in docs/benchmarks.
	$(VENV)/bin/python -m benchmarks.engine
	$(VENV)/bin/python -m benchmarks.preprocess
	$(VENV)/bin/python -m benchmarks.service --networks minimal convnext_tiny
	$(VENV)/bin/python -m benchmarks.plots

gpu: $(VENV)/developed  ## Test and measure the GPU path on an NVIDIA GPU, in at most 540 s. Writes benchmarks/results/gpu.json.
	$(VENV)/bin/python -m benchmarks.gpu

bench-peers: .venv-mosec .venv-ray .venv-torchserve  ## Install the servers that the service is compared with; one needs Java 17.

.venv-mosec: PEER := mosec==0.9.8
.venv-torchserve: PEER := torchserve==0.12.0 torch-model-archiver==0.12.0
.venv-mosec .venv-torchserve: | $(VENV)/bin/uv
	$(VENV)/bin/uv venv --quiet --python $(VENV)/bin/python $@
	$(VENV)/bin/uv pip install --quiet --python $@ --constraint constraints.txt $(PEER) torch torchvision pillow pyyaml \
		|| (rm -r $@; false)

.venv-ray: | $(VENV)/bin/uv  ## Install the service with Ray Serve, for its tests and its benchmark.
	$(VENV)/bin/uv venv --quiet --python $(VENV)/bin/python $@
	$(VENV)/bin/uv pip install --quiet --python $@ --constraint constraints.txt --editable '.[ray]' || (rm -r $@; false)

.venv-kserve: | $(VENV)/bin/uv  ## Install KServe's client, for its test.
	$(VENV)/bin/uv venv --quiet --python $(VENV)/bin/python $@
	$(VENV)/bin/uv pip install --quiet --python $@ 'kserve>=0.15' || (rm -r $@; false)

.venv-openapi: | $(VENV)/bin/uv  ## Install generators of clients, for their tests; they need Java, Node.js and npm.
	$(VENV)/bin/uv venv --quiet --python $(VENV)/bin/python $@
	$(VENV)/bin/uv pip install --quiet --python $@ 'openapi-generator-cli>=7.16' 'openapi-python-client>=0.26' \
		'pydantic>=2.11' 'python-dateutil>=2.8' 'typing-extensions>=4.7' 'urllib3>=2.1' || (rm -r $@; false)
	! command -v npm >/dev/null || npm install --silent --no-audit --no-fund --prefix $@ 'typescript@5' || (rm -r $@; false)

train: $(VENV)/developed  ## Train the embedded model on Tiny ImageNet-200 in the folder DATA with RECIPE.
	$(VENV)/bin/python -m training.train --data $(DATA) --recipe $(RECIPE)

image:  ## Build the container image IMAGE:version for TORCH_BACKEND.
	version=$$(sed -nE 's/^version = "(.*)"/\1/p' pyproject.toml) && docker build --tag "$(IMAGE):$$version" \
		--build-arg "TORCH_BACKEND=$(TORCH_BACKEND)" --build-arg "VERSION=$$version" \
		--build-arg "REVISION=$$(git rev-parse HEAD)" .

sbom: $(VENV)/bin/uv  ## Write the pinned dependencies to sbom.json (CycloneDX).
	$(VENV)/bin/uv tool run --quiet --from 'cyclonedx-bom>=7.0' cyclonedx-py requirements --pyproject pyproject.toml \
		--output-reproducible --output-file sbom.json constraints.txt

audit: $(VENV)/bin/uv  ## Look up the pinned dependencies in the database of known vulnerabilities.
	$(VENV)/bin/uv tool run --quiet 'pip-audit>=2.9' --strict --disable-pip --no-deps --requirement constraints.txt

lock: $(VENV)/bin/uv  ## Update constraints.txt, with hashes, to the newest versions that pyproject.toml allows.
	$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --group dev --group training --extra otel \
		--no-emit-index-url --no-annotate --no-header --generate-hashes --output-file constraints.txt pyproject.toml

clean:  ## Delete the virtual environment and caches.
	rm -rf $(VENV) .venv-newest .venv-mosec .venv-torchserve .venv-ray .venv-kserve .venv-openapi \
		.mypy_cache .ruff_cache .pytest_cache

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
