// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is a linear layer here? Something that multiplies a prepared input: dense weights, packed
// weights whose format is a type, or either at run time. The input is prepared once for all linears
// that share it; see activation.hpp.

#include <array>
#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/activation.hpp>
#include <bisup/llama/branch.hpp>
#include <bisup/llama/dense_tensor.hpp>
#include <bisup/llama/weights.hpp>
#include <bisup/ops/add.hpp>
#include <bisup/ops/dequantize.hpp>
#include <bisup/ops/gemm.hpp>
#include <bisup/ops/gemm_dense.hpp>
#include <bisup/pack/any_packed_tensor.hpp>
#include <bisup/pack/narrow_panels.hpp>
#include <bisup/pack/word_rows.hpp>

namespace bisup::llama {

// y = x W^T + b: x [tokens, in], y [tokens, out].
template <class W>
concept Linear = requires(const W& w, const Activation& x, MatrixRef<float> y, ThreadPool& pool) {
  { w.in() } -> std::convertible_to<int>;
  { w.out() } -> std::convertible_to<int>;
  w.apply(x, y, pool);
};

// Packed weights times whatever form the input has: integers if it was quantized, else floats.
inline void apply(const PackedPanels& weights, std::span<const float> bias, const Activation& x,
                  MatrixRef<float> y, ThreadPool& pool) {
  if (x.is_integer()) return gemm(weights, x.integers(), {}, bias, y, pool);
  multiply(weights, x.values(), y, pool);
  if (!bias.empty()) add(bias, y, pool);
}

struct DenseLinear {
  DenseTensor weights;      // [out, in]
  std::vector<float> bias;  // [out] or empty

  [[nodiscard]] int in() const { return weights.view.cols; }
  [[nodiscard]] int out() const { return weights.view.rows; }
  void apply(const Activation& x, MatrixRef<float> y, ThreadPool& pool) const {
    multiply(weights.view, x.values(), y, pool);
    if (!bias.empty()) add(bias, y, pool);
  }
};

template <AnyFormat F>
struct PackedLinear {
  PackedTensor<F> weights;
  std::vector<float> bias;

  [[nodiscard]] int in() const { return weights.shape().cols; }
  [[nodiscard]] int out() const { return weights.shape().rows; }
  void apply(const Activation& x, MatrixRef<float> y, ThreadPool& pool) const {
    llama::apply(PackedPanels(weights.view()), bias, x, y, pool);
  }
};

// The run-time form, which the model is made of: weights, of which the last input channels may be
// keepers, stored apart in 8 bits with one scale a row; a bias; a low-rank branch.
class AnyLinear {
 public:
  AnyLinear() = default;
  explicit AnyLinear(Weights weights, std::vector<float> bias = {},
                     std::optional<AnyPackedTensor> keepers = {})
      : weights_(std::move(weights)), keepers_(std::move(keepers)), bias_(std::move(bias)) {
    BISUP_EXPECTS(bias_.empty() || static_cast<int>(bias_.size()) == out());
    if (!keepers_) return;
    BISUP_EXPECTS(packed() != nullptr && keepers_->rows() == out());
    keepers_beside_ = std::make_shared<const NarrowPanels>(NarrowPanels::of(keepers_->panels()));
  }

  [[nodiscard]] int in() const { return cols(weights_) + (keepers_ ? keepers_->cols() : 0); }
  [[nodiscard]] int out() const { return rows(weights_); }
  void apply(const Activation& x, MatrixRef<float> y, ThreadPool& pool) const {
    if (packed() != nullptr && x.is_integer()) return apply_integers(x, y, pool);
    const int body = cols(weights_);
    multiply(weights_, x.values().cols(0, body), y, pool);
    if (keepers_) add_keepers(x.values().cols(body, keepers_->cols()), y, pool);
    if (branch_) branch_->apply(x.exact(), y, pool);
    if (!bias_.empty()) add(bias_, y, pool);
  }
  // The same codes with other scales.
  void set_packed(AnyPackedTensor weights) {
    BISUP_EXPECTS(packed() != nullptr && packed()->rows() == weights.rows() &&
                  packed()->cols() == weights.cols());
    weights_ = std::move(weights);
  }
  void set_bias(std::vector<float> bias) {
    BISUP_EXPECTS(static_cast<int>(bias.size()) == out());
    bias_ = std::move(bias);
  }
  void set_branch(Branch branch) {
    BISUP_EXPECTS(branch.consistent() && branch.in() == in() && branch.out() == out());
    branch_ = std::make_shared<const Branch>(std::move(branch));
    branch_beside_.reset();
    if (branch_->type() == DType::i8)
      branch_beside_ = std::make_shared<const NarrowPanels>(branch_->beside());
  }

  [[nodiscard]] const Weights& weights() const noexcept { return weights_; }
  [[nodiscard]] const DenseTensor* dense() const noexcept { return llama::dense(weights_); }
  [[nodiscard]] const AnyPackedTensor* packed() const noexcept { return llama::packed(weights_); }
  [[nodiscard]] const AnyPackedTensor* keepers() const noexcept {
    return keepers_ ? &*keepers_ : nullptr;
  }
  [[nodiscard]] const Branch* branch() const noexcept { return branch_.get(); }
  [[nodiscard]] const std::vector<float>& bias() const noexcept { return bias_; }
  // What is read to apply it once: all that is stored.
  [[nodiscard]] std::size_t bytes() const {
    return llama::bytes(weights_) + (keepers_ ? keepers_->bytes() : 0) +
           (branch_ ? branch_->bytes() : 0) + bias_.size() * sizeof(float);
  }

 private:
  void apply_integers(const Activation& x, MatrixRef<float> y, ThreadPool& pool) const {
    static thread_local WordRows inner;
    std::array<Beside, 2> beside;
    std::size_t count = 0;
    if (keepers_) beside[count++] = {keepers_beside_->view(), x.keeper_words()};
    if (branch_beside_) {
      branch_->prepare(x.exact_words(pool), inner, pool);
      beside[count++] = {branch_beside_->view(), inner.view()};
    }
    gemm(packed()->panels(), x.integers(), std::span(beside).first(count), bias_, y, pool);
    if (branch_ && !branch_beside_) branch_->apply(x.exact(), y, pool);
  }
  void add_keepers(MatrixRef<const float> x, MatrixRef<float> y, ThreadPool& pool) const {
    static thread_local Matrix<float> sum;
    sum.resize(y.rows(), y.cols());
    multiply(keepers_->panels(), x, sum.ref(), pool);
    add(sum.ref(), y, pool);
  }

  Weights weights_;
  std::optional<AnyPackedTensor> keepers_;
  std::shared_ptr<const Branch> branch_;
  std::shared_ptr<const NarrowPanels> keepers_beside_, branch_beside_;  // as gemm reads them
  std::vector<float> bias_;
};

static_assert(Linear<DenseLinear> && Linear<PackedLinear<int4_g128>> && Linear<AnyLinear>);

}  // namespace bisup::llama
