// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How large is a model? Parameters and bytes counted from what is stored, scales, zero points and
// padding included; the effective bits per weight of every table come from here.

#include <cstddef>
#include <iterator>

#include <bisup/llama/model.hpp>

namespace bisup::llama {

struct ModelSize {
  std::size_t parameters = 0,
              bytes = 0;  // everything; a head that shares the embedding counts once
  // The linears that a scheme quantizes: those of the blocks, and lm_head once it is packed. Bytes
  // are those of what they need beside them, too: forms of inputs, a stored prompt.
  std::size_t linear_weights = 0, linear_bytes = 0;
  std::size_t token_bytes = 0;  // what decoding one token reads of the model

  [[nodiscard]] double bits_per_weight() const {
    return 8.0 * static_cast<double>(linear_bytes) / static_cast<double>(linear_weights);
  }
  [[nodiscard]] double bits_per_parameter() const {
    return 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters);
  }
};

[[nodiscard]] inline bool shares_embedding(const Model& model) {
  return model.head.dense() != nullptr &&
         model.head.dense()->view.data == model.embedding.view.data;
}

[[nodiscard]] inline ModelSize model_size(const Model& model) {
  ModelSize size;
  const auto count = [&size](const AnyLinear& linear, bool quantizable) {
    const auto weights =
        static_cast<std::size_t>(linear.in()) * static_cast<std::size_t>(linear.out());
    size.parameters += weights;
    size.bytes += linear.bytes();
    size.token_bytes += linear.bytes();
    if (!quantizable) return;
    size.linear_weights += weights;
    size.linear_bytes += linear.bytes();
  };
  const auto count_vector = [&size](const std::vector<float>& values) {
    size.parameters += values.size();
    size.bytes += values.size() * sizeof(float);
    size.token_bytes += values.size() * sizeof(float);
  };
  for (const auto& block : model.blocks) {
    for (std::size_t i = 0; i < std::size(named_linears); ++i) {
      const AnyLinear& linear = block.*named_linears[i].linear;
      count(linear, true);
      // A bias of the float model is a parameter; one that was learned is part of the weights'
      // bits.
      if (!has_bias(model.config, i)) continue;
      size.parameters += linear.bias().size();
      size.linear_bytes -= linear.bias().size() * sizeof(float);
    }
    for (const auto& named : named_norms) count_vector(block.norms.*named.norm);
    for (const auto form :
         {&InputForms::attention, &InputForms::output, &InputForms::mlp, &InputForms::down}) {
      const std::size_t bytes = (block.inputs.*form).bytes();  // what weights need beside them
      size.bytes += bytes, size.linear_bytes += bytes, size.token_bytes += bytes;
    }
  }
  // An exact prompt is part of what makes few bits usable, so it is paid for by them.
  size.bytes += model.prompt.bytes(), size.linear_bytes += model.prompt.bytes();
  count_vector(model.final_norm);
  count(model.head, model.head.packed() != nullptr);
  if (!shares_embedding(model)) {
    const DenseView& table = model.embedding.view;
    // A packed head is the same parameters a second time when the embeddings were tied.
    const bool counted = model.config.tied_embeddings;
    if (!counted) {
      size.parameters +=
          static_cast<std::size_t>(table.rows) * static_cast<std::size_t>(table.cols);
    }
    size.bytes += table.bytes();
  }
  return size;
}

}  // namespace bisup::llama
