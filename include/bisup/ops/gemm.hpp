// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do I multiply packed weights by quantized activations? gemm(w, x, y, pool); one token is the
// decode case. Few columns of more bits may stand beside. Next: ops/quantize_activation.hpp makes
// x; kernel/scalar.hpp and kernel/narrow_gemm.hpp say what is computed.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/platform.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/ahead.hpp>
#include <bisup/kernel/avx2/gemm.hpp>
#include <bisup/kernel/avx2/narrow_gemm.hpp>
#include <bisup/kernel/avx512/gemm.hpp>
#include <bisup/kernel/avx512/narrow_gemm.hpp>
#include <bisup/kernel/avx_vnni/gemm.hpp>
#include <bisup/kernel/dispatch.hpp>
#include <bisup/kernel/narrow_gemm.hpp>
#include <bisup/kernel/neon/gemm.hpp>
#include <bisup/kernel/neon/narrow_gemm.hpp>
#include <bisup/kernel/scalar.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/pack/activation.hpp>
#include <bisup/pack/any_packed_tensor.hpp>
#include <bisup/pack/narrow_panels.hpp>
#include <bisup/pack/packed_view.hpp>
#include <bisup/pack/word_rows.hpp>

namespace bisup {

using GemmFn = void (*)(const PackedPanels&, const ActivationView&, MatrixRef<float>,
                        GemmRange) noexcept;

template <int Bits, bool Affine>
inline constexpr auto gemm_kernels = std::array {
#if BISUP_X86
  Entry<GemmFn>{Target::avx512_vnni, avx512::gemm<Bits, Affine>},
      Entry<GemmFn>{Target::avx_vnni, avx_vnni::gemm<Bits, Affine>},
      Entry<GemmFn>{Target::avx2, avx2::gemm<Bits, Affine>},
#endif
#if BISUP_ARM64
      Entry<GemmFn>{Target::neon, neon::gemm<Bits, Affine>},
#endif
      Entry<GemmFn>{Target::scalar, scalar::gemm<Bits>},
};

template <int Bits, bool Affine>
[[nodiscard]] Entry<GemmFn> gemm_kernel(Target target) {
  return choose(gemm_kernels<Bits, Affine>, target);
}
[[nodiscard]] inline Entry<GemmFn> gemm_kernel(const Format& format, Target target) {
  return with_bits(format.bits, [&]<int Bits>() {
    return format.affine() ? gemm_kernel<Bits, true>(target) : gemm_kernel<Bits, false>(target);
  });
}

inline constexpr auto narrow_gemm_kernels = std::array {
#if BISUP_X86
  Entry<NarrowGemmFn>{Target::avx512_vnni, avx512_vnni::narrow_gemm},
      Entry<NarrowGemmFn>{Target::avx2, avx2::narrow_gemm},
#endif
#if BISUP_ARM64
      Entry<NarrowGemmFn>{Target::neon, neon::narrow_gemm},
#endif
      Entry<NarrowGemmFn>{Target::scalar, scalar::narrow_gemm},
};

// What one task computes: a fixed size, so results do not depend on the number of threads. 24 KiB
// of codes, fewer for several tokens, keep a task above the cost of claiming it and leave a matrix
// of 576 rows in tasks that two threads share evenly; 192 tokens of activations stay in L2. Lost:
// 64 KiB whatever the tokens, 3 tasks for such a matrix; 16 sequences then decode .85 as fast.
struct GemmTasks {
  int panels, tokens;  // of one task
  int across, down;    // tasks over panels, over tokens

  constexpr GemmTasks(const PackedShape& shape, int token_count)
      : panels(0), tokens(192), across(0), down((token_count + tokens - 1) / tokens) {
    const int step = token_count <= 2 ? 4 : 2;  // panels that the kernels take at once
    const std::size_t each =
        shape.row_tile_size() * static_cast<std::size_t>(std::min(token_count, 4));
    panels = std::clamp(static_cast<int>(24576 / each) / step * step, step, 32);
    across = (shape.row_tiles() + panels - 1) / panels;
  }
  [[nodiscard]] constexpr int count() const { return across * down; }
  [[nodiscard]] constexpr GemmRange range(int task, const PackedShape& shape,
                                          int token_count) const {
    const int panel = task / down * panels, token = task % down * tokens;
    return {panel, std::min(panel + panels, shape.row_tiles()), token,
            std::min(token + tokens, token_count)};
  }
};

// Few columns that stand beside others, and what they multiply.
struct Beside {
  NarrowView weights;
  WordsView x;
};

// y[t, r] = sum over c of w[r, c] x[t, c], with x as quantized for w's groups, plus what stands
// beside and a bias ([rows], or none), added while y is near. The same bits for any number of
// threads and whatever other tokens share the call.
inline void gemm(const PackedPanels& w, const ActivationView& x, std::span<const Beside> beside,
                 std::span<const float> bias, MatrixRef<float> y, ThreadPool& pool) {
  const PackedShape& shape = w.shape;
  BISUP_EXPECTS(x.cols == shape.cols && x.padded_cols == shape.padded_cols() &&
                x.groups == shape.groups());
  BISUP_EXPECTS(x.scale_groups == 1 || x.scale_groups == x.groups);
  BISUP_EXPECTS(y.rows() == x.tokens && y.cols() == shape.rows);
  BISUP_EXPECTS(shape.group_codes() <= longest_group);
  BISUP_EXPECTS(bias.empty() || static_cast<int>(bias.size()) == shape.rows);
  for (const Beside& more : beside) {
    BISUP_EXPECTS(more.weights.rows == shape.rows && more.x.tokens == x.tokens &&
                  more.x.pairs == more.weights.pairs);
  }
  const GemmFn kernel = gemm_kernel(shape.format, active_target()).function;
  const NarrowGemmFn narrow = choose(narrow_gemm_kernels, active_target()).function;
  const auto add_row = vector_kernels().add;
  const GemmTasks tasks(shape, x.tokens);
  pool.parallel_for(tasks.count(), [&](int task, int) {
    const GemmRange range = tasks.range(task, shape, x.tokens);
    // Few columns of a task's panels are asked for while their many columns are multiplied: they
    // lie elsewhere, and a processor expects nothing where it reads 4 KB at a time. SmolLM2 by
    // bisup_atom decodes 1.09 times as fast on Zen 4.
    for (const Beside& more : beside) {
      const std::int8_t* const first = more.weights.panel(range.first_panel);
      ask_for(first, more.weights.panel(range.last_panel) - first);
    }
    kernel(w, x, y, range);
    for (const Beside& more : beside) narrow(more.weights, more.x, y, range);
    if (bias.empty()) return;
    const int first = range.first_panel * panel16::tile_rows;
    const int count = std::min(range.last_panel * panel16::tile_rows, shape.rows) - first;
    for (int t = range.first_token; t < range.last_token; ++t)
      add_row(bias.data() + first, count, y.row_data(t) + first);
  });
}
inline void gemm(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y,
                 ThreadPool& pool) {
  gemm(w, x, {}, {}, y, pool);
}

#ifdef BISUP_COMPILED
#define BISUP_GEMM_OF(bits)                                              \
  extern template Entry<GemmFn> gemm_kernel<bits, false>(Target target); \
  extern template Entry<GemmFn> gemm_kernel<bits, true>(Target target);
BISUP_GEMM_OF(2)
BISUP_GEMM_OF(3)
BISUP_GEMM_OF(4)
BISUP_GEMM_OF(5)
BISUP_GEMM_OF(6)
BISUP_GEMM_OF(8)
#undef BISUP_GEMM_OF
#endif

}  // namespace bisup
