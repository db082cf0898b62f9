#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bash bench/peers/llama_cpp.sh    builds llama.cpp, the peer, from its public source package and
#                                  prints the folder of its programs; a second run only prints it
# The source is vendor/llama.cpp of the sdist of llama-cpp-python on PyPI, built for this processor.
set -euo pipefail
version=0.3.36
jobs=$(nproc)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/bisup
place=$cache/llama.cpp-$version
if [ ! -f "$place/built" ]; then
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  bash "$here/../../cmake/install_packages.sh" g++ cmake ninja-build python3-pip >&2
  rm -rf "$place" "$place.part"
  mkdir -p "$place.part"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
    -d "$place.part" "llama-cpp-python==$version" >&2
  tar -xzf "$place.part"/llama_cpp_python-*.tar.gz -C "$place.part"
  mv "$place.part/llama_cpp_python-$version" "$place.part/package"
  source=$place.part/package/vendor/llama.cpp
  cmake -S "$source" -B "$place.part/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
    -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_UI=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=ON > "$place.part/log" 2>&1
  cmake --build "$place.part/build" -j "$jobs" --target llama-bench llama-perplexity llama-quantize \
    >> "$place.part/log" 2>&1 || { tail -20 "$place.part/log" >&2; exit 1; }
  touch "$place.part/built"
  mv "$place.part" "$place"
fi
echo "$place/build/bin"
