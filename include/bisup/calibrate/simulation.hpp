// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What would a quantized model compute in floats? The same model with its codes decoded and its
// inputs rounded but left as floats: it differs from the integer path by summation order only.

#include <utility>

#include <bisup/calibrate/simulated.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/model.hpp>

namespace bisup {

[[nodiscard]] inline llama::Model simulation_of(const llama::Model& model,
                                                ThreadPool& pool = ThreadPool::shared()) {
  const auto decoded = [&](const llama::AnyLinear& linear) {
    if (linear.packed() == nullptr) return linear;
    llama::AnyLinear floats(llama::dense_tensor(detail::float_weights(linear, pool)),
                            linear.bias());
    if (linear.branch() != nullptr) floats.set_branch(*linear.branch());
    return floats;
  };
  llama::Model floats = model;
  for (auto& block : floats.blocks) {
    for (const auto& named : llama::named_linears)
      block.*named.linear = decoded(block.*named.linear);
    for (const auto& named : llama::named_inputs) (block.inputs.*named.input).simulate = true;
  }
  floats.head = decoded(floats.head);
  floats.head_input.simulate = true;
  return floats;
}

}  // namespace bisup
