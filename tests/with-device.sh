#!/bin/sh
# with-device.sh BACKEND DEMIST PLUGINS TEST...: the test, or status 77 (skipped) where the backend
# has no device.
set -eu
backend=$1 demist=$2 plugins=$3
shift 3
if "$demist" devices --plugin-path "$plugins" | grep -A 1 "^backend $backend\$" | grep -q 'no device'; then
    echo "skipped: backend $backend has no device on this machine"
    exit 77
fi
exec "$@"
