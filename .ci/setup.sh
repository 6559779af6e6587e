#!/bin/sh
# Installs what the build needs and is not there: a C toolchain and the headers that librdkafka
# links against. Rust itself is a given.
set -eu

missing=""
# A package that was removed and not purged is still known to dpkg, but not as `ii`.
need() {
    case "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null)" in
    ii*) ;;
    *) missing="$missing $1" ;;
    esac
}

if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing: install Rust from https://rustup.rs" >&2
    exit 1
fi
if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "not a Debian system: see that make, gcc, g++, pkg-config, OpenSSL and zlib headers are there" >&2
    exit 0
fi
for package in make gcc g++ pkg-config libssl-dev zlib1g-dev; do need "$package"; done
[ -z "$missing" ] && exit 0

sudo=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "not root, and there is no sudo: install these packages, then go on:$missing" >&2
        exit 1
    fi
    sudo="sudo"
fi
$sudo apt-get update -q
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
