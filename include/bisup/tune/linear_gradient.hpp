// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do an input and the linears that read it go forwards and backwards? Prepared once for all of
// them; backwards their gradients meet before the rounding, those of branches after it.

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/dot.hpp>
#include <bisup/tune/arithmetic.hpp>
#include <bisup/tune/simulated_block.hpp>
#include <bisup/tune/straight_through.hpp>

namespace bisup::tune {

// What the caller learns: only what these need is computed.
struct Wanted {
  bool weight_clips = false, smoothing = false, low_rank = false, activation_clips = false,
       cache_clips = false, norm_gains = false, weight_scales = false, biases = false;
  bool input = false;  // the gradient of what enters the block

  // The gradient of a linear's weights is needed, formed, used and forgotten, linear by linear.
  template <class T>
  [[nodiscard]] bool weights(const SimulatedLinear<T>& linear) const noexcept {
    return (linear.is_derived() || linear.codes) &&
           (weight_clips || smoothing || weight_scales || (low_rank && linear.merged));
  }
};

// Gradients of a linear's numbers; rows and columns are those of the logarithms of its factors.
template <class T>
struct LinearGradient {
  Matrix<T> clip_high, clip_low, a, b, log_scale;
  std::vector<T> rows, columns, shift;
};

// An input on its way; `arriving` is the caller's and must outlive its use.
template <class T>
struct PreparedInput {
  MatrixRef<const T> before;  // the rounding: [tokens, in]
  MatrixRef<const T> values;  // what is multiplied
  Matrix<T> rotated, prepared, rounded;
};

template <class T>
void prepare(const SimulatedInput<T>& input, MatrixRef<const T> arriving, PreparedInput<T>& x,
             ThreadPool& pool) {
  x.before = arriving;
  if (!input.plain()) {
    MatrixRef<const T> from = arriving;
    if (input.rotation) {
      x.rotated.resize(arriving.rows(), arriving.cols());
      for (int t = 0; t < arriving.rows(); ++t) {
        std::copy_n(arriving.row_data(t), arriving.cols(), x.rotated.row(t).data());
      }
      input.rotation.apply(x.rotated.ref(), pool);
      from = x.before = x.rotated.ref();
    }
    if (!input.order.empty() || !input.factor.empty()) {
      x.prepared.resize(arriving.rows(), arriving.cols());
      const auto product = gradient_kernels<T>().product;
      detail::over_rows(arriving.rows(), arriving.cols(), pool, [&](int t) {
        T* const to = x.prepared.row(t).data();
        const T* row = from.row_data(t);
        for (int j = 0; j < arriving.cols() && !input.order.empty(); ++j) {
          to[j] = row[input.order[static_cast<std::size_t>(j)]];
        }
        if (!input.order.empty()) row = to;
        if (!input.factor.empty()) product(row, input.factor.data(), arriving.cols(), to);
      });
      x.before = x.prepared.ref();
    }
  }
  x.values = x.before;
  if (!input.rounding) return;
  x.rounded.resize(arriving.rows(), arriving.cols());
  const T share = logistic(input.clip);
  detail::over_rows(arriving.rows(), arriving.cols(), pool, [&](int t) {
    round_row<T>(*input.rounding, {{&share, 1}, {&share, 1}}, x.before.row(t), x.rounded.row(t));
  });
  x.values = x.rounded.ref();
}

// g: the gradient of the rounded input becomes that of the input before it; adds to the clip's.
template <class T>
void unround(const SimulatedInput<T>& input, const PreparedInput<T>& x, MatrixRef<T> g, T& dclip,
             ThreadPool& pool) {
  if (!input.rounding) return;
  const T share = logistic(input.clip);
  std::vector<T> of_token(static_cast<std::size_t>(g.rows()));
  detail::over_rows(g.rows(), g.cols(), pool, [&](int t) {
    const std::span<T> d(&of_token[static_cast<std::size_t>(t)], 1);
    round_row_gradient<T>(*input.rounding, {{&share, 1}, {&share, 1}}, x.before.row(t), g.row(t),
                          g.row(t), {d, d});
  });
  T sum = 0;
  for (const T d : of_token) sum += d;
  dclip += sum * share * (1 - share);
}

// g: the gradient of the prepared input becomes that of what arrived, in `arriving`, which is g if
// the input is plain and else is not. Adds to that of the factors' logarithms, if dfactor is not
// empty.
template <class T>
void unprepare(const SimulatedInput<T>& input, const PreparedInput<T>& x, MatrixRef<T> g,
               std::span<T> dfactor, MatrixRef<T> arriving, ThreadPool& pool) {
  if (!dfactor.empty()) add_column_products<T>(g, x.before, {}, dfactor, pool);
  if (arriving.empty() || input.plain()) return;
  if (!input.factor.empty()) {
    const auto product = gradient_kernels<T>().product;
    detail::over_rows(g.rows(), g.cols(), pool, [&](int t) {
      product(g.row_data(t), input.factor.data(), g.cols(), g.row_data(t));
    });
  }
  detail::over_rows(g.rows(), g.cols(), pool, [&](int t) {
    const T* from = g.row_data(t);
    T* to = arriving.row_data(t);
    if (input.order.empty()) {
      std::copy_n(from, g.cols(), to);
    } else {
      for (int j = 0; j < g.cols(); ++j) to[input.order[static_cast<std::size_t>(j)]] = from[j];
    }
  });
  if (input.rotation) input.rotation.apply_inverse(arriving, pool);
}

// y = x W^T + kappa (x A^T) B^T + bias. `projected` keeps kappa x A^T, [tokens, rank], which is all
// that happens for an empty y.
template <class T>
void apply(const SimulatedLinear<T>& linear, const PreparedInput<T>& x, bool branch_reads_rounded,
           Matrix<T>& projected, MatrixRef<T> y, ThreadPool& pool) {
  if (!y.empty()) {
    multiply_transposed(x.values, linear.effective(), y, Into::replace, pool, linear.products);
  }
  if (linear.rank() > 0) {
    projected.resize(x.values.rows(), linear.rank());
    multiply_transposed(branch_reads_rounded ? x.values : x.before, linear.a.ref(), projected.ref(),
                        Into::replace, pool);
    if (linear.kappa != 1) {
      for (int t = 0; t < projected.rows(); ++t) {
        for (T& p : projected.row(t)) p *= linear.kappa;
      }
    }
    if (y.empty()) return;
    multiply_transposed(std::as_const(projected).ref(), linear.b.ref(), y, Into::add, pool);
  }
  const std::vector<T> bias = linear.effective_bias();
  if (y.empty() || bias.empty()) return;
  const auto add_row = row_kernels<T>().add;
  detail::over_rows(y.rows(), y.cols(), pool,
                    [&](int t) { add_row(bias.data(), y.cols(), y.row_data(t)); });
}

namespace detail {

// The gradient of the logarithms of a row's scales: each group's inner product of the weights with
// their gradient.
template <class T>
void log_scale_gradient(const RowRounding& codes, std::span<const T> weights,
                        std::span<const T> gradient, std::span<T> into) {
  for (std::size_t g = 0; g < into.size(); ++g) {
    const auto [begin, end] = codes.group(static_cast<int>(g), static_cast<int>(weights.size()));
    const auto first = static_cast<std::size_t>(begin),
               count = static_cast<std::size_t>(end - begin);
    into[g] +=
        static_cast<T>(dot<T>(weights.subspan(first, count), gradient.subspan(first, count)));
  }
}

// Sums over tokens.
template <class T>
std::vector<T> column_sums(MatrixRef<const T> dy, ThreadPool& pool) {
  std::vector<T> sums(static_cast<std::size_t>(dy.cols()));
  const auto add_row = row_kernels<T>().add;
  over_columns(dy.cols(), pool, [&](int first, int count) {
    for (int t = 0; t < dy.rows(); ++t)
      add_row(dy.row_data(t) + first, count, &sums[static_cast<std::size_t>(first)]);
  });
  return sums;
}

// dW^ = dy^T x^, through the rounding, to clips, to a merged branch (dB = kappa dW A^T, dA = kappa
// B^T dW) and to the logarithms of scales and factors.
template <class T>
void weight_gradient(const SimulatedLinear<T>& linear, const PreparedInput<T>& x,
                     MatrixRef<const T> dy, const Wanted& wanted, LinearGradient<T>& gradient,
                     Matrix<T>& dw, ThreadPool& pool) {
  dw.resize(linear.out(), linear.in());
  transposed_multiply(dy, x.values, dw.ref(), Into::replace, pool, linear.products);
  over_rows(linear.out(), linear.in(), pool, [&](int r) {
    static thread_local std::vector<T> row, high, low, dhigh, dlow;
    row.resize(static_cast<std::size_t>(linear.in()));
    unrounded_row(linear, r, std::span<T>(row));
    const auto d = dw.row(r);
    if (wanted.weight_scales && linear.codes && gradient.log_scale.rows() > 0)
      log_scale_gradient<T>(*linear.codes, row, d, gradient.log_scale.row(r));
    if (linear.rounding) {
      clip_shares(linear.clip_high, r, high), clip_shares(linear.clip_low, r, low);
      dhigh.assign(high.size(), T(0)), dlow.assign(low.size(), T(0));
      round_row_gradient<T>(*linear.rounding, {high, low}, row, d, d, {dhigh, dlow});
      const auto learn = [r](const std::vector<T>& shares, const std::vector<T>& dshares,
                             Matrix<T>& into) {
        for (int g = 0; g < into.cols(); ++g) {
          const auto i = static_cast<std::size_t>(g);
          into(r, g) += dshares[i] * shares[i] * (1 - shares[i]);
        }
      };
      if (wanted.weight_clips) {
        learn(high, dhigh, gradient.clip_high), learn(low, dlow, gradient.clip_low);
      }
    }
  });
  if (wanted.low_rank && linear.merged) {
    const auto scaled = [&linear](const Matrix<T>& factor) {
      Matrix<T> product = factor.clone();
      for (int r = 0; r < product.rows(); ++r) {
        for (T& v : product.row(r)) v *= linear.kappa;
      }
      return product;
    };
    const MatrixRef<const T> d = std::as_const(dw).ref();
    multiply_transposed(d, scaled(linear.a).ref(), gradient.b.ref(), Into::add, pool);
    transposed_multiply(scaled(linear.b).ref(), d, gradient.a.ref(), Into::add, pool);
  }
  if (!wanted.smoothing) return;
  over_rows(linear.out(), linear.in(), pool, [&](int r) {
    static thread_local std::vector<T> row;
    row.resize(static_cast<std::size_t>(linear.in()));
    smoothed_row(linear, r, std::span<T>(row));
    const auto d = dw.row(r);
    gradient_kernels<T>().product(d.data(), row.data(), linear.in(), d.data());
    T sum = 0;
    for (const T v : d) sum += v;
    gradient.rows[static_cast<std::size_t>(r)] += sum;
  });
  const auto add_row = row_kernels<T>().add;
  over_columns(linear.in(), pool, [&](int first, int count) {
    for (int r = 0; r < linear.out(); ++r) {
      add_row(dw.row(r).data() + first, count, gradient.columns.data() + first);
    }
  });
  if (linear.bias.empty()) return;
  const std::vector<T> dbias = column_sums(dy, pool);
  for (int r = 0; r < linear.out(); ++r) {
    const auto i = static_cast<std::size_t>(r);
    gradient.rows[i] += dbias[i] * linear.bias[i] * linear.row_scale(r);
  }
}

}  // namespace detail

// One of the linears that read an input, and the gradient of what it gave.
template <class T>
struct Reader {
  const SimulatedLinear<T>* linear;
  const Matrix<T>* projected;
  MatrixRef<const T> dy;
  LinearGradient<T>* gradient;
};

// Scratch of the backward pass through one input.
template <class T>
struct LinearScratch {
  Matrix<T> dw, dx;
  std::array<Matrix<T>, 3> dprojected;
};

// Through an input and all its readers: adds to their gradients and, unless `arriving` is empty,
// gives the gradient of what arrived.
template <class T>
void input_gradient(const SimulatedInput<T>& input, const PreparedInput<T>& x,
                    std::span<const Reader<T>> readers, bool branch_reads_rounded,
                    const Wanted& wanted, T& dclip, std::span<T> dfactor, LinearScratch<T>& s,
                    MatrixRef<T> arriving, ThreadPool& pool) {
  const MatrixRef<const T> branch_input = branch_reads_rounded ? x.values : x.before;
  const bool inwards = !arriving.empty() || wanted.activation_clips || wanted.smoothing;
  MatrixRef<T> dx = arriving;
  if (inwards && (arriving.empty() || !input.plain())) {
    s.dx.resize(x.before.rows(), x.before.cols());
    dx = s.dx.ref();
  }
  const auto add_branches = [&] {
    for (std::size_t i = 0; i < readers.size(); ++i) {
      if (readers[i].linear->rank() == 0) continue;
      multiply(std::as_const(s.dprojected[i]).ref(), readers[i].linear->a.ref(), dx, Into::add,
               pool);
    }
  };
  for (std::size_t i = 0; i < readers.size(); ++i) {
    const auto& [linear, projected, dy, gradient] = readers[i];
    if (wanted.weights(*linear)) {
      detail::weight_gradient(*linear, x, dy, wanted, *gradient, s.dw, pool);
    }
    if (wanted.biases && !linear->shift.empty()) {
      const std::vector<T> dbias = detail::column_sums(dy, pool);
      for (std::size_t r = 0; r < dbias.size(); ++r)
        gradient->shift[r] += dbias[r] * linear->shift_unit[r];
    }
    if (inwards) {
      multiply(dy, linear->effective(), dx, i == 0 ? Into::replace : Into::add, pool,
               linear->products);
    }
    if (linear->rank() == 0) continue;
    Matrix<T>& dp = s.dprojected[i];
    dp.resize(dy.rows(), linear->rank());
    multiply(dy, linear->b.ref(), dp.ref(), Into::replace, pool);
    for (int t = 0; t < dp.rows() && linear->kappa != 1; ++t) {
      for (T& p : dp.row(t)) p *= linear->kappa;
    }
    if (!wanted.low_rank) continue;
    transposed_multiply(dy, projected->ref(), gradient->b.ref(), Into::add, pool);
    transposed_multiply(std::as_const(dp).ref(), branch_input, gradient->a.ref(), Into::add, pool);
  }
  if (!inwards) return;
  if (branch_reads_rounded) add_branches();
  unround(input, x, dx, dclip, pool);
  if (!branch_reads_rounded) add_branches();
  unprepare(input, x, dx, dfactor, arriving, pool);
}

}  // namespace bisup::tune
