# tinylm on a CPU. Build it and make the demo; the result is in ./runs:
#   docker build -t tinylm .
#   docker run --rm -v "$PWD/runs:/tinylm/runs" tinylm
# Anything else: docker run --rm -v "$PWD/runs:/tinylm/runs" tinylm tinylm run my.toml
# Where the package index has only the CUDA build of torch, name an index of CPU builds:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=... -t tinylm .
FROM debian:bookworm-slim

# g++ and Python's headers: without them the training step is not compiled, and slower
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /tinylm
ARG PIP_EXTRA_INDEX_URL=""
ARG PIP_NO_CACHE_DIR=1
COPY . .
RUN make setup
ENV PATH="/tinylm/.venv/bin:$PATH"
CMD ["make", "run"]
