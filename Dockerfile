# Sterna on the CPU, with the model that ships. Build from the root of the repository:
#
#   docker build -t sterna .
#   docker run --rm -p 8000:8000 -p 50051:50051 sterna
#
# Arguments after the image's name go to `sterna serve`. Another model is mounted and named:
#   docker run --rm -p 8000:8000 -v /data/my-model:/model:ro sterna --model /model

FROM debian:12 AS build
WORKDIR /src
# First alone, so that changed sources do not install the packages anew.
COPY scripts/setup scripts/setup
RUN scripts/setup && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake --preset release -DSTERNA_BUILD_TESTS=OFF -DSTERNA_BUILD_BENCH=OFF \
    && cmake --build --preset release \
    && cmake --install build/release --prefix /opt/sterna --strip

FROM debian:12-slim
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
COPY --from=build /opt/sterna /opt/sterna
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
