#!/bin/sh
# Samplers written outside the tree, in C11 and in C++17, are built against an installed demist with
# nothing but its demist.pc, and are then found, listed, validated and run on both CPU backends.
#
#     check-out-of-tree.sh PREFIX SOURCES      SOURCES: examples/sampler-plugin
set -eu
prefix=$(cd "$1" && pwd)
sources=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
fail() {
    echo "$*" >&2
    exit 1
}
# says PATTERN COMMAND...: the command succeeds, and its standard output has the pattern.
says() {
    pattern=$1
    shift
    "$@" >"$work/said" || fail "failed: $*"
    grep -q -e "$pattern" "$work/said" || fail "no \"$pattern\" from: $*: $(cat "$work/said")"
}

PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name demist.pc)")
export PKG_CONFIG_PATH
cp -r "$sources" "$work/plugins"
make -C "$work/plugins" CFLAGS='-O2 -Wall -Wextra -Werror -pedantic' \
    CXXFLAGS='-O2 -Wall -Wextra -Werror -pedantic' >"$work/make.log" 2>&1 || fail "$(cat "$work/make.log")"
make -C "$work/plugins" install DIR="$work/mine" >/dev/null
for plugin in "$work"/mine/*.so; do
    [ "$(nm -D --defined-only "$plugin" | cut -d' ' -f3)" = demist_plugin_v1 ] ||
        fail "$plugin exports more than its descriptor"
    readelf -d "$plugin" | grep 'NEEDED.*demist' && fail "$plugin is linked to demist"
done

cd "$work"
demist=$prefix/bin/demist
says "  midpoint" "$demist" plugins --plugin-path "$work/mine"
export DEMIST_PLUGIN_PATH="$work/mine"
says dpmpp-2m "$demist" plugins
says 'order = 2' "$demist" plugins sampler.dpmpp-2m --ini
says '"dpmpp-2m"' "$demist" plugins --json

# What a run of theirs needs: a variance-preserving schedule and any network that knows it.
cat >run.ini <<INI
[schedule]
use = linear
steps = 100
[network]
use = mlp
checkpoint = $prefix/share/demist/examples/straight-path/checkpoint.safetensors
[sampler]
use = dpmpp-2m
[sampler.dpmpp-2m]
order = 2
[sample]
steps = 10
images = 8
[output]
formats = npy
INI
for backend in reference cpu; do
    for sampler in dpmpp-2m midpoint; do
        says 'samples.*npy' "$demist" sample run.ini --quiet --set backend.use=$backend \
            --set sampler.use=$sampler --set "output.dir=out-$backend-$sampler"
    done
done
cmp -s out-cpu-dpmpp-2m/samples.npy out-cpu-midpoint/samples.npy && fail 'two samplers, one result'

if "$demist" sample run.ini --quiet --set sampler.dpmpp-2m.order=3 2>message; then
    fail 'order = 3 was accepted'
fi
grep -q 'from 1 to 2' message || fail "order = 3: $(cat message)"
if "$demist" sample run.ini --quiet --set schedule.use=straight 2>message; then
    fail 'a path was accepted by a sampler that cannot walk it'
fi
echo "samplers from outside the tree run on demist in $prefix"
