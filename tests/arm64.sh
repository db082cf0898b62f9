#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bash tests/arm64.sh: the kernels for ARM64, cross-compiled, against the scalar ones in an emulator (qemu).
# With BISUP_ARM64_CXX and BISUP_ARM64_RUN other commands compile and run; what they print lies in build/arm64.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
compiler=${BISUP_ARM64_CXX:-aarch64-linux-gnu-g++} emulator=${BISUP_ARM64_RUN:-qemu-aarch64}
if [ "$compiler" = aarch64-linux-gnu-g++ ]; then
  bash cmake/install_packages.sh g++-aarch64-linux-gnu qemu-user catch2 libeigen3-dev
fi
out=build/arm64
mkdir -p $out/include
# Of the host's headers these alone, for the others are its processor's.
ln -sfn /usr/include/catch2 $out/include/catch2
ln -sfn /usr/include/eigen3/Eigen $out/include/Eigen
flags=(-std=c++20 -O1 -static -pthread -Wall -Wextra -Wconversion -Werror -Iinclude -Itests
  -isystem $out/include "-DBISUP_SOURCE_DIR=\"$PWD\"")

"$compiler" "${flags[@]}" -c tests/test_main.cpp -o $out/test_main.o
check() {  # check FOLDER/NAME
  local program=$out/${1//\//_}
  "$compiler" "${flags[@]}" "tests/$1_test.cpp" $out/test_main.o -o "$program" > "$program.log" 2>&1 &&
    BISUP_TARGET=neon "$emulator" "$program" >> "$program.log" 2>&1 && echo "$1 passed" && return
  echo "$1 FAILED"
  tail -40 "$program.log"
  return 1
}
tests=(kernel/providers kernel/target kernel/unpack)
for source in tests/conformance/*_test.cpp; do
  source=${source#tests/}
  tests+=("${source%_test.cpp}")
done
failed=0 running=0
for test in "${tests[@]}"; do  # two at a time: each takes most of a gigabyte
  if [ $running = 2 ]; then
    wait -n || failed=1
    running=1
  fi
  check "$test" &
  running=$((running + 1))
done
while [ $running -gt 0 ]; do
  wait -n || failed=1
  running=$((running - 1))
done
exit $failed
