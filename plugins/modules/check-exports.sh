#!/bin/sh
# A plugin exports its descriptor and nothing else, and links nothing of the project's.
set -eu
# ASan's marks of globals (__odr_asan.NAME) are the compiler's own.
symbols=$(nm -D --defined-only "$1" | cut -d' ' -f3 | sed '/^__odr_asan\./d')
if [ "$symbols" != demist_plugin_v1 ]; then
    printf '%s exports, instead of demist_plugin_v1 alone:\n%s\n' "$1" "$symbols" >&2
    exit 1
fi
if readelf -d "$1" | grep 'NEEDED.*demist' >&2; then
    printf '%s is linked to the project (above)\n' "$1" >&2
    exit 1
fi
