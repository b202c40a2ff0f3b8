#!/bin/sh
# The op cases on Oclgrind's device, which finds accesses outside buffers, races between work-items,
# and uninitialised memory that decides something. It exits with 0 whatever it found: its log counts.
#
#     tests/tools/oclgrind.sh BUILD_DIR [wide|tiled]…
set -eu

build=$1
shift
[ $# -gt 0 ] || set -- wide tiled
command -v oclgrind >/dev/null || {
    echo "oclgrind is not installed: apt-get install oclgrind" >&2
    exit 77
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
for kernels in "$@"; do
    echo "== $kernels kernels"
    oclgrind --log "$log" --data-races "$build/tests/test_backend_ops_opencl" f32 tuning=off \
        cache=off "kernels=$kernels" || status=1
    if [ -s "$log" ]; then
        head -60 "$log"
        status=1
    fi
done
[ "$status" = 0 ] && echo "oclgrind found nothing"
exit "$status"
