#!/bin/sh
# Every public header compiles alone: check-headers.sh INCLUDE_DIR LANGUAGE STANDARD COMPILER…
set -eu
include=$1 language=$2 standard=$3
shift 3
status=0
for header in "$include"/demist/*.h; do
    echo "#include <demist/${header##*/}>" |
        "$@" -x "$language" -std="$standard" -Wall -Wextra -Wpedantic -Wshadow -Werror \
            -fsyntax-only -I"$include" - || {
        echo "${header##*/} does not compile alone as $standard" >&2
        status=1
    }
done
exit $status
