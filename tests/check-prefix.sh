#!/bin/sh
# An installed demist stands on its own: the command finds its plugins and runs an installed
# example, and a program and a plugin's headers are found through demist.pc.
#
#     check-prefix.sh PREFIX
set -eu
prefix=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "$*" >&2
    exit 1
}

pc=$(find "$prefix" -name demist.pc)
[ -f "$pc" ] || fail "no demist.pc below $prefix"
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
plugindir=$(pkg-config --variable=plugindir demist)
for plugin in schedule-linear sampler-ddim network-mlp backend-reference backend-cpu; do
    [ -f "$plugindir/$plugin.so" ] || fail "$plugindir has no $plugin.so"
done

cd "$work"
env -u DEMIST_PLUGIN_PATH "$prefix/bin/demist" sample --quiet \
    "$prefix/share/demist/examples/straight-path.ini" --set output.formats=npy,svg >written
grep -q '\.svg$' written || fail "no SVG was written: $(cat written)"
while read -r file; do
    [ -s "$file" ] || fail "$file is not there or empty"
done <written

cat >program.c <<'C'
#include <demist/demist.h>
#include <stdio.h>
int main(void)
{
    demist_session *session = demist_session_create();
    puts(demist_version());
    demist_session_destroy(session);
    return session ? 0 : 1;
}
C
libdir=$(pkg-config --variable=libdir demist)
# shellcheck disable=SC2046 # a list of flags
cc -std=c11 -Wall -Wextra -Werror -pedantic program.c -o program $(pkg-config --cflags --libs demist) \
    -Wl,-rpath,"$libdir"
version=$(./program)
[ "$version" = "$(pkg-config --modversion demist)" ] || fail "the library says $version"
readelf -d program | grep -q 'NEEDED.*libdemist\.so\.[0-9]' || fail 'libdemist has no versioned soname'
# The library's own dependencies are its own business.
pkg-config --libs demist | grep -qE -- '-l(cairo|zip|png|inih|cjson|gif)' &&
    fail "demist.pc hands on private libraries: $(pkg-config --libs demist)"
echo "demist $version in $prefix stands on its own"
