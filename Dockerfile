# The service as a container: `docker build -t sanderling .`, then
# `docker run -v $PWD/pipelines/card-fraud:/pipelines/card-fraud:ro sanderling run /pipelines/card-fraud`.
# The pipeline is mounted, not built in: a new model or policy needs no new image.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Half an hour on two cores, for a service that needs two thirds of the processor time of one built as the tests are
# (docs/adr/0006-one-profile.md).
RUN cargo build --locked --release -p sanderling-service \
    && strip target/release/sanderling

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 sanderling \
    && install -d -o sanderling /var/lib/sanderling
COPY --from=build /src/target/release/sanderling /usr/local/bin/sanderling
USER sanderling
# Checkpoints.
VOLUME /var/lib/sanderling
# /livez /readyz /metrics, where health.listen says so.
EXPOSE 9464
ENTRYPOINT ["sanderling"]
CMD ["--help"]
