// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do later columns make up for the rounding of earlier ones? GPTQ (Frantar et al., 2022): each
// column is rounded in turn and its error spread over those to come, along the factor U of the
// damped H^-1 = U^T U, H = sum of x x^T over the inputs. A row that this makes worse in the H-norm
// keeps the codes of plain rounding, so the result is never worse than round_groups().

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/platform.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/cholesky.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <bisup/ops/row_tasks.hpp>
#include <bisup/quant/rounding.hpp>

namespace bisup {

struct GptqOptions {
  Format format;
  bool static_groups = false;  // parameters from the weights as they were; else from the weights as
                               // they are when the walk reaches the group
  bool act_order = false;      // largest H_jj first; needs static groups or whole rows
  int block = 128;             // columns whose errors reach the others in one product
  double damping = 0.01;       // share of H's mean diagonal that is added to it
  std::span<const float> error_weights = {};         // for the quantizer; none: H's diagonal
  MatrixRef<const GroupParameters> parameters = {};  // [out, groups], found elsewhere: static
  Keepers keepers = {};  // rounded last, so they take up the errors of all others
};

namespace detail {

// The first `cols` columns by falling H_jj, ties as they come; the keepers stay where they are.
[[nodiscard]] inline std::vector<int> walk_order(MatrixRef<const float> h, int cols,
                                                 bool act_order) {
  std::vector<int> order(static_cast<std::size_t>(h.cols()));
  std::iota(order.begin(), order.end(), 0);
  if (act_order) {
    std::stable_sort(order.begin(), order.begin() + cols,
                     [&](int a, int b) { return h(a, a) > h(b, b); });
  }
  return order;
}

// H in walking order with 1 where a column is dead, and `share` of the mean live diagonal added.
[[nodiscard]] inline Matrix<float> damped(MatrixRef<const float> h, std::span<const int> order,
                                          double share, ThreadPool& pool) {
  const int n = h.rows();
  double sum = 0;
  int live = 0;
  for (int j = 0; j < n; ++j) {
    if (h(j, j) > 0) sum += h(j, j), ++live;
  }
  const double added = live > 0 ? share * sum / live : 0;
  Matrix<float> m(n, n);
  over_rows(n, n, pool, [&](int i) {
    const float* from = h.row_data(order[static_cast<std::size_t>(i)]);
    float* to = m.ref().row_data(i);
    for (int j = 0; j < n; ++j) to[j] = from[order[static_cast<std::size_t>(j)]];
    to[i] = static_cast<float>((to[i] > 0 ? to[i] : 1.0) + added);
  });
  return m;
}

// Where the block that starts at `begin` ends. Where groups are found on the way, a group lies in
// one block or starts with one, so its weights are up to date.
[[nodiscard]] inline int block_end(int begin, int cols, int block, int group, bool fixed) {
  if (fixed) return std::min(begin + block, cols);
  if (group <= block) return std::min(begin + block / group * group, cols);
  return std::min({begin + block, (begin / group + 1) * group, cols});
}

// y += factor x, eight at a time: a length that compilers turn into vector instructions at -O2.
inline void add_scaled(float factor, const float* BISUP_RESTRICT x, int count,
                       float* BISUP_RESTRICT y) {
  int i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int j = i; j < i + 8; ++j) y[j] += factor * x[j];
  }
  for (; i < count; ++i) y[i] += factor * x[i];
}

struct Walk {
  MatrixRef<const float> u;           // [in, in]
  std::span<const int> order;         // column of each step
  std::span<const float> importance;  // of columns, for the quantizer
  bool fixed;                         // the parameters in `into` are already there
  int block;
};

// Rounds columns one by one. `w`, in walking order, ends with what the errors made of it.
template <Quantizer Q>
void walk_columns(const Walk& walk, const Q& quantizer, MatrixRef<float> w, CodeMatrix& into,
                  ThreadPool& pool) {
  const int cols = into.cols(), width = into.group_width();
  Matrix<float> errors;
  for (int begin = 0; begin < cols;) {
    const int end = block_end(begin, cols, walk.block, width, walk.fixed), count = end - begin;
    errors.resize(w.rows(), count);
    // The tasks are small: a row costs count^2 / 2 multiply-adds.
    over_rows(w.rows(), count * count / 16, pool, [&](int r) {
      float* x = w.row_data(r);
      std::uint8_t* codes = into.codes.ref().row_data(r);
      for (int i = begin; i < end; ++i) {
        const int column = walk.order[static_cast<std::size_t>(i)];
        GroupParameters& p = into.parameters(r, column / width);
        if (!walk.fixed && i % width == 0) {
          // Weighted by H_jj. What an error costs on the way, 1 / U_jj^2, made a search that fits
          // the calibration text: SmolLM2 W4A8KV8-g64 lost .29 nats instead of .18.
          const auto size = static_cast<std::size_t>(std::min(width, cols - i));
          p = quantize_group(quantizer, into.format, std::span<const float>(x + i, size),
                             part_of(walk.importance, i, size), {codes + i, size});
        }
        codes[column] =
            static_cast<std::uint8_t>(encode(into.format, x[i], 1.0f / p.scale, p.zero));
        const float* u = walk.u.row_data(i);
        const float error = (decode(codes[column], p) - x[i]) / u[i];
        errors(r, i - begin) = error;
        add_scaled(error, u + i + 1, end - i - 1, x + i + 1);
      }
    });
    const int rest = w.cols() - end;
    multiply(errors.ref(), walk.u.rows(begin, count).cols(end, rest), w.cols(end, rest), Into::add,
             pool);
    begin = end;
  }
}

// e H e^T of each row, e = w - w^.
[[nodiscard]] inline std::vector<double> row_errors(MatrixRef<const float> w,
                                                    const Rounding& rounding,
                                                    MatrixRef<const float> h, ThreadPool& pool) {
  constexpr int rows = 512;  // at a time
  std::vector<double> errors(static_cast<std::size_t>(w.rows()));
  Matrix<float> e, eh;
  for (int first = 0; first < w.rows(); first += rows) {
    const int count = std::min(rows, w.rows() - first);
    e.resize(count, w.cols()), eh.resize(count, w.cols());
    over_rows(count, w.cols(), pool, [&](int r) {
      decode_row(rounding, first + r, e.row(r));
      for (int c = 0; c < w.cols(); ++c) e(r, c) = w(first + r, c) - e(r, c);
    });
    multiply_transposed(e.ref(), h, eh.ref(), Into::replace, pool);
    over_rows(count, w.cols(), pool, [&](int r) {
      double sum = 0;
      for (int c = 0; c < w.cols(); ++c) sum += static_cast<double>(e(r, c)) * eh(r, c);
      errors[static_cast<std::size_t>(first + r)] = sum;
    });
  }
  return errors;
}

// Rounds with parameters that were found elsewhere.
inline void encode_rows(MatrixRef<const float> w, MatrixRef<const GroupParameters> parameters,
                        CodeMatrix& into, ThreadPool& pool) {
  over_rows(w.rows(), w.cols(), pool, [&](int r) {
    for (int c = 0; c < w.cols(); ++c) {
      const GroupParameters& p = parameters(r, c / into.group_width());
      into.parameters(r, c / into.group_width()) = p;
      into.codes(r, c) =
          static_cast<std::uint8_t>(encode(into.format, w(r, c), 1.0f / p.scale, p.zero));
    }
  });
}

}  // namespace detail

// w: [out, in]; h: [in, in], symmetric, both triangles. A column that no input ever reaches (H_jj =
// 0) becomes zero. Damping grows tenfold, up to 1, until H can be factored. Errors: not_finite.
template <Quantizer Q = Nearest>
Result<Rounding> gptq(MatrixRef<const float> w, MatrixRef<const float> h,
                      const GptqOptions& options, const Q& quantizer = {},
                      ThreadPool& pool = ThreadPool::shared()) {
  const int n = w.cols(), cols = n - options.keepers.count;
  const bool given = !options.parameters.empty();
  const bool fixed = options.static_groups || given || options.format.group == 0;
  BISUP_EXPECTS(h.rows() == n && h.cols() == n && options.keepers.count >= 0 && cols >= 0);
  BISUP_EXPECTS(options.block > 0 && options.damping >= 0 && (fixed || !options.act_order));
  BISUP_EXPECTS(options.error_weights.empty() ||
                static_cast<int>(options.error_weights.size()) == n);
  BISUP_EXPECTS(!given || (options.parameters.rows() == w.rows() &&
                           options.parameters.cols() == options.format.groups_per_row(cols)));
  if (auto finite = detail::expect_finite(h, "the second moments"); !finite) return finite.error();
  if (auto finite = detail::expect_finite(w, "the weights"); !finite) return finite.error();

  // Dead columns become zero for both engines, so that they are compared on the same weights.
  Matrix<float> original = detail::copy_of(w);
  std::vector<float> diagonal;
  RoundingReport report;
  for (int j = 0; j < n; ++j) {
    diagonal.push_back(std::max(h(j, j), 0.0f));
    if (h(j, j) > 0) continue;
    ++report.dead_columns;
    for (int r = 0; r < w.rows(); ++r) original(r, j) = 0;
  }
  const std::span<const float> importance =
      options.error_weights.empty() ? diagonal : options.error_weights;
  auto plain =
      round_groups(original.ref(), options.format, quantizer, importance, options.keepers, pool);
  if (!plain) return plain.error();
  if (given) {
    detail::encode_rows(original.ref().cols(0, cols), options.parameters, plain->weights, pool);
    if (auto finite = detail::expect_finite_scales(plain->weights); !finite) return finite.error();
  }

  const std::vector<int> order = detail::walk_order(h, cols, options.act_order);
  auto u = inverse_factor(detail::damped(h, order, options.damping, pool), pool);
  report.damping = options.damping;
  while (!u && report.damping < 1) {
    report.damping = std::clamp(10 * report.damping, 1e-4, 1.0);
    u = inverse_factor(detail::damped(h, order, report.damping, pool), pool);
  }
  const std::vector<double> plain_errors = detail::row_errors(original.ref(), *plain, h, pool);
  report.nearest_error = std::accumulate(plain_errors.begin(), plain_errors.end(), 0.0);
  if (!u) {
    report.error = report.nearest_error, report.fell_back = true, report.nearest_rows = w.rows();
    plain->report = report;
    return plain;
  }

  Rounding result{CodeMatrix(options.format, w.rows(), cols),
                  CodeMatrix(options.keepers.format, w.rows(), options.keepers.count),
                  {}};
  for (int r = 0; r < w.rows(); ++r) result.weights.copy_row(r, plain->weights);
  Matrix<float> walked(w.rows(), n);
  detail::over_rows(w.rows(), n, pool, [&](int r) {
    for (int i = 0; i < n; ++i) walked(r, i) = original(r, order[static_cast<std::size_t>(i)]);
  });
  detail::walk_columns({u->ref(), order, importance, fixed, options.block}, quantizer, walked.ref(),
                       result.weights, pool);
  detail::round_rows(walked.ref().cols(cols, options.keepers.count), Nearest{}, {}, result.keepers,
                     pool);

  const std::vector<double> errors = detail::row_errors(original.ref(), result, h, pool);
  for (int r = 0; r < w.rows(); ++r) {
    const auto row = static_cast<std::size_t>(r);
    if (errors[row] <= plain_errors[row]) {
      report.error += errors[row];
    } else {  // or not a number
      report.error += plain_errors[row], ++report.nearest_rows;
      result.weights.copy_row(r, plain->weights);
      result.keepers.copy_row(r, plain->keepers);
    }
  }
  result.report = report;
  return result;
}

}  // namespace bisup
