#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Do the benchmarks build, and find what they time to agree with scalar? How long it takes is not asked.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash cmake/install_packages.sh libbenchmark-dev libdnnl-dev
launcher=()
command -v ccache > /dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
cmake --preset release -B build/bench -DBISUP_BUILD_BENCH=ON -DBISUP_BUILD_TESTS=OFF "${launcher[@]}"
cmake --build build/bench
for run in 'gemm int[24]_g128/.*/token/(2|7)/' 'gemv int4_g128' 'attend K4V4-recent64/.*/decode/512/'; do
  found=$("build/bench/bin/bench_ops_${run%% *}" --benchmark_filter="${run#* }" 2> /dev/null)
  echo "$found"
  # A filter that nothing matches prints no line; a result that differs is told as an error.
  grep -q "^${run%% *}/" <<< "$found" || { echo "FAILED: no benchmark is named $run"; exit 1; }
  if grep -q 'ERROR' <<< "$found"; then echo "FAILED: bench_ops_${run%% *}"; exit 1; fi
done
