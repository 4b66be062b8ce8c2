# convnext-serve in a container. Build arguments:
#   PYTHON_VERSION  version of the Python base image
#   TORCH_BACKEND   build of torch from PyTorch's package index: cpu (default), cu130, …; empty installs the build of the
#                   default package index, which supports CUDA on x86-64
#   VERSION         version in the image's labels; `make image` sets it
#   REVISION        commit in the image's labels; `make image` sets it
ARG PYTHON_VERSION=3.12

FROM docker.io/library/python:${PYTHON_VERSION}-slim-bookworm AS build
ARG UV_VERSION=0.13.9
ARG HATCHLING_VERSION=1.33.0
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1
RUN --mount=type=cache,target=/root/.cache \
    python -m pip install --quiet --root-user-action=ignore "uv==${UV_VERSION}" "hatchling==${HATCHLING_VERSION}"

# Dependencies come first, so that this layer stays cached when only code changes.
WORKDIR /build
COPY docker/excluded.txt docker/prune.sh docker/unpin.awk ./docker/
COPY pyproject.toml constraints.txt ./
ARG TORCH_BACKEND=cpu
RUN --mount=type=cache,target=/root/.cache set -eu; \
    if [ -n "$TORCH_BACKEND" ]; then \
        awk -f docker/unpin.awk constraints.txt >unpinned.txt && mv unpinned.txt constraints.txt; \
    fi; \
    uv venv --quiet --python "$(command -v python)" /opt/venv; \
    if ! uv pip install --python /opt/venv ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"} \
        --constraint constraints.txt --excludes docker/excluded.txt --requirements pyproject.toml --extra otel; then \
        if [ -n "$TORCH_BACKEND" ]; then \
            echo "ERROR: installing torch for TORCH_BACKEND=$TORCH_BACKEND failed, see above. If PyTorch's package index" \
                "cannot be reached, build with an empty TORCH_BACKEND= to use the default package index." >&2; \
        fi; \
        exit 1; \
    fi; \
    sh docker/prune.sh /opt/venv

COPY README.md LICENSE ./
COPY app app
COPY model model
RUN --mount=type=cache,target=/root/.cache \
    python -m hatchling build --target wheel --directory dist \
    && uv pip install --quiet --python /opt/venv --prefix /package --offline --no-deps dist/*.whl


FROM docker.io/library/python:${PYTHON_VERSION}-slim-bookworm
# Triton compiles GPU kernels for the GPU at hand, and its launcher from C.
ARG TORCH_BACKEND=cpu
RUN if [ "$TORCH_BACKEND" != cpu ]; then \
        apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi
RUN groupadd --gid 10001 convnext \
    && useradd --uid 10001 --gid convnext --no-create-home --home-dir /tmp --shell /usr/sbin/nologin convnext \
    && install --directory --owner=convnext --group=convnext /var/cache/convnext
COPY --from=build /opt/venv /opt/venv
COPY docker/healthcheck.py /opt/healthcheck.py
# Compiled kernels are kept in the cache folder: code cannot be loaded from a /tmp that is mounted noexec.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TRITON_CACHE_DIR=/var/cache/convnext/triton \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/convnext/inductor \
    CONVNEXT_HOST=0.0.0.0 \
    CONVNEXT_CACHE_DIR=/var/cache/convnext
# The package is a layer of its own, so that a new version of the code is a small download.
COPY --from=build /package /opt/venv
# Fails the build if the image is incomplete: imports the whole package and checks the embedded model.
RUN convnext-serve weights verify convnext_atto_tiny_imagenet_200

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="convnext-serve" \
      org.opencontainers.image.description="A REST microservice that classifies images with ConvNeXt." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001:10001
WORKDIR /tmp
VOLUME /var/cache/convnext
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-I", "/opt/healthcheck.py"]
ENTRYPOINT ["convnext-serve"]
CMD ["serve"]
