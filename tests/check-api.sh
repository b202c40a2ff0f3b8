#!/bin/sh
# libdemist.so exports exactly what demist.h declares with DEMIST_API.
set -eu
declared=$(sed -n 's/^DEMIST_API .*\(demist_[a-z_]*\)(.*/\1/p' "$2" | LC_ALL=C sort)
exported=$(nm -D --defined-only "$1" | cut -d' ' -f3 | LC_ALL=C sort)
if [ -z "$declared" ] || [ "$declared" != "$exported" ]; then
    printf 'declared in %s:\n%s\n\nexported by %s:\n%s\n' "$2" "$declared" "$1" "$exported" >&2
    exit 1
fi
