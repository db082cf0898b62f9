// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How does a loop that is written once run on every target? The file that BISUP_LOOPS names, one of
// kernel/lanes/, is included here once for each target that has the words it is written in
// (lanes.hpp and unpack.hpp of avx2/, avx512/ and neon/), and becomes that target's functions. A
// template over the target cannot do it: a target attribute takes no template argument. So this
// file and those of kernel/lanes/ have no #pragma once.

#include <bisup/core/platform.hpp>
#include <bisup/kernel/avx2/unpack.hpp>
#include <bisup/kernel/avx512/unpack.hpp>
#include <bisup/kernel/neon/unpack.hpp>

#if BISUP_X86
#define BISUP_LANES avx2
#define BISUP_LANES_ISA BISUP_ISA_AVX2
#include BISUP_LOOPS
#undef BISUP_LANES
#undef BISUP_LANES_ISA

#define BISUP_LANES avx512
#define BISUP_LANES_ISA BISUP_ISA_AVX512
#include BISUP_LOOPS
#undef BISUP_LANES
#undef BISUP_LANES_ISA
#endif

#if BISUP_ARM64
#define BISUP_LANES neon
#define BISUP_LANES_ISA BISUP_ISA_NEON
#include BISUP_LOOPS
#undef BISUP_LANES
#undef BISUP_LANES_ISA
#endif

#undef BISUP_LOOPS
