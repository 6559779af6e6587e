#!/bin/sh
# Installs the Debian packages that it is given, for what sets tests and checks up.
set -eu

if ! command -v apt-get >/dev/null 2>&1; then
    echo "not a Debian system: install what Debian calls $*" >&2
    exit 1
fi
sudo=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "not root, and there is no sudo: install these packages, then go on: $*" >&2
        exit 1
    fi
    sudo="sudo"
fi
$sudo apt-get update -q
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
