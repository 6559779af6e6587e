#!/bin/sh
# Installs what the build needs and is not there: a C toolchain and the headers that librdkafka
# links against. Rust itself is a given.
set -eu

missing=""
need() { dpkg -s "$1" >/dev/null 2>&1 || missing="$missing $1"; }

if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing: install Rust from https://rustup.rs" >&2
    exit 1
fi
if ! command -v dpkg >/dev/null 2>&1; then
    echo "not a Debian system: see that make, gcc, g++, pkg-config, OpenSSL and zlib headers are there" >&2
    exit 0
fi
for package in make gcc g++ pkg-config libssl-dev zlib1g-dev; do need "$package"; done
[ -z "$missing" ] && exit 0

sudo=""
[ "$(id -u)" -eq 0 ] || sudo="sudo"
$sudo apt-get update -q
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
