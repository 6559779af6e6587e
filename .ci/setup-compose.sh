#!/bin/sh
# Installs what checks docker-compose.yml and deploy/, where it is not there.
set -eu

missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need docker-compose docker-compose
need promtool prometheus
[ -z "$missing" ] && exit 0
# shellcheck disable=SC2086
sh "$(dirname "$0")/install.sh" $missing
