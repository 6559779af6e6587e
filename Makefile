# What a person runs. `make demo` shows it working, `make test` passes its tests; both set up what
# they need on a fresh Debian machine with Rust.

PROFILE := measure
TARGET  := $(or $(CARGO_TARGET_DIR),target)
BIN     := $(TARGET)/$(PROFILE)/sanderling
# Arguments of the demo, for example: make demo DEMO="--for 5m --rate 500"
DEMO    := --for 60s
# Arguments of the latency bench, for example: make bench-live LIVE="steady --quick"
LIVE    :=
# The public handbook stream, for `make figures` and `make bench-windows`.
DATA    := data/fraud-handbook.parquet

.PHONY: setup setup-tests build demo test lint bench-live bench-windows model figures compose-check

setup:
	@sh .ci/setup.sh

setup-tests: setup
	@sh .ci/setup-tests.sh

build: setup
	cargo build --locked --profile $(PROFILE) -p sanderling-service

demo: build
	$(BIN) demo $(DEMO)

test: setup-tests
	cargo test --locked --profile $(PROFILE) --workspace

# Layout, the compiler's warnings and clippy's. The first run checks every dependency, which takes minutes.
lint: setup
	cargo fmt --check
	cargo clippy --locked --profile $(PROFILE) --workspace --all-targets -- -D warnings

# Latency on a real broker, seen from outside, beside a bare copy of the topic.
bench-live: setup-tests
	cargo bench --locked --profile $(PROFILE) --workspace --bench latency -- $(LIVE)

# Windows side by side with DataFusion's and Flink's from PyPI: needs Python 3.9 to 3.12 and Java 17.
bench-windows: setup-tests
	python3 features/benches/compare/compare.py $(DATA) out/compare

# Trains the model that pipelines/card-fraud ships, on simulated payments.
model: build
	mkdir -p out
	$(BIN) simulate card-fraud --seed 7 --days 120 --start 2025-01-01 --out out/card-fraud.parquet
	$(BIN) train pipelines/card-fraud --input out/card-fraud.parquet \
		--from 2025-04-01 --to 2025-05-01 --seed 1 --out pipelines/card-fraud/model

# The figures of the README, on the public handbook stream.
figures: build
	sh docs/figures.sh $(BIN) $(DATA)

# The form of what runs and watches the service.
compose-check:
	@sh .ci/setup-compose.sh
	docker-compose -f docker-compose.yml config -q
	promtool check config deploy/prometheus.yml
