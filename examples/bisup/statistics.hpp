// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a model hold, and what do its linears read? Scales and codes as they are stored, and
// the four inputs of every block while the model reads a text: for `bisup inspect` and for the
// report.

#include <array>
#include <bisup/cache/kv_policy.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/evaluate/windows.hpp>
#include <bisup/llama/model.hpp>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace command {

// "int4 g64 f16", "f32"
[[nodiscard]] std::string format_of(const bisup::llama::AnyLinear& linear);

struct LinearStatistics {
  std::string name, format;
  std::size_t bytes = 0;
  double bits_per_weight = 0;
  float smallest_scale = 0, median_scale = 0, largest_scale = 0;  // of its groups; 0 if dense
  double end_codes = 0;  // share of the codes at either end of the range, where clipped weights are
  int keepers = 0;       // channels in 8 bits
  int branch_rank = 0;
};
[[nodiscard]] LinearStatistics linear_statistics(const std::string& name,
                                                 const bisup::llama::AnyLinear& linear,
                                                 bisup::ThreadPool& pool);

// Of the elements of an input as its linears meet it: transformed, not yet rounded.
struct ActivationStatistics {
  double largest = 0, rms = 0;
  double kurtosis = 0;  // 3 for a normal distribution
};

struct InputStatistics {
  std::string name;
  int bits = 16;  // 16: floats
  float clip = 1;
  int keepers = 0;
  std::string rotation;  // "1x576x1": the axis; empty: none
  bool reordered = false, scaled = false;
  std::optional<ActivationStatistics> seen;
};

struct LayerStatistics {
  int layer = 0;
  std::vector<LinearStatistics> linears;
  std::array<InputStatistics, 4> inputs;  // in the order of llama::named_inputs
  std::vector<bisup::KvEntry> heads;      // how the cache keeps each KV head
};
[[nodiscard]] std::vector<LayerStatistics> layer_statistics(const bisup::llama::Model& model,
                                                            bisup::ThreadPool& pool);

// Runs the model over the first 8192 of the ids at most and fills `seen` of every input. Errors:
// too_short, out_of_range (ids that are not the model's), interrupted, those of Session::make.
[[nodiscard]] bisup::Result<void> see_activations(const bisup::llama::Model& model,
                                                  std::span<const int> ids,
                                                  std::vector<LayerStatistics>& layers,
                                                  bisup::ThreadPool& pool,
                                                  const bisup::Progress& progress);

}  // namespace command
