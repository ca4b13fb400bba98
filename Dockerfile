# Sterna with the model that ships, on the CPU or on an NVIDIA GPU. Build from the root of the
# repository:
#
#   docker build -t sterna .
#   docker run --rm -p 8000:8000 -p 50051:50051 sterna
#
#   docker build --target cuda -t sterna:cuda .
#   docker run --rm --gpus 1 -p 8000:8000 -p 50051:50051 sterna:cuda --device cuda
#
# The host needs NVIDIA's container toolkit and a driver for CUDA 13 (580 or newer).
#
# Arguments after the image's name go to `sterna serve`. Another model is mounted and named:
#   docker run --rm -p 8000:8000 -v /data/my-model:/model:ro sterna --model /model

FROM debian:12 AS sources
WORKDIR /src
# First alone, so that changed sources do not install the packages anew.
COPY scripts/setup scripts/setup
RUN scripts/setup && rm -rf /var/lib/apt/lists/*
COPY . .

FROM sources AS build-cuda
# The compiler and the headers alone; the runtime is linked statically.
RUN apt-get update && apt-get install -y --no-install-recommends wget \
    && wget -qO keyring.deb \
        https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/cuda-keyring_1.1-1_all.deb \
    && dpkg -i keyring.deb && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        cuda-nvcc-13-0 cuda-cudart-dev-13-0 cuda-cccl-13-0 \
    && rm -rf /var/lib/apt/lists/* keyring.deb
ENV PATH=/usr/local/cuda-13.0/bin:$PATH
RUN cmake --preset release -DSTERNA_CUDA=ON -DSTERNA_BUILD_TESTS=OFF -DSTERNA_BUILD_BENCH=OFF \
    && cmake --build --preset release \
    && cmake --install build/release --prefix /opt/sterna --strip

FROM sources AS build-cpu
RUN cmake --preset release -DSTERNA_BUILD_TESTS=OFF -DSTERNA_BUILD_BENCH=OFF \
    && cmake --build --preset release \
    && cmake --install build/release --prefix /opt/sterna --strip

FROM debian:12-slim AS runtime
# The shared libraries the two programs are linked with (tests/integration/test_deploy.py compares
# this list with what the loader says).
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        libabsl20220623 \
        libgrpc++1.51 \
        libgrpc29 \
        libpcre2-8-0 \
        libprometheus-cpp-core1.0 \
        libsentencepiece0 \
        libstdc++6 \
        libutf8proc2 \
        zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin sterna
ENV PATH=/opt/sterna/bin:$PATH
USER 10001:10001
EXPOSE 8000 50051
# The slim image has no HTTP client; bash speaks enough of it. Loading a large model takes a while.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8000 && printf 'GET /health/ready HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
STOPSIGNAL SIGTERM
# Inside a container all addresses are the container's own: which ports are public is decided by who
# starts it.
ENTRYPOINT ["sterna", "serve", "--host", "0.0.0.0"]

FROM runtime AS cuda
# What the container toolkit brings in from the host: the driver, and NVML for the joules.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/sterna /opt/sterna

FROM runtime AS cpu
COPY --from=build-cpu /opt/sterna /opt/sterna
