#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bash tests/run.sh            installs what is missing, builds with g++, runs every test
# bash tests/run.sh --full     and clang, sanitizers, ARM64, install consumers, benchmarks, headers alone, some mutants
# bash tests/run.sh --oracle   compares with other implementations, installed from PyPI
# Quiet; what each step printed lies in build/logs/. A second run builds only what changed.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
case "${1:-}" in
  "" | --full) ;;
  --oracle)
    bash cmake/install_packages.sh python3 python3-venv || exit 1
    exec bash tests/oracle/run.sh ;;
  *) sed -n '3,6s/^# //p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
. tests/stage.sh

packages=(g++ cmake ninja-build pkg-config libeigen3-dev nlohmann-json3-dev libpcre2-dev
  libutf8proc-dev catch2 libcli11-dev libfmt-dev libcpp-httplib-dev python3 valgrind)
[ "${1:-}" = --full ] && packages+=(clang libclang-rt-dev python3-venv)
bash cmake/install_packages.sh "${packages[@]}" || exit 1

launcher=()
if command -v ccache > /dev/null; then
  launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  export CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
fi

# build_and_test PRESET [ctest argument...]
build_and_test() {
  local preset=$1
  shift
  stage "configure $preset" cmake --preset "$preset" "${launcher[@]}" &&
    stage "build $preset" cmake --build "build/$preset" &&
    stage "test $preset" ctest --test-dir "build/$preset" -j "$jobs" --output-on-failure "$@"
  local result=$?
  [ -f "build/logs/test-$preset.log" ] && sed -n '/tests passed/,$p' "build/logs/test-$preset.log"
  return $result
}

# The plain tests, once for the same files: .ci/run asks for them before it asks for --full.
passed=build/release/passed
unchanged() {
  [ -f $passed ] && [ -z "$(find CMakeLists.txt CMakePresets.json README.md cmake docs examples \
    include tests -newer $passed -type f 2> /dev/null | head -1)" ]
}
if [ "${1:-}" = --full ] && unchanged; then
  echo "build and tests with g++ passed before, nothing changed since"
else
  rm -f $passed
  build_and_test release && touch $passed
fi
[ "${1:-}" = --full ] || { stages_summary; exit; }

# clang and the sanitizers in one build, as two would take twenty minutes more. Wrong packages and habits
# are no matter of sanitizers, and what command/resume kills is io/block_files's.
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
build_and_test asan -LE 'habits|must_not_compile|once' -E command/resume
stage "ARM64 in an emulator" bash tests/arm64.sh
stage "headers alone" bash tests/headers_alone.sh
stage "install consumers" bash tests/install/run.sh
stage "benchmarks" bash tests/benchmarks.sh
stage "mutants (a daily sample)" python3 tests/mutants/run.py --sample 12 --seconds 120
tail -4 "build/logs/mutants-(a-daily-sample).log"
tail -8 build/logs/install-consumers.log
stages_summary
