// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who adds up what rounding a group costs? quant/clip_search.hpp tries its candidates with it;
// kernel/scalar_rounding_error.hpp says what is computed.

#include <array>

#include <bisup/kernel/dispatch.hpp>
#include <bisup/kernel/scalar_rounding_error.hpp>

#define BISUP_LOOPS <bisup/kernel/lanes/rounding_error.hpp>
#include <bisup/kernel/each_target.hpp>

namespace bisup {

template <class T = float>
inline constexpr std::array rounding_error_table = {
#if BISUP_X86
    Entry<RoundingErrorKernels>{Target::avx512,
                                {avx512::rounding_error<true>, avx512::rounding_error<false>}},
    Entry<RoundingErrorKernels>{Target::avx2,
                                {avx2::rounding_error<true>, avx2::rounding_error<false>}},
#endif
#if BISUP_ARM64
    Entry<RoundingErrorKernels>{Target::neon,
                                {neon::rounding_error<true>, neon::rounding_error<false>}},
#endif
    Entry<RoundingErrorKernels>{Target::scalar,
                                {scalar::rounding_error<true>, scalar::rounding_error<false>}},
};

template <class T = float>
const RoundingErrorKernels& rounding_error_kernels() {
  static const RoundingErrorKernels kernels =
      choose(rounding_error_table<T>, active_target()).function;
  return kernels;
}

#if defined(BISUP_COMPILED)
extern template const RoundingErrorKernels& rounding_error_kernels<float>();
#endif

}  // namespace bisup
