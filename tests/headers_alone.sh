#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Does every header compile by itself, without a warning? clang alone is asked: what a header forgets to
# include is the same under both compilers, which share a standard library, and the tests' builds ask both
# for their warnings; a second pass was a tenth of the whole run's time.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

compiler=$(command -v clang++ || command -v g++) || { echo "no clang++ and no g++"; exit 1; }
alone() {
  printf '#include <%s>\n' "$2" | "$1" -std=c++20 -fsyntax-only -Wall -Wextra -Wconversion -Werror \
    -Iinclude -isystem /usr/include/eigen3 -x c++ - && return 0
  echo "FAILED: $2 alone under $1"
  return 1
}
export -f alone

# The loops of kernel/lanes/ are no headers of their own (no #pragma once; habits/sources says who may): what
# expands them is one.
headers=$(cd include && grep -rl --include='*.hpp' '^#pragma once' . | cut -c3- | sort)
[ -n "$headers" ] || { echo "no header found"; exit 1; }
count=$(wc -l <<< "$headers")
# One number a header, so that a reader sees how far it is.
nl -w1 -s' ' <<< "$headers" |
  xargs -P "$(nproc)" -L1 bash -c \
    'alone "$0" "$3" 2>&1 || exit 1; echo "[$2/$1 $0] $3"' "$compiler" "$count"
