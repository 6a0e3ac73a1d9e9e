# An image with nothing in it but the static binary, the authorities' certificates and a configuration to build upon.
#
#   docker build -t underpass .
#   docker run -p 8080:8080 -e UNDERPASS_UPSTREAM=ws://host:9000 underpass
#
# docs/OPERATIONS.md has more; compose.yaml has an application beside it.

FROM docker.io/library/rust:1.95-alpine AS build
# hadolint ignore=DL3018
RUN apk add --no-cache ca-certificates gcc musl-dev
WORKDIR /underpass
COPY Cargo.toml Cargo.lock ./
COPY benches/count benches/count
COPY src src
# This image's Rust makes static binaries.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/underpass/target \
    cargo build --locked --release && \
    install -D -m 755 target/release/underpass /image/usr/bin/underpass
COPY packaging/image/underpass.toml /image/etc/underpass/underpass.toml
COPY LICENSE-APACHE LICENSE-MIT THIRD-PARTY-NOTICES.md /image/usr/share/doc/underpass/
RUN install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt && \
    mkdir -p /run/underpass

FROM scratch
LABEL org.opencontainers.image.title="underpass" org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /image /
# Where the admin socket lies: the only place to which underpass writes.
COPY --from=build --chown=65532:65532 /run/underpass /run/underpass
# A number, for there is no /etc/passwd; "nonroot" elsewhere.
USER 65532:65532
EXPOSE 8080
# SIGTERM, docker's own, drains for as long as `drain.timeout` says: give it as much (docker stop --time 45).
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/bin/underpass", "status"]
ENTRYPOINT ["/usr/bin/underpass"]
CMD ["run", "/etc/underpass/underpass.toml"]
