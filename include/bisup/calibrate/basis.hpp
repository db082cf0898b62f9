// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// In which basis does calibration see the model? ModelBasis turns embeddings, blocks and lm_head
// into the recipe's basis before anything is rounded; in float that changes nothing
// (transform/merge.hpp).

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/calibrate/recipe.hpp>
#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/model.hpp>
#include <bisup/transform/float_block.hpp>
#include <bisup/transform/hadamard.hpp>
#include <bisup/transform/merge.hpp>
#include <bisup/transform/random_signs.hpp>

namespace bisup {

// One block as plain matrices, and what its inputs go through at run time.
struct BasisBlock {
  FloatBlock<float> weights;
  llama::InputForms inputs;
  std::vector<float> attention_gain, mlp_gain;  // [hidden]: norm weights that were folded, or empty
};

// The block's linears as views of its matrices, which must outlive them.
[[nodiscard]] inline llama::BlockWeights<llama::AnyLinear> dense_view(const BasisBlock& block) {
  const auto linear = [](const FloatLinear<float>& l) {
    const DenseView view{l.weights.data(), DType::f32, l.weights.rows(), l.weights.cols()};
    return llama::AnyLinear(llama::DenseTensor{view}, l.bias);
  };
  const FloatBlock<float>& w = block.weights;
  return {linear(w.q),    linear(w.k),
          linear(w.v),    linear(w.o),
          linear(w.gate), linear(w.up),
          linear(w.down), {w.attention_norm, w.mlp_norm, w.query_norm, w.key_norm},
          block.inputs};
}

// The same with matrices of their own.
[[nodiscard]] inline llama::BlockWeights<llama::AnyLinear> owned(
    llama::BlockWeights<llama::AnyLinear> block) {
  for (const auto& named : llama::named_linears) {
    llama::AnyLinear& linear = block.*named.linear;
    linear = llama::AnyLinear(llama::dense_tensor(llama::as_matrix(linear.dense()->view)),
                              linear.bias());
  }
  return block;
}

class ModelBasis {
 public:
  // Rotations fall back to blocks, or to nothing across heads, where no Hadamard matrix has the
  // model's sizes (transform/hadamard.hpp). `seed`: of the random signs.
  static Result<ModelBasis> make(const llama::Config& c, Basis basis, std::uint64_t seed) {
    ModelBasis made;
    made.shape_ = {c.hidden_size, c.heads, c.kv_heads, c.head_dim, c.intermediate_size, c.norm_eps};
    if (basis != Basis::rotated) return made;
    made.rotates_ = true;
    auto residual = RandomizedHadamard::make(widest_hadamard(c.hidden_size), seed);
    if (!residual) return residual.error();
    made.residual_ = std::move(residual).value();
    auto values = Hadamard::make(widest_hadamard(c.head_dim));
    if (!values) return values.error();
    made.values_ = std::move(values).value();
    auto across = Hadamard::make(across_heads(c.heads, c.head_dim));
    if (!across) return across.error();
    made.output_ = std::move(across).value();
    auto down = Hadamard::make(widest_hadamard(c.intermediate_size));
    if (!down) return down.error();
    made.down_ = std::move(down).value();
    return made;
  }

  [[nodiscard]] bool rotates() const noexcept { return rotates_; }

  // One row of the residual stream, [hidden].
  void rotate(std::span<float> row) const {
    if (rotates_) residual_.apply(row);
  }

  // The embeddings as the quantized model stores them: f16, in this basis.
  [[nodiscard]] llama::DenseTensor stored_rows(const llama::DenseTensor& embedding,
                                               ThreadPool& pool) const {
    if (!rotates_) return llama::as_half(embedding);
    return llama::as_half(embedding,
                          [&](MatrixRef<float> rows) { rotate_rows(rows, residual_, pool); });
  }

  // Rows of lm_head, [rows, hidden]; the final norm's weight moves into them.
  void change_head(MatrixRef<float> rows, std::span<const float> final_norm,
                   ThreadPool& pool) const {
    if (!rotates_) return;
    scale_columns(rows, final_norm);
    rotate_rows(rows, residual_, pool);
  }
  // What is left of the final norm.
  void change_final_norm(std::vector<float>& norm) const {
    if (rotates_) norm.assign(norm.size(), 1.0f);
  }

  void change(BasisBlock& block, ThreadPool& pool) const {
    if (!rotates_) return;
    block.attention_gain = block.weights.attention_norm, block.mlp_gain = block.weights.mlp_norm;
    fold_norms(block.weights);
    rotate_residual(block.weights, residual_, pool);
    rotate_values(block.weights, shape_, values_, pool);
    absorb_input_rotation(block.weights.o.weights.ref(), output_, pool);
    absorb_input_rotation(block.weights.down.weights.ref(), down_, pool);
    block.inputs.output.rotation = output_;
    block.inputs.down.rotation = down_;
  }

  // Prepared inputs, x: [tokens, in] of llama::named_inputs[site], as the float model has them.
  // Precondition: rotates().
  void restore(const BasisBlock& block, std::size_t site, MatrixRef<const float> x,
               Matrix<float>& plain, ThreadPool& pool) const {
    BISUP_EXPECTS(rotates_);
    plain.resize(x.rows(), x.cols());
    for (int t = 0; t < x.rows(); ++t) std::copy_n(x.row_data(t), x.cols(), plain.row(t).data());
    const auto restore_stream = [&](std::span<const float> gain) {
      residual_.apply_inverse(plain.ref(), pool);
      scale_columns(plain.ref(), gain);
    };
    if (site == 0) return restore_stream(block.attention_gain);
    if (site == 2) return restore_stream(block.mlp_gain);
    if (site == 3) return down_.apply_inverse(plain.ref(), pool);
    output_.apply_inverse(plain.ref(), pool);
    for (int t = 0; t < x.rows(); ++t) {
      for (int c = 0; c < x.cols(); c += shape_.head_dim)
        values_.apply_inverse(plain.row(t).subspan(static_cast<std::size_t>(c),
                                                   static_cast<std::size_t>(shape_.head_dim)));
    }
  }

 private:
  BlockShape shape_;
  bool rotates_ = false;
  RandomizedHadamard residual_;
  Hadamard values_;         // of each head's values, folded into v and o
  Hadamard output_, down_;  // applied at run time to the inputs of o and down
};

// Errors: those of the source, not_finite.
template <llama::TensorSource S>
Result<BasisBlock> read_basis_block(const S& source, int layer, const ModelBasis& basis,
                                    ThreadPool& pool) {
  auto read = llama::read_block(source, layer);
  if (!read) return read.error();
  BasisBlock block;
  FloatBlock<float>& w = block.weights;
  const auto into = w.linears();
  for (std::size_t i = 0; i < std::size(into); ++i) {
    const llama::AnyLinear& linear = read.value().*llama::named_linears[i].linear;
    *into[i] = {llama::as_matrix(linear.dense()->view), linear.bias()};
  }
  w.attention_norm = std::move(read->norms.attention), w.mlp_norm = std::move(read->norms.mlp);
  w.query_norm = std::move(read->norms.query), w.key_norm = std::move(read->norms.key);
  basis.change(block, pool);
  return block;
}

}  // namespace bisup
