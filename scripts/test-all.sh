#!/bin/bash
# Everything that has to hold before a change lands; scripts/install-deps.sh tests installs what it
# needs. Ends with the line "N passed, N failed, N skipped", and with status 1 if anything failed.
#
#     scripts/test-all.sh [STEP]...      steps: see below; all of them unless some are named
#
# Reference data are sought in $DEMIST_TEST_DATA, or else in ../shared/data; without them the tests
# that need them are skipped, with them a missing file is a failure. Builds go to build-test/.
set -u
cd "$(dirname "$0")/.." || exit 2

steps=(format gcc install clang minimal tidy asan tsan valgrind fuzz)
declare -A about=(
    [format]='clang-format changes nothing'
    [gcc]='gcc, release: quick and full suites'
    [install]='what is installed, and what is built against it'
    [clang]='clang, release: quick suite without OpenCL'
    [minimal]='every optional feature off: it builds'
    [tidy]='clang-tidy finds nothing'
    [asan]='quick suite under ASan and UBSan'
    [tsan]='quick suite under TSan'
    [valgrind]='unit tests of parsers and memory under valgrind'
    [fuzz]='libFuzzer, a minute for each target'
)

top=$PWD
out=$top/build-test
jobs=$(nproc)
if [ -z "${DEMIST_TEST_DATA-}" ] && [ -d ../shared/data ]; then
    DEMIST_TEST_DATA=$(cd ../shared/data && pwd)
fi
if [ -n "${DEMIST_TEST_DATA-}" ]; then
    export DEMIST_TEST_DATA DEMIST_REQUIRE_DATA=1
fi

# configure NAME OPTION...: a fresh build folder, so that no earlier run decides anything.
configure() {
    rm -rf "${out:?}/$1"
    meson setup "$out/$1" -Dwerror=true "${@:2}"
}

# suites NAME ARGUMENT...: meson test, with all that a failed test printed. TSan maps memory at
# fixed places, which some kernels' address randomisation hits.
suites() {
    local fixed=()
    if setarch -R true 2>/dev/null; then fixed=(setarch -R); fi
    "${fixed[@]}" meson test -C "$out/$1" --no-rebuild --print-errorlogs "${@:2}"
}

# sources PATTERN: the project's files of that name.
sources() {
    find . -path './build*' -prune -o -path ./.git -prune -o -type f -name "$1" -print
}

step_format() {
    { sources '*.[ch]' && sources '*.cpp' && sources '*.cu' && sources '*.cuh'; } | xargs clang-format --dry-run -Werror
}

step_gcc() {
    rm -rf "$out/prefix"
    CC=gcc CXX=g++ configure gcc --prefix="$out/prefix" -Ddebug=true
    ninja --quiet -k 0 -C "$out/gcc"
    suites gcc --suite quick --suite full
}

step_install() {
    meson install -C "$out/gcc" --no-rebuild --quiet
    tests/check-prefix.sh "$out/prefix"
    tests/check-out-of-tree.sh "$out/prefix" examples/sampler-plugin
}

# nvcc takes its time: one configuration builds CUDA's kernels, the others have nothing to add to them.
step_clang() {
    CC=clang CXX=clang++ configure clang -Dcuda=disabled
    ninja --quiet -k 0 -C "$out/clang"
    suites clang --suite quick --no-suite opencl # its kernels have another compiler, and a slow one
}

step_minimal() {
    CC=gcc CXX=g++ configure minimal -Dauto_features=disabled
    ninja --quiet -k 0 -C "$out/minimal"
}

# Once for each file, though a plugin is compiled twice; the tests are CMocka's macros to clang-tidy.
# One file a process: clang-tidy 14 forgets va_start between files.
step_tidy() {
    CC=clang CXX=clang++ configure tidy
    python3 - "$out/tidy/compile_commands.json" <<'PYTHON' >"$out/tidy/files"
import json, os, sys
path = sys.argv[1]
commands = {}
for command in json.load(open(path)):
    command['file'] = os.path.realpath(os.path.join(command['directory'], command['file']))
    name = os.path.relpath(command['file'])
    if name.endswith('.c') and not name.startswith(('build', 'tests/', 'bench/')):
        commands.setdefault(name, command)
json.dump(list(commands.values()), open(path, 'w'))
print('\n'.join(commands))
PYTHON
    timeout 900 xargs -a "$out/tidy/files" -P "$jobs" -n 1 clang-tidy --quiet -p "$out/tidy"
}

step_asan() {
    CC=gcc CXX=g++ configure asan -Dcuda=disabled -Ddebug=true -Doptimization=1 -Db_sanitize=address,undefined
    ninja --quiet -k 0 -C "$out/asan"
    suites asan --suite quick --timeout-multiplier 3
}

step_tsan() {
    CC=gcc CXX=g++ configure tsan -Dcuda=disabled -Ddebug=true -Doptimization=1 -Db_sanitize=thread
    ninja --quiet -k 0 -C "$out/tsan"
    suites tsan --suite quick --timeout-multiplier 5
}

step_valgrind() {
    local valgrind="valgrind --quiet --leak-check=full --error-exitcode=99"
    suites gcc --timeout-multiplier 20 --wrapper "$valgrind --suppressions=$top/tests/valgrind.supp" \
        test_memory test_text test_number test_inifile test_safetensors test_torchfile test_schema
}

step_fuzz() {
    CC=clang CXX=clang++ configure fuzz -Dcuda=disabled -Dfuzz=enabled
    ninja --quiet -k 0 -C "$out/fuzz"
    suites fuzz --suite fuzz
}

passed=0 failed=0 skipped=0

run_step() {
    local name=$1 log=$out/$1.log start=$SECONDS status p f s
    local build=$out/$name
    [ "$name" != valgrind ] || build=$out/gcc
    printf '%-9s %s\n' "$name" "${about[$name]}"
    rm -f "$build"/meson-logs/testlog*.json
    (
        set -e -o pipefail
        "step_$name"
    ) >"$log" 2>&1
    status=$?
    p=0 f=0 s=0
    if compgen -G "$build/meson-logs/testlog*.json" >/dev/null; then
        read -r p f s < <(scripts/count_tests.py "$build"/meson-logs/testlog*.json)
    elif [ $status -eq 0 ]; then
        p=1
    fi
    # What fails outside the tests, a build or a check, is one failure.
    if [ $status -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    if [ "$f" -ne 0 ]; then
        tail -n 200 "$log"
        printf '%-9s FAILED (%s)\n' "$name" "$log"
    fi
    printf '%-9s %d passed, %d failed, %d skipped, %d s\n' "" "$p" "$f" "$s" $((SECONDS - start))
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

for name in "$@"; do
    declare -F "step_$name" >/dev/null || {
        echo "$0: no step $name; there are: ${steps[*]}" >&2
        exit 2
    }
done
mkdir -p "$out"
[ $# -eq 0 ] || steps=("$@")
for name in "${steps[@]}"; do run_step "$name"; done

printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
