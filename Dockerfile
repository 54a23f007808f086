# syntax=docker/dockerfile:1
# The service as an image: `docker build -t tidings .`. Both base images can be others, for a registry of your own:
#   docker build --build-arg BUILD_IMAGE=… --build-arg RUNTIME_IMAGE=… -t tidings .
# The runtime's libc has to be at least as new as the build's; the binary needs libc, libm and libgcc_s, and for `rediss://`
# and `https://` the system's certificates.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# The dependencies, which change seldom, in a layer of their own: everything of ours is an empty file here.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it/rfc6455 load benches/ingest migrations \
 && touch src/lib.rs tests/it/main.rs \
 && echo 'fn main() {}' | tee build.rs src/main.rs tests/it/rfc6455/echo.rs load/main.rs benches/ingest/main.rs >/dev/null \
 && cargo build --release --locked --bin tidings
COPY build.rs ./
COPY migrations migrations
COPY src src
# Cargo goes by dates, and those of the sources are older than the build above.
RUN find build.rs src -type f -exec touch {} + \
 && cargo build --release --locked --bin tidings \
 && mkdir -p /out/data \
 && cp target/release/tidings /out/

FROM ${RUNTIME_IMAGE}
COPY --from=build /out/tidings /usr/local/bin/tidings
# SQLite lies here where no DATABASE_URL is given; a volume keeps it.
COPY --from=build --chown=65532:65532 /out/data /var/lib/tidings
WORKDIR /var/lib/tidings
USER 65532:65532
# What a crowd leaves behind goes back at once: docs/operations.md, "Memory".
ENV DATA_DIR=/var/lib/tidings LOG_FORMAT=json MIMALLOC_PURGE_DELAY=0
EXPOSE 3001 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["/usr/local/bin/tidings", "health"]
ENTRYPOINT ["/usr/local/bin/tidings"]
CMD ["serve"]
