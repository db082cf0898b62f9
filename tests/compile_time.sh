#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bash tests/compile_time.sh COMPILER: prints what including bisup.hpp alone costs without optimisation
# (3.4 s of processor time when last looked at; the aim is 3), and fails if it is more than five times what the
# standard headers in it cost: machines differ, so the limit is a ratio of two best-of-three in one run.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
TIMEFORMAT='%U %S'

seconds() {  # seconds COMPILER SOURCE
  local best=999 used attempt
  for attempt in 1 2 3; do
    used=$({ time printf "$2" | CCACHE_DISABLE=1 "$1" -std=c++20 -O0 -c -Iinclude \
      -isystem /usr/include/eigen3 -x c++ - -o /dev/null; } 2>&1) || { echo "$used" >&2; exit 1; }
    best=$(awk -v best="$best" '{ s = $1 + $2; print s < best ? s : best }' <<< "$used")
  done
  echo "$best"
}

standard='#include <algorithm>\n#include <cmath>\n#include <condition_variable>\n#include <functional>
#include <memory>\n#include <string>\n#include <thread>\n#include <variant>\n#include <vector>\n'
[ "$(uname -m)" = x86_64 ] && standard+='#include <immintrin.h>\n'
ours=$(seconds "$1" '#include <bisup/bisup.hpp>\n') || exit 1
theirs=$(seconds "$1" "$standard") || exit 1
echo "including bisup.hpp: $ours s of processor time; the standard headers alone: $theirs s"
awk -v ours="$ours" -v theirs="$theirs" 'BEGIN { exit !(ours < 5 * theirs) }'
