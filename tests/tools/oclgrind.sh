#!/bin/sh
# Every op case once on Oclgrind's device, which finds accesses outside buffers and races between
# work-items. It exits with 0 whatever it found: its report counts, in which every line that the
# program under it does not print is one of a finding.
#
#     tests/tools/oclgrind.sh BUILD_DIR [wide|tiled]… [-- CASE…]
#
# CASE is the start of cases' names. All of them take a few minutes of processor time.
set -eu

build=$1
shift
styles=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    styles="$styles $1"
    shift
done
[ $# -gt 0 ] || set -- --
command -v oclgrind >/dev/null || {
    echo "oclgrind is not installed: scripts/install-deps.sh tests" >&2
    exit 77
}
report=$(mktemp)
trap 'rm -f "$report"' EXIT
status=0
for kernels in ${styles:-wide tiled}; do
    oclgrind --data-races "$build/tests/oclgrind_cases" tuning=off cache=off "kernels=$kernels" \
        "$@" >"$report" 2>&1 || status=1
    # A finding is told behind its case.
    if ! grep -q '^device Oclgrind' "$report" || ! grep -qx 'done' "$report" ||
        grep -qv -e '^device ' -e '^case ' -e '^done$' -e 'compiling kernels for' "$report"; then
        grep -v -e '^$' "$report" | awk '/^case /{ name = $0; next } { print name ": " $0 }' | head -80
        status=1
    fi
    echo "$kernels kernels: $(grep -c '^case ' "$report") cases"
done
[ "$status" = 0 ] && echo "oclgrind found nothing"
exit "$status"
