// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does an input reach a low rank in integers? round_words(x, words, pool) once for all that
// read it; few_rows(codes, factors, words, out, pool) multiplies it by few rows of 8-bit codes and
// rounds that to the words which narrow panels multiply. Bit-identical for any number of threads
// and whatever other tokens share the call.

#include <algorithm>
#include <array>
#include <cstdint>

#include <bisup/core/contract.hpp>
#include <bisup/core/dense.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/avx2/word_rows.hpp>
#include <bisup/kernel/avx512/word_rows.hpp>
#include <bisup/kernel/dispatch.hpp>
#include <bisup/kernel/neon/word_rows.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/kernel/word_rows.hpp>
#include <bisup/ops/row_tasks.hpp>
#include <bisup/pack/word_rows.hpp>

namespace bisup {

inline constexpr auto word_rows_kernels = std::array {
#if BISUP_X86
  Entry<WordRowsKernel>{Target::avx512_vnni, {avx512_vnni::round_words, avx512_vnni::code_dots}},
      Entry<WordRowsKernel>{Target::avx2, {avx2::round_words, avx2::code_dots}},
#endif
#if BISUP_ARM64
      Entry<WordRowsKernel>{Target::neon, {neon::round_words, neon::code_dots}},
#endif
      Entry<WordRowsKernel>{Target::scalar, {scalar::round_words, scalar::code_dots}},
};

// x [tokens, cols] as words, one scale a token.
inline void round_words(MatrixRef<const float> x, WordRows& out, ThreadPool& pool) {
  const WordRowsKernel& kernel = choose(word_rows_kernels, active_target()).function;
  out.resize(x.rows(), x.cols());
  detail::over_rows(x.rows(), x.cols(), pool, [&](int t) {
    out.scale(t) = kernel.round(x.row_data(t), nullptr, x.cols(), 32767, out.row(t));
  });
}

// Words of (x rows^T) f: x [tokens, rows.cols] in words, rows [components, rows.cols] of codes,
// factors [components].
inline void few_rows(const DenseView& rows, const float* factors, const WordsView& x, WordRows& out,
                     ThreadPool& pool) {
  BISUP_EXPECTS(rows.type == DType::i8 && x.pairs == (rows.cols + 1) / 2);
  constexpr int task_tokens = 8;
  const WordRowsKernel& kernel = choose(word_rows_kernels, active_target()).function;
  // Of this thread, used by all: a task names it through the reference.
  static thread_local Matrix<float> own;
  Matrix<float>& products = own;
  products.resize(x.tokens, rows.rows), out.resize(x.tokens, rows.rows);
  pool.parallel_for((x.tokens + task_tokens - 1) / task_tokens, [&](int task, int) {
    const int first = task * task_tokens, last = std::min(first + task_tokens, x.tokens);
    kernel.dots({.codes = static_cast<const std::int8_t*>(rows.data),
                 .stride = rows.cols,
                 .rows = rows.rows,
                 .cols = rows.cols,
                 .words = x.row(first),
                 .word_stride = 2 * x.pairs,
                 .scales = x.scales + first,
                 .tokens = last - first,
                 .y = products.row(first).data(),
                 .y_stride = products.cols()});
    for (int t = first; t < last; ++t) {
      out.scale(t) = kernel.round(products.row(t).data(), factors, rows.rows,
                                  WordRows::largest_word(rows.rows), out.row(t));
    }
  });
}

}  // namespace bisup
