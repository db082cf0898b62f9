// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does the tuner see of a block? Float weights in the basis in which they are multiplied, how
// each of the four inputs and the cache are rounded, and every number that may be learned.
// block_gradient.hpp runs it forwards and backwards.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/pack/kv_view.hpp>
#include <bisup/transform/float_block.hpp>
#include <bisup/tune/arithmetic.hpp>
#include <bisup/tune/straight_through.hpp>

namespace bisup::tune {

// A clip as the tuner holds it: the share of the extremes is logistic(clip). Infinity is a share of
// 1 that nothing learns.
template <class T>
inline constexpr T no_clip = std::numeric_limits<T>::infinity();

// Rows times an orthogonal matrix, in place, and back. Empty functions are the identity.
template <class T>
struct RowRotation {
  std::function<void(MatrixRef<T>, ThreadPool&)> apply, apply_inverse;
  explicit operator bool() const noexcept { return static_cast<bool>(apply); }
};

// From anything with apply(rows, pool) and apply_inverse(rows, pool).
template <class T, class R>
RowRotation<T> row_rotation(R rotation) {
  const auto shared = std::make_shared<const R>(std::move(rotation));
  return {[shared](MatrixRef<T> rows, ThreadPool& pool) { shared->apply(rows, pool); },
          [shared](MatrixRef<T> rows, ThreadPool& pool) { shared->apply_inverse(rows, pool); }};
}

template <class T>
struct SimulatedLinear {
  Matrix<T> weights;    // [out, in]
  std::vector<T> bias;  // [out] or empty
  // Added to the bias: shift times its unit, which stays.
  std::vector<T> shift = {}, shift_unit = {};  // [out] or empty
  // None: the weights are used as they are, because they are float or codes already.
  std::optional<RowRounding> rounding = {};
  Matrix<T> clip_high, clip_low;  // [out, groups] or empty: no clip
  // Codes that stay while their scales may be learned: the weights hold codes times scales times
  // exp(log_scale), one a row and group of the columns that are no keepers. None: not codes.
  std::optional<RowRounding> codes = {};
  Matrix<T> log_scale;                                         // [out, groups] or empty: 0
  std::function<void(MatrixRef<T>, ThreadPool&)> stored = {};  // codes times scales, anew
  // Smoothing: the weights are diag(row_factor) W diag(column_factor), the bias row_factor b.
  std::vector<T> row_factor, column_factor;  // [out], [in] or empty: 1
  // y += kappa (x A^T) B^T; or, merged, the weights are kappa B A more before they are rounded.
  Matrix<T> a, b;  // [rank, in], [out, rank]; empty: no branch
  T kappa = 1;
  bool merged = false;
  Matrix<T> derived = {};  // [out, in]: what is multiplied, if that is not `weights`; see refresh()
  Products products = Products::floats;  // of all but the branch, forwards and backwards

  [[nodiscard]] int in() const noexcept { return weights.cols(); }
  [[nodiscard]] int out() const noexcept { return weights.rows(); }
  // Of the branch beside the weights.
  [[nodiscard]] int rank() const noexcept { return merged ? 0 : a.rows(); }
  [[nodiscard]] bool is_derived() const noexcept {
    return rounding || merged || !row_factor.empty() || !column_factor.empty();
  }
  [[nodiscard]] MatrixRef<const T> effective() const {
    return is_derived() ? derived.ref() : weights.ref();
  }
  [[nodiscard]] T row_scale(int r) const {
    return row_factor.empty() ? T(1) : row_factor[static_cast<std::size_t>(r)];
  }
  [[nodiscard]] std::vector<T> effective_bias() const {
    std::vector<T> sum = bias;
    for (std::size_t r = 0; r < sum.size(); ++r) sum[r] *= row_scale(static_cast<int>(r));
    if (sum.empty()) sum.resize(shift.size());
    for (std::size_t r = 0; r < shift.size(); ++r) sum[r] += shift[r] * shift_unit[r];
    return sum;
  }
};

// A norm's weight; factor, if there is one, is 1 / smoothing.
template <class T>
struct SimulatedNorm {
  std::vector<T> weight, factor = {};

  [[nodiscard]] std::vector<T> effective() const {
    std::vector<T> product = weight;
    for (std::size_t i = 0; i < factor.size(); ++i) product[i] *= factor[i];
    return product;
  }
};

// How an input is prepared: rotated, gathered, multiplied; that is what branches read; then
// rounded.
template <class T>
struct SimulatedInput {
  RowRotation<T> rotation = {};
  std::vector<int> order = {};  // prepared column j is column order[j] after that; empty: as it is
  std::vector<T> factor = {};   // [in] or empty
  std::optional<RowRounding> rounding = {};
  T clip = no_clip<T>;

  [[nodiscard]] bool plain() const noexcept { return order.empty() && !rotation && factor.empty(); }
};

// What the cache does to keys and values: rotated within heads, rounded, rotated back; attention
// then sees them in the basis in which the prompt is stored.
template <class T>
struct SimulatedCache {
  KvFormat keys = {}, values = {};  // 16 bits: exact
  bool rotate_keys = false, rotate_values = false;
  T key_high = no_clip<T>, key_low = no_clip<T>, value_high = no_clip<T>, value_low = no_clip<T>;
  int sinks = 0;               // first tokens that stay exact
  int recent = 0;              // newest tokens, the query's own included, that are exact
  bool through_range = false;  // whether gradients reach extremes through the scales they set
  Matrix<T> prompt_keys = {}, prompt_values = {};  // [prompt, kv_heads * head_dim], after RoPE

  [[nodiscard]] int prompt() const noexcept { return prompt_keys.rows(); }
};

enum LinearOf { q_linear, k_linear, v_linear, o_linear, gate_linear, up_linear, down_linear };
enum InputOf { attention_input, output_input, mlp_input, down_input };
inline constexpr int linears = 7, inputs = 4;
inline constexpr std::array<InputOf, linears> input_of = {
    attention_input, attention_input, attention_input, output_input,
    mlp_input,       mlp_input,       down_input};

template <class T>
struct SimulatedBlock {
  BlockShape shape;
  std::array<SimulatedLinear<T>, tune::linears> linears;
  std::array<SimulatedInput<T>, tune::inputs> inputs;
  SimulatedNorm<T> attention_norm, mlp_norm;  // [hidden]
  SimulatedNorm<T> query_norm, key_norm;      // [head_dim], or empty
  SimulatedCache<T> cache;
  Products attention_products = Products::floats;  // see AttendedRows
  bool branch_reads_rounded = false;               // branches read their input after it was rounded
};

// All linears and attention multiply in words, or in floats, from now on.
template <class T>
void multiply_in(SimulatedBlock<T>& block, Products products) {
  block.attention_products = products;
  for (SimulatedLinear<T>& linear : block.linears) linear.products = products;
}

// One step of the finest grid of the block's weights, as a share of its largest code; of its inputs
// where weights are not rounded, and 1 where nothing is. Errors are in proportion to it, and so is
// what learning makes good: a rate said in such steps serves all bits.
template <class T>
[[nodiscard]] double grid_step(const SimulatedBlock<T>& block) {
  int bits = 1;
  const auto read = [&](const std::optional<RowRounding>& grid) {
    if (grid) bits = std::max(bits, grid->format.bits);
  };
  for (const SimulatedLinear<T>& linear : block.linears) read(linear.codes), read(linear.rounding);
  if (bits == 1) {
    for (const SimulatedInput<T>& input : block.inputs) read(input.rounding);
  }
  return std::ldexp(1.0, 1 - bits);
}

// The float block, nothing rounded: the teacher, and what a recipe adds its formats to.
template <class T>
SimulatedBlock<T> simulated_block(const BlockShape& shape, FloatBlock<T> block) {
  SimulatedBlock<T> s;
  s.shape = shape;
  const auto from = block.linears();
  for (std::size_t i = 0; i < from.size(); ++i) {
    s.linears[i].weights = std::move(from[i]->weights);
    s.linears[i].bias = std::move(from[i]->bias);
  }
  s.attention_norm.weight = std::move(block.attention_norm);
  s.mlp_norm.weight = std::move(block.mlp_norm);
  s.query_norm.weight = std::move(block.query_norm);
  s.key_norm.weight = std::move(block.key_norm);
  return s;
}

// Row r, smoothed.
template <class T>
void smoothed_row(const SimulatedLinear<T>& linear, int r, std::span<T> out) {
  const auto row = linear.weights.row(r);
  if (linear.column_factor.empty()) {
    std::copy(row.begin(), row.end(), out.begin());
  } else {
    gradient_kernels<T>().product(row.data(), linear.column_factor.data(), linear.in(), out.data());
  }
  if (linear.row_factor.empty()) return;
  for (T& x : out) x *= linear.row_scale(r);
}

// Row r as it is before rounding: smoothed, with its share of a merged branch.
template <class T>
void unrounded_row(const SimulatedLinear<T>& linear, int r, std::span<T> out) {
  smoothed_row(linear, r, out);
  if (!linear.merged) return;
  for (int k = 0; k < linear.a.rows(); ++k) {
    const T b = linear.kappa * linear.b(r, k);
    const T* a = linear.a.row(k).data();
    for (std::size_t j = 0; j < out.size(); ++j) out[j] += b * a[j];
  }
}

// The shares of one row of clips.
template <class T>
void clip_shares(const Matrix<T>& clips, int row, std::vector<T>& shares) {
  shares.assign(1, T(1));
  if (clips.rows() == 0) return;
  shares.resize(static_cast<std::size_t>(clips.cols()));
  for (int g = 0; g < clips.cols(); ++g) {
    shares[static_cast<std::size_t>(g)] = logistic(clips(row, g));
  }
}

// Makes the weights that are multiplied from those that are learned about; to be called whenever
// weights, clips, smoothing factors or merged branches have changed.
template <class T>
void refresh(SimulatedLinear<T>& linear, ThreadPool& pool) {
  if (!linear.is_derived()) return;
  for (const Matrix<T>* clips : {&linear.clip_high, &linear.clip_low}) {
    BISUP_EXPECTS(clips->rows() == 0 || (linear.rounding && clips->rows() == linear.out() &&
                                         clips->cols() == linear.rounding->groups(linear.in())));
  }
  linear.derived.resize(linear.out(), linear.in());
  detail::over_rows(linear.out(), linear.in(), pool, [&](int r) {
    static thread_local std::vector<T> high, low;
    const auto row = linear.derived.row(r);
    unrounded_row(linear, r, row);
    if (!linear.rounding) return;
    clip_shares(linear.clip_high, r, high), clip_shares(linear.clip_low, r, low);
    round_row<T>(*linear.rounding, {high, low}, row, row);
  });
}
template <class T>
void refresh(SimulatedBlock<T>& block, ThreadPool& pool) {
  for (SimulatedLinear<T>& linear : block.linears) refresh(linear, pool);
}

}  // namespace bisup::tune
