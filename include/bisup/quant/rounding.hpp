// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a rounding engine return? One form for all of slot R: codes of the weights, codes of
// the keeper columns, and what was lost. round_groups() is the plain engine, quant/gptq.hpp the one
// that lets later columns make up for earlier ones.

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/row_tasks.hpp>
#include <bisup/quant/code_matrix.hpp>
#include <bisup/quant/quantizer.hpp>

namespace bisup {

// The last `count` columns of a matrix, kept in a finer format: Atom's outlier channels.
struct Keepers {
  int count = 0;
  Format format{.bits = 8, .group = 0};
  friend constexpr bool operator==(const Keepers&, const Keepers&) = default;
};

struct RoundingReport {
  double error = 0;          // sum over rows of e H e^T with e = w - w^; keepers included
  double nearest_error = 0;  // the same of rounding each group by itself
  double damping = 0;        // share of H's mean diagonal that was added
  int dead_columns = 0;      // columns whose input is always zero; their weights became zero
  int nearest_rows = 0;      // rows that GPTQ made worse, and that keep the plain codes
  bool fell_back = false;    // no damping up to 1 made H positive definite: all rows are plain
};

struct Rounding {
  CodeMatrix weights;  // [out, in - keepers]
  CodeMatrix keepers;  // [out, keepers]
  RoundingReport report;
};

// The weights that the codes of a row stand for, keepers last. Requires as many as a row has.
inline void decode_row(const Rounding& rounding, int row, std::span<float> out) {
  const auto cols = static_cast<std::size_t>(rounding.weights.cols());
  rounding.weights.decode_row(row, out.first(cols));
  rounding.keepers.decode_row(row, out.subspan(cols));
}

// All rows.                                                                          // [out, in]
[[nodiscard]] inline Matrix<float> decoded(const Rounding& rounding,
                                           ThreadPool& pool = ThreadPool::shared()) {
  Matrix<float> w(rounding.weights.rows(), rounding.weights.cols() + rounding.keepers.cols());
  detail::over_rows(w.rows(), w.cols(), pool, [&](int r) { decode_row(rounding, r, w.row(r)); });
  return w;
}

namespace detail {

inline Result<void> expect_finite(MatrixRef<const float> m, const char* what) {
  for (int r = 0; r < m.rows(); ++r) {
    for (const float v : m.row(r)) {
      if (!std::isfinite(v)) {
        return Error{Errc::not_finite, std::string("row ") + std::to_string(r) + " of " + what +
                                           " holds a number that is NaN or infinite"};
      }
    }
  }
  return {};
}

[[nodiscard]] inline std::span<const float> part_of(std::span<const float> all, int begin,
                                                    std::size_t count) {
  return all.empty() ? all : all.subspan(static_cast<std::size_t>(begin), count);
}

// Rounds whole rows, each group by itself.
template <Quantizer Q>
void round_rows(MatrixRef<const float> w, const Q& quantizer, std::span<const float> error_weights,
                CodeMatrix& into, ThreadPool& pool) {
  over_rows(w.rows(), w.cols(), pool, [&](int r) {
    for (int begin = 0, g = 0; begin < w.cols(); begin += into.group_width(), ++g) {
      const auto first = static_cast<std::size_t>(begin);
      const auto count = static_cast<std::size_t>(std::min(into.group_width(), w.cols() - begin));
      into.parameters(r, g) = quantize_group(quantizer, into.format, w.row(r).subspan(first, count),
                                             part_of(error_weights, begin, count),
                                             into.codes.row(r).subspan(first, count));
    }
  });
}

inline Result<void> expect_finite_scales(const CodeMatrix& codes) {
  for (int r = 0; r < codes.rows() && codes.cols() > 0; ++r) {
    for (const GroupParameters& p : codes.parameters.row(r)) {
      if (!std::isfinite(p.scale)) {
        return Error{Errc::not_finite,
                     "a weight in row " + std::to_string(r) + " is too large for the scale type"};
      }
    }
  }
  return {};
}

}  // namespace detail

// Rounds each group by itself. error_weights: E[x_j^2] of each column's input, or none for equal
// ones; they weigh the report too. Errors: not_finite.
template <Quantizer Q = Nearest>
Result<Rounding> round_groups(MatrixRef<const float> w, const Format& format,
                              const Q& quantizer = {}, std::span<const float> error_weights = {},
                              const Keepers& keepers = {},
                              ThreadPool& pool = ThreadPool::shared()) {
  const int cols = w.cols() - keepers.count;
  BISUP_EXPECTS(format.valid() && keepers.format.valid() && keepers.count >= 0 && cols >= 0);
  BISUP_EXPECTS(error_weights.empty() || static_cast<int>(error_weights.size()) == w.cols());
  if (auto finite = detail::expect_finite(w, "the weights"); !finite) return finite.error();
  Rounding result{
      CodeMatrix(format, w.rows(), cols), CodeMatrix(keepers.format, w.rows(), keepers.count), {}};
  const auto count = static_cast<std::size_t>(cols);
  detail::round_rows(w.cols(0, cols), quantizer, detail::part_of(error_weights, 0, count),
                     result.weights, pool);
  detail::round_rows(w.cols(cols, keepers.count), Nearest{}, {}, result.keepers, pool);
  for (const CodeMatrix* codes : {&result.weights, &result.keepers}) {
    if (auto finite = detail::expect_finite_scales(*codes); !finite) return finite.error();
  }
  std::vector<double> errors(static_cast<std::size_t>(w.rows()));
  const Matrix<float> back = decoded(result, pool);
  detail::over_rows(w.rows(), w.cols(), pool, [&](int r) {
    double sum = 0;
    for (int c = 0; c < w.cols(); ++c) {
      const double h = error_weights.empty() ? 1.0 : error_weights[static_cast<std::size_t>(c)];
      const double d = static_cast<double>(w(r, c)) - back(r, c);
      sum += h * d * d;
    }
    errors[static_cast<std::size_t>(r)] = sum;
  });
  for (const double error : errors) result.report.error += error;
  result.report.nearest_error = result.report.error;
  return result;
}

}  // namespace bisup
