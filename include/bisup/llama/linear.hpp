// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is a linear layer here? Something that multiplies a prepared input: dense weights, packed
// weights whose format is a type, or either at run time. The input is prepared once for all linears
// that share it; see activation.hpp.

#include <concepts>
#include <cstddef>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/activation.hpp>
#include <bisup/llama/dense_tensor.hpp>
#include <bisup/ops/dequantize.hpp>
#include <bisup/ops/gemm.hpp>
#include <bisup/ops/gemm_dense.hpp>
#include <bisup/pack/any_packed_tensor.hpp>

namespace bisup::llama {

// y = x W^T + b: x [tokens, in], y [tokens, out].
template <class W>
concept Linear = requires(const W& w, const Activation& x, MatrixRef<float> y, ThreadPool& pool) {
  { w.in() } -> std::convertible_to<int>;
  { w.out() } -> std::convertible_to<int>;
  w.apply(x, y, pool);
};

inline void add_bias(std::span<const float> bias, MatrixRef<float> y) {
  if (bias.empty()) return;
  for (int t = 0; t < y.rows(); ++t) {
    float* row = y.row_data(t);
    for (std::size_t i = 0; i < bias.size(); ++i) row[i] += bias[i];
  }
}

// Packed weights times whatever form the input has: integers if it was quantized, else floats.
inline void apply(const PackedPanels& weights, const Activation& x, MatrixRef<float> y,
                  ThreadPool& pool) {
  if (x.is_integer()) {
    gemm(weights, x.integers(), y, pool);
  } else {
    multiply(weights, x.values(), y, pool);
  }
}

struct DenseLinear {
  DenseTensor weights;      // [out, in]
  std::vector<float> bias;  // [out] or empty

  [[nodiscard]] int in() const { return weights.view.cols; }
  [[nodiscard]] int out() const { return weights.view.rows; }
  void apply(const Activation& x, MatrixRef<float> y, ThreadPool& pool) const {
    multiply(weights.view, x.values(), y, pool);
    add_bias(bias, y);
  }
};

template <AnyFormat F>
struct PackedLinear {
  PackedTensor<F> weights;
  std::vector<float> bias;

  [[nodiscard]] int in() const { return weights.shape().cols; }
  [[nodiscard]] int out() const { return weights.shape().rows; }
  void apply(const Activation& x, MatrixRef<float> y, ThreadPool& pool) const {
    llama::apply(PackedPanels(weights.view()), x, y, pool);
    add_bias(bias, y);
  }
};

// The run-time form, which the model is made of.
class AnyLinear {
 public:
  AnyLinear() = default;
  explicit AnyLinear(DenseTensor weights, std::vector<float> bias = {})
      : weights_(std::move(weights)), bias_(std::move(bias)) {
    BISUP_EXPECTS(bias_.empty() || static_cast<int>(bias_.size()) == out());
  }
  explicit AnyLinear(AnyPackedTensor weights, std::vector<float> bias = {})
      : weights_(std::move(weights)), bias_(std::move(bias)) {
    BISUP_EXPECTS(bias_.empty() || static_cast<int>(bias_.size()) == out());
  }

  [[nodiscard]] int in() const { return dense() ? dense()->view.cols : packed()->cols(); }
  [[nodiscard]] int out() const { return dense() ? dense()->view.rows : packed()->rows(); }
  void apply(const Activation& x, MatrixRef<float> y, ThreadPool& pool) const {
    if (dense()) {
      multiply(dense()->view, x.values(), y, pool);
    } else {
      llama::apply(packed()->panels(), x, y, pool);
    }
    add_bias(bias_, y);
  }

  [[nodiscard]] const DenseTensor* dense() const noexcept {
    return std::get_if<DenseTensor>(&weights_);
  }
  [[nodiscard]] const AnyPackedTensor* packed() const noexcept {
    return std::get_if<AnyPackedTensor>(&weights_);
  }
  [[nodiscard]] const std::vector<float>& bias() const noexcept { return bias_; }
  // What is read to apply it once: all that is stored.
  [[nodiscard]] std::size_t bytes() const {
    return (dense() ? dense()->view.bytes() : packed()->bytes()) + bias_.size() * sizeof(float);
  }

 private:
  std::variant<DenseTensor, AnyPackedTensor> weights_;
  std::vector<float> bias_;
};

static_assert(Linear<DenseLinear> && Linear<PackedLinear<int4_g128>> && Linear<AnyLinear>);

}  // namespace bisup::llama
