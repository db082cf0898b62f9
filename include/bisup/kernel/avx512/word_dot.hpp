// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are products of words summed in pairs?

#include <bisup/core/platform.hpp>
#if BISUP_X86
#include <immintrin.h>

#include <bisup/kernel/target.hpp>

namespace bisup::avx512_vnni {

// sum += a b, two words a lane. As an instruction: g++ 12 gives the intrinsic's result a register
// of its own and copies it back, and two dozen sums no longer fit. Upon a variable of its own: one
// that is an element of an array would go through memory each time. In both dialects: users choose
// theirs.
BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_ALWAYS_INLINE void multiply_add(__m512i& sum, __m512i a, __m512i b) noexcept {
  __m512i moved = sum;
  asm("vpdpwssd {%2, %1, %0|%0, %1, %2}" : "+v"(moved) : "v"(a), "v"(b));
  sum = moved;
}

}  // namespace bisup::avx512_vnni
#endif
