#!/bin/sh
# Installs, on Debian 12, what the build needs; with `tests` also what scripts/test-all.sh needs.
#
#     scripts/install-deps.sh [tests]
#
# Asks apt for nothing when everything is there. Uses sudo when it is not run by root.
set -eu

build="gcc libc6-dev meson ninja-build pkg-config
    libinih-dev libpng-dev libzip-dev zlib1g-dev libcjson-dev libgif-dev libjpeg-dev
    libcairo2-dev ocl-icd-opencl-dev libclblast-dev"
# libc-bin and locales carry what the locale tests compile; the clang tools are Debian 12's 14.
# chromium draws the page that `demist compare --html` writes.
tests="binutils chromium clang clang-format clang-tidy g++ libc-bin libclang-rt-14-dev libcmocka-dev
    locales make mandoc oclgrind pocl-opencl-icd python3 util-linux valgrind"

case "${1-}" in
'') packages=$build ;;
tests) packages="$build $tests" ;;
*)
    echo "usage: scripts/install-deps.sh [tests]" >&2
    exit 2
    ;;
esac

missing=
for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
    echo "everything that is needed is installed"
    exit 0
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
    command -v sudo >/dev/null || {
        echo "run as root: apt-get install$missing" >&2
        exit 1
    }
fi
apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o Acquire::Retries=3 "$@"
}
# A mirror in the middle of its update fails once; a second failure is one to look at.
apt update || { sleep 10 && apt update; }
# shellcheck disable=SC2086 # a list of names
apt install --no-install-recommends $missing
