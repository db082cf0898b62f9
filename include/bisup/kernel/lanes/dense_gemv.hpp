// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How are weights multiplied by one to eight tokens? Eight rows (four for more tokens) stream past
// once, converted as they are read; nothing is packed. Included by each_target.hpp.
// Limit: the bandwidth of whatever holds the weights; in cache, one load of weights a multiply-add.
// Registers: four rows by as many tokens as fit: of 16 registers 12 sums, 3 of x, 1 of weights.
// Lost: leaving short rows to the processor (bf16 rows of 576: 0.4 of the read bandwidth, not 0.7).

#include <cstddef>

#include <bisup/kernel/dense_operand.hpp>

namespace bisup::BISUP_LANES {

template <int Lines>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void prefetch_lines(const char* from) noexcept {
  if constexpr (Lines > 0) {
    __builtin_prefetch(from);
    prefetch_lines<Lines - 1>(from + 64);
  }
}

// One block of Rows rows by Tokens tokens; rows beyond `rows` repeat the last one and are not
// stored.
template <DType Type, int Rows, int Tokens>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void gemv_block(const DenseOperand& w, int first_row, int rows, int count,
                                    const float* x, std::ptrdiff_t x_stride, float* y,
                                    std::ptrdiff_t y_stride, const char* next) noexcept {
  std::ptrdiff_t at[Rows];
  Floats sum[Rows][Tokens];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    at[r] = (first_row + (r < rows ? r : rows - 1)) * w.stride;
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) sum[r][t] = splat(0.0f);
  }
  const int whole = count / lane_count * lane_count;
  for (int k = 0; k < whole; k += lane_count) {
    if (next != nullptr) {
      constexpr int bytes = lane_count * Rows * bytes_of(Type);
      prefetch_lines<(bytes + 63) / 64>(next);
      next += bytes;
    }
    Floats xt[Tokens];
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) xt[t] = load(x + t * x_stride + k);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Floats wr = load_floats<Type>(w.data, at[r] + k, lane_count);
#pragma GCC unroll 4
      for (int t = 0; t < Tokens; ++t) sum[r][t] = multiply_add(wr, xt[t], sum[r][t]);
    }
  }
  if (whole < count) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Floats wr = load_floats<Type>(w.data, at[r] + whole, count - whole);
#pragma GCC unroll 4
      for (int t = 0; t < Tokens; ++t) {
        sum[r][t] = multiply_add(
            wr, load_floats<DType::f32>(x, t * x_stride + whole, count - whole), sum[r][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
      if (r < rows) y[t * y_stride + r] = sum_lanes(sum[r][t]);
    }
  }
}

// Where the next block of rows begins if it is worth fetching while this one is multiplied: short
// rows end before the processor's own prefetching has noticed them, long blocks would evict each
// other.
template <DType Type>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE const
    char* next_rows(const DenseOperand& w, int row, int rows, int elements) noexcept {
  if (rows <= 0 || elements * bytes_of(Type) > (20 << 10)) return nullptr;
  return static_cast<const char*>(w.data) + row * w.stride * bytes_of(Type);
}

// Up to Rows rows by all tokens, so many at a time as registers allow.
template <DType Type, int Rows>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void gemv_rows(const DenseOperand& w, int first_row, int rows, int count,
                                   const float* x, std::ptrdiff_t x_stride, int tokens, float* y,
                                   std::ptrdiff_t y_stride, const char* next) noexcept {
  constexpr int most = register_count >= 32 ? 4 : 3;
  int t = 0;
  for (; t + most <= tokens; t += most) {
    gemv_block<Type, Rows, most>(w, first_row, rows, count, x + t * x_stride, x_stride,
                                 y + t * y_stride, y_stride, t == 0 ? next : nullptr);
  }
  for (; t + 2 <= tokens; t += 2) {
    gemv_block<Type, Rows, 2>(w, first_row, rows, count, x + t * x_stride, x_stride,
                              y + t * y_stride, y_stride, t == 0 ? next : nullptr);
  }
  if (t < tokens) {
    gemv_block<Type, Rows, 1>(w, first_row, rows, count, x + t * x_stride, x_stride,
                              y + t * y_stride, y_stride, t == 0 ? next : nullptr);
  }
}

template <DType Type>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void gemv_of(const DenseOperand& w, int first_row, int rows, int count,
                                    const float* x, std::ptrdiff_t x_stride, int tokens, float* y,
                                    std::ptrdiff_t y_stride) noexcept {
  const int most = tokens == 1 ? 8 : 4;
  for (int r = 0; r < rows; r += most) {
    const int left = rows - r < most ? rows - r : most;
    const char* next = next_rows<Type>(w, first_row + r + most, rows - r - most, most * count);
    if (left == 1) {
      gemv_rows<Type, 1>(w, first_row + r, 1, count, x, x_stride, tokens, y + r, y_stride, next);
    } else if (left <= 4) {
      gemv_rows<Type, 4>(w, first_row + r, left, count, x, x_stride, tokens, y + r, y_stride, next);
    } else {
      gemv_block<Type, 8, 1>(w, first_row + r, left, count, x, x_stride, y + r, y_stride, next);
    }
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void dense_gemv(const DenseOperand& w, int first_row, int rows, int count,
                                       const float* x, std::ptrdiff_t x_stride, int tokens,
                                       float* y, std::ptrdiff_t y_stride) noexcept {
  switch (w.type) {
    case DType::f32:
      return gemv_of<DType::f32>(w, first_row, rows, count, x, x_stride, tokens, y, y_stride);
    case DType::f16:
      return gemv_of<DType::f16>(w, first_row, rows, count, x, x_stride, tokens, y, y_stride);
    case DType::bf16:
      return gemv_of<DType::bf16>(w, first_row, rows, count, x, x_stride, tokens, y, y_stride);
    case DType::i8:
      return gemv_of<DType::i8>(w, first_row, rows, count, x, x_stride, tokens, y, y_stride);
  }
}

}  // namespace bisup::BISUP_LANES
