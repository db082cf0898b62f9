// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Can this calibration work, and what will it need? Answered from sizes alone, before anything
// long: memory and operations are estimates, the size of the quantized model is exact but for
// branches that turn out to be no help and are left out.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include <bisup/cache/kv_policy.hpp>
#include <bisup/calibrate/basis.hpp>
#include <bisup/calibrate/prompt_recorder.hpp>
#include <bisup/calibrate/recipe.hpp>
#include <bisup/core/dense.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/scheme.hpp>
#include <bisup/llama/config.hpp>
#include <bisup/pack/packed_view.hpp>

namespace bisup {

// How many crops of how many tokens; none: rounding without data.
struct CalibrationTokens {
  int samples = 0, held_out = 0, length = 0;
  int prompt = 0;  // that the model will know by heart
  // Tokens more that only the float stream and the last stage read, and those of the longest crop.
  int end_to_end = 0, longest_end_to_end = 0;
};

struct CalibrationCost {
  // Memory in bytes.
  std::size_t embeddings = 0;    // and lm_head, as the quantized model keeps them
  std::size_t streams = 0;       // both; they may be elsewhere
  std::size_t block = 0;         // one block's floats, its moments, what its linears read
  std::size_t tuning = 0;        // of all blocks together, in floats
  std::size_t peak = 0;          // the most at once, the finished blocks included
  std::size_t model = 0;         // of the quantized model, as llama::model_size() counts
  double operations = 0;         // floating-point, of all blocks
  double tuning_operations = 0;  // of these, in products of tuning.products
};

namespace detail {

struct BlockSizes {
  std::size_t hidden, attention, kv, intermediate;

  explicit BlockSizes(const llama::Config& c)
      : hidden(static_cast<std::size_t>(c.hidden_size)),
        attention(static_cast<std::size_t>(c.heads * c.head_dim)),
        kv(static_cast<std::size_t>(c.kv_heads * c.head_dim)),
        intermediate(static_cast<std::size_t>(c.intermediate_size)) {}

  // Channels of the four inputs, and the rows of all linears that read each.
  [[nodiscard]] std::array<std::pair<std::size_t, std::size_t>, 4> inputs() const {
    return {{{hidden, attention + 2 * kv},
             {attention, hidden},
             {hidden, 2 * intermediate},
             {intermediate, hidden}}};
  }
  [[nodiscard]] std::size_t weights() const {
    std::size_t sum = 0;
    for (const auto& [channels, rows] : inputs()) sum += channels * rows;
    return sum;
  }
};

// Floats that tuning keeps of one token between the passes of one block: tune::BlockActivations.
[[nodiscard]] inline std::size_t activation_floats(const llama::Config& c, const Recipe& recipe) {
  const BlockSizes s(c);
  const std::size_t inputs = 2 * s.hidden + s.attention + s.intermediate;
  const std::size_t branches = 7 * static_cast<std::size_t>(std::max(recipe.tuning.rank, 0));
  return 4 * s.hidden + 4 * s.attention + 4 * s.kv + 3 * s.intermediate + branches +
         static_cast<std::size_t>(c.head_dim) + 2 * inputs +  // prepared and rounded
         (recipe.basis == Basis::rotated ? s.attention + s.intermediate : 0);
}

// Bytes of one quantized block.
[[nodiscard]] inline std::size_t quantized_block_bytes(const llama::Config& c, const Scheme& scheme,
                                                       const Recipe& recipe) {
  const auto hidden = c.hidden_size, attention = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim,
             wide = c.intermediate_size;
  struct Shape {
    int rows, cols;
    bool bias;
  };
  std::size_t bytes = 0;
  for (const auto& [rows, cols, bias] : {Shape{attention, hidden, c.attention_bias},
                                         {kv, hidden, c.attention_bias},
                                         {kv, hidden, c.attention_bias},
                                         {hidden, attention, c.output_bias},
                                         {wide, hidden, c.mlp_bias},
                                         {wide, hidden, c.mlp_bias},
                                         {hidden, wide, c.mlp_bias}}) {
    if (scheme.quantizes_weights()) {
      const int keepers = recipe.keepers_of(cols);
      bytes += PackedShape{scheme.weight_format(), rows, cols - keepers}.bytes();
      if (keepers > 0) bytes += PackedShape{int8_channel::value, rows, keepers}.bytes();
    } else {
      bytes += sizeof(float) * static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
    }
    const int rank = recipe.tuning.any() ? recipe.tuning.rank_of(cols, rows) : 0;
    bytes += static_cast<std::size_t>(
        rank * llama::component_bits(cols, rows, recipe.tuning.branch_type) / 8);
    if (bias || (recipe.tuning.any() && recipe.tuning.biases))
      bytes += sizeof(float) * static_cast<std::size_t>(rows);
  }
  bytes += sizeof(float) * static_cast<std::size_t>(2 * hidden + (c.qk_norm ? 2 * c.head_dim : 0));
  // The order of channels, but of down's input, which gate and up write in order.
  if (recipe.basis == Basis::reordered)
    bytes += sizeof(int) * static_cast<std::size_t>(2 * hidden + attention);
  return bytes;
}

}  // namespace detail

// Errors: out_of_range (more keepers than channels, crops or a prompt longer than the model's
// positions, a cache that cannot be), unsupported (a rotation that does not exist).
[[nodiscard]] inline Result<void> check_calibration(const llama::Config& c, const Scheme& scheme,
                                                    const Recipe& recipe,
                                                    const CalibrationTokens& tokens) {
  const detail::BlockSizes sizes(c);
  const auto inputs = sizes.inputs();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (recipe.keepers && static_cast<std::size_t>(*recipe.keepers) >= inputs[i].first) {
      return Error{Errc::out_of_range, std::to_string(*recipe.keepers) +
                                           " keepers leave none of the " +
                                           std::to_string(inputs[i].first) + " channels of the " +
                                           llama::named_inputs[i].name + " input"};
    }
  }
  const int longest = std::max(tokens.length, tokens.longest_end_to_end);
  if (longest > c.max_positions) {
    return Error{Errc::out_of_range, "samples of " + std::to_string(longest) +
                                         " tokens; the model has " +
                                         std::to_string(c.max_positions) + " positions"};
  }
  if (auto fits = check_prompt_length(static_cast<std::size_t>(tokens.prompt), c); !fits)
    return fits;
  const CacheShape shape{.layers = c.layers,
                         .kv_heads = c.kv_heads,
                         .head_dim = c.head_dim,
                         .capacity = std::max(longest, 1)};
  if (auto can_be = check(shape, KvPolicy::of(scheme)); !can_be) return can_be;
  if (const auto basis = ModelBasis::make(c, recipe.basis, 0); !basis) return basis.error();
  return {};
}

// dequantized: the model's file stores weights in blocks, so that reading one makes floats of it.
// Requires what check_calibration() allows.
[[nodiscard]] inline CalibrationCost calibration_cost(const llama::Config& c, const Scheme& scheme,
                                                      const Recipe& recipe,
                                                      const CalibrationTokens& tokens, DType stream,
                                                      bool dequantized) {
  constexpr std::size_t f32 = sizeof(float), f16 = 2;
  const detail::BlockSizes sizes(c);
  const auto layers = static_cast<std::size_t>(c.layers),
             vocabulary = static_cast<std::size_t>(c.vocab_size),
             length = static_cast<std::size_t>(tokens.length),
             crops = static_cast<std::size_t>(tokens.samples),
             all = crops + static_cast<std::size_t>(tokens.held_out);
  const std::size_t table = vocabulary * sizes.hidden, weights = sizes.weights();
  const auto inputs = sizes.inputs();
  CalibrationCost cost;

  const bool shared = recipe.basis != Basis::rotated && c.tied_embeddings && scheme.head_bits == 16;
  const std::size_t head =
      scheme.head_bits == 8 ? PackedShape{int8_channel::value, c.vocab_size, c.hidden_size}.bytes()
      : shared              ? 0
                            : f16 * table;
  cost.embeddings = f16 * table + head;
  const std::size_t blocks = layers * detail::quantized_block_bytes(c, scheme, recipe);
  cost.model = cost.embeddings + blocks + f32 * sizes.hidden +
               2 * f16 * layers * sizes.kv * static_cast<std::size_t>(tokens.prompt);
  const auto more = static_cast<std::size_t>(tokens.end_to_end);
  const std::size_t one_token = sizes.hidden * static_cast<std::size_t>(bytes_of(stream));
  cost.streams = (2 * all * length + more) * one_token;

  // Sums in double, a chunk and the mean in float, and GPTQ's damped copy and its factor.
  std::size_t moments = 0;
  for (const auto& [channels, rows] : inputs) {
    const std::size_t square = channels * channels;
    moments = recipe.staged ? std::max(moments, 24 * square) : moments + 12 * square;
  }
  if (!recipe.staged) moments += 12 * sizes.intermediate * sizes.intermediate;
  const std::size_t kept =
      recipe.staged ? f32 * crops * length * std::max(sizes.attention, sizes.hidden) : 0;
  // What one crop is on its way, the cache included, and two copies of the widest linear.
  const std::size_t scratch =
      f32 * length *
          (4 * sizes.hidden + 2 * sizes.attention + 4 * sizes.kv + 3 * sizes.intermediate) +
      2 * f32 * sizes.hidden * sizes.intermediate;
  cost.block = f32 * weights + std::max(moments + kept + scratch, dequantized ? f32 * weights : 0);
  const auto first_tokens = static_cast<std::size_t>(std::min(recipe.tuning.length, tokens.length));
  const std::size_t hidden_states = f32 * all * first_tokens * sizes.hidden;
  if (recipe.tuning.block_phases() > 0 || (recipe.tuning.regresses() && recipe.tuning.any())) {
    const std::size_t kept_by_block = f32 * first_tokens * detail::activation_floats(c, recipe);
    // Sums in double, a chunk, the mean and the cross moments (start_branches.hpp).
    std::size_t regression = 0;
    for (const auto& [channels, rows] : inputs)
      regression += recipe.tuning.regresses() ? 20 * channels * channels : 0;
    cost.block = std::max(
        cost.block, 3 * f32 * weights + 2 * hidden_states + scratch + kept_by_block + regression);
  }
  const std::size_t teachers = f32 * (all * length + more) * sizes.hidden;
  const auto longest = static_cast<std::size_t>(std::max(tokens.length, tokens.longest_end_to_end));
  const auto segment =
      std::min(static_cast<std::size_t>(recipe.tuning.end_to_end_segment), longest);
  // Keys and values of a whole crop, as they are read and as the next segment will read them, and
  // as that of a held-out one will.
  const std::size_t times = length > segment ? 3 : longest > segment ? 2 : 0;
  const std::size_t behind = times * 2 * f32 * layers * longest * sizes.kv;
  if (recipe.tuning.tunes_model()) {
    cost.tuning = f32 * (layers * weights + table) + teachers + behind +
                  f32 * segment * (layers * detail::activation_floats(c, recipe) + 3 * vocabulary);
  }
  const std::size_t read = dequantized ? f32 * table : 0;
  const std::size_t read_stream =
      cost.tuning > 0 ? (all * length + more) * one_token + teachers : 0;
  cost.peak = std::max({cost.embeddings + read + cost.streams,
                        f16 * table + blocks + cost.block + cost.streams,
                        cost.model + read + std::max(cost.tuning, read_stream)});
  if (all == 0) cost.peak = cost.model + read + (dequantized ? f32 * layers * weights : 0);

  // The float block, the one whose inputs are gathered, and the quantized one: three passes.
  const auto pass = [&](std::size_t some, std::size_t crop) {
    return 2.0 * static_cast<double>(some) *
           (static_cast<double>(weights) + static_cast<double>(crop * sizes.attention));
  };
  double block = pass((2 * all + crops) * length, length) + pass(more, longest);
  for (const auto& [channels, rows] : inputs) {
    const auto n = static_cast<double>(channels), m = static_cast<double>(rows);
    block += static_cast<double>(crops * length) * n * n;  // moments: half of a square
    if (recipe.engine == Engine::gptq) block += n * n * n + 7 * m * n * n;
  }
  // Forwards, and backwards through inputs and weights.
  const double step = 4 * pass(first_tokens, length);
  const std::size_t mean_crop =
      (crops * length * length + more * longest) / std::max<std::size_t>(crops * length + more, 1);
  const double together =
      static_cast<double>(layers) * 4 * pass(std::min(segment, mean_crop), mean_crop) +
      6.0 * static_cast<double>(std::min(segment, mean_crop)) * static_cast<double>(table);
  cost.tuning_operations =
      static_cast<double>(layers) * recipe.tuning.block_phases() * recipe.tuning.block_steps *
          step +
      (recipe.tuning.tunes_model() ? recipe.tuning.end_to_end_steps * together : 0);
  cost.operations = static_cast<double>(layers) * block + cost.tuning_operations;
  return cost;
}

}  // namespace bisup
