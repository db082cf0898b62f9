// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a float model become a quantized one without any data? Every linear is rounded to
// nearest: the recipe `rtn`, and the baseline that every other recipe must beat. simulate() gives
// the same model in floats.

#include <functional>
#include <utility>

#include <bisup/core/result.hpp>
#include <bisup/core/scheme.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/model.hpp>
#include <bisup/quant/fake_quant.hpp>
#include <bisup/quant/nearest.hpp>

namespace bisup {

// Called with (blocks done, blocks in all); returning false stops with Errc::interrupted.
using BlockProgress = std::function<bool(int, int)>;

// How a scheme prepares the inputs of linears. Integers when the weights are packed, else
// simulated.
[[nodiscard]] inline llama::InputForm input_form(const Scheme& scheme, bool packed_weights) {
  llama::InputForm form;
  if (!scheme.quantizes_activations()) return form;
  form.format = ActivationFormat{.bits = scheme.activation_bits,
                                 .group = scheme.group,
                                 .token_scales = scheme.token_scales,
                                 .clip = 1};
  form.simulate = !packed_weights;
  return form;
}

namespace detail {

struct RoundToNearest {
  bool simulate;
  ThreadPool& pool;

  Result<llama::AnyLinear> operator()(const llama::AnyLinear& linear, const Format& format) const {
    BISUP_EXPECTS(linear.dense() != nullptr);  // the source is a float model
    Matrix<float> weights = llama::as_matrix(linear.dense()->view);
    if (simulate) {
      fake_quantize_rows(weights.ref(), format, Nearest{}, pool);
      return llama::AnyLinear(llama::dense_tensor(std::move(weights)), linear.bias());
    }
    auto packed = quantize(weights.ref(), format, Nearest{}, pool);
    if (!packed) return packed.error();
    return llama::AnyLinear(std::move(packed).value(), linear.bias());
  }
};

inline Result<llama::Model> round_model(const llama::Model& source, const Scheme& scheme,
                                        bool simulate, ThreadPool& pool,
                                        const BlockProgress& progress) {
  const RoundToNearest round{simulate, pool};
  llama::Model model;
  model.config = source.config, model.scheme = scheme;
  model.kv = KvPolicy::of(scheme);
  model.embedding = llama::as_half(source.embedding);
  model.final_norm = source.final_norm;
  const bool packed = scheme.quantizes_weights() && !simulate;
  const llama::InputForm input = input_form(scheme, packed);
  for (int layer = 0; layer < source.config.layers; ++layer) {
    llama::BlockWeights<llama::AnyLinear> block = source.blocks[static_cast<std::size_t>(layer)];
    for (const auto& [name, linear, form] : llama::named_linears) {
      block.inputs.*form = input;
      if (!scheme.quantizes_weights()) continue;
      auto rounded = round(block.*linear, scheme.weight_format());
      if (!rounded) {
        Error error = rounded.error();
        error.message = llama::layer_name(layer, name) + ": " + error.message;
        return error;
      }
      block.*linear = std::move(rounded).value();
    }
    model.blocks.push_back(std::move(block));
    if (progress && !progress(layer + 1, source.config.layers))
      return Error{Errc::interrupted, "stopped"};
  }
  if (scheme.head_bits == 8) {
    auto head = round(source.head, int8_channel::value);
    if (!head) return head.error();
    model.head = std::move(head).value();
    if (scheme.quantizes_activations()) model.head_input = {int8_token, simulate};
  } else {
    model.head = source.config.tied_embeddings
                     ? llama::AnyLinear(model.embedding)
                     : llama::AnyLinear(llama::as_half(*source.head.dense()));
  }
  return model;
}

}  // namespace detail

// Packs a float model by `scheme`. Embedding and lm_head become f16 (lm_head 8 bits with -head8).
// Errors: not_finite (naming the layer), out_of_memory, interrupted.
inline Result<llama::Model> round_to_nearest(const llama::Model& source, const Scheme& scheme,
                                             ThreadPool& pool = ThreadPool::shared(),
                                             const BlockProgress& progress = {}) {
  return detail::round_model(source, scheme, false, pool, progress);
}

// The same rounding with everything left in floats: differs from the packed model by summation
// order.
inline Result<llama::Model> simulate(const llama::Model& source, const Scheme& scheme,
                                     ThreadPool& pool = ThreadPool::shared(),
                                     const BlockProgress& progress = {}) {
  return detail::round_model(source, scheme, true, pool, progress);
}

}  // namespace bisup
