// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What shape is the model? Config holds what Hugging Face's config.json or a GGUF's metadata say
// about a Llama, Mistral, Qwen2 or Qwen3, checked; io/hf_config.hpp and io/gguf_config.hpp fill it
// in.

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <bisup/core/result.hpp>

namespace bisup::llama {

enum class RopeScalingKind : std::uint8_t { none, linear, llama3, yarn };

// How positions beyond the trained ones are squeezed; which fields count depends on the kind.
struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::none;
  double factor = 1;
  double low_frequency_factor = 1, high_frequency_factor = 4;  // llama3
  int original_max_positions = 0;                              // llama3, yarn
  double beta_fast = 32, beta_slow = 1;                        // yarn
  std::optional<double> attention_factor = {};                 // yarn; default 0.1 ln(factor) + 1
  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

struct Config {
  std::string architecture;  // "llama", "mistral", "qwen2", "qwen3"
  int hidden_size = 0, intermediate_size = 0;
  int layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int vocab_size = 0, max_positions = 0;
  float norm_eps = 1e-5f;
  double rope_theta = 10000;
  RopeScaling rope_scaling = {};
  std::vector<float> rope_factors =
      {};                       // [head_dim / 2] divisors of the frequencies, from a GGUF; or empty
  bool attention_bias = false;  // q, k, v
  bool output_bias = false;     // o
  bool mlp_bias = false;        // gate, up, down
  bool qk_norm = false;         // Qwen3
  bool tied_embeddings = false;  // lm_head is the embedding
  std::optional<int> sliding_window = {};
  std::optional<int> bos_id = {};
  std::vector<int> eos_ids = {};
  friend bool operator==(const Config&, const Config&) = default;

  // Whether the numbers can belong to a model; the message names the first that cannot.
  [[nodiscard]] Result<void> validate() const {
    const auto refuse = [](const std::string& what) { return Error{Errc::out_of_range, what}; };
    const auto in_range = [](long value, long low, long high) {
      return value >= low && value <= high;
    };
    constexpr int most = 1 << 20;
    if (!in_range(hidden_size, 1, most))
      return refuse("hidden_size is " + std::to_string(hidden_size));
    if (!in_range(intermediate_size, 1, 4 * most)) {
      return refuse("intermediate_size is " + std::to_string(intermediate_size));
    }
    if (!in_range(layers, 1, 4096))
      return refuse("the number of layers is " + std::to_string(layers));
    if (!in_range(heads, 1, 4096)) return refuse("the number of heads is " + std::to_string(heads));
    if (!in_range(kv_heads, 1, heads))
      return refuse("the number of kv heads is " + std::to_string(kv_heads));
    if (heads % kv_heads != 0) {
      return refuse(std::to_string(heads) + " heads cannot share " + std::to_string(kv_heads) +
                    " kv heads evenly");
    }
    if (!in_range(head_dim, 2, 4096) || head_dim % 2 != 0)
      return refuse("head_dim is " + std::to_string(head_dim));
    if (!in_range(vocab_size, 1, 16 * most))
      return refuse("vocab_size is " + std::to_string(vocab_size));
    if (!in_range(max_positions, 1, 64 * most)) {
      return refuse("the number of positions is " + std::to_string(max_positions));
    }
    if (!(norm_eps > 0 && norm_eps < 1))
      return refuse("the norms' epsilon is " + std::to_string(norm_eps));
    if (!(rope_theta >= 1 && std::isfinite(rope_theta)))
      return refuse("rope_theta is " + std::to_string(rope_theta));
    if (!rope_factors.empty() && static_cast<int>(rope_factors.size()) != head_dim / 2) {
      return refuse("there are " + std::to_string(rope_factors.size()) +
                    " rope factors for head_dim " + std::to_string(head_dim));
    }
    for (const float factor : rope_factors) {
      if (!(factor > 0 && std::isfinite(factor)))
        return refuse("a rope factor is " + std::to_string(factor));
    }
    if (sliding_window && *sliding_window < 1)
      return refuse("sliding_window is " + std::to_string(*sliding_window));
    if (bos_id && !in_range(*bos_id, 0, vocab_size - 1))
      return refuse("bos id " + std::to_string(*bos_id) + " is not in the vocabulary");
    for (const int id : eos_ids) {
      if (!in_range(id, 0, vocab_size - 1))
        return refuse("eos id " + std::to_string(id) + " is not in the vocabulary");
    }
    return validate_rope_scaling();
  }

 private:
  [[nodiscard]] Result<void> validate_rope_scaling() const {
    const RopeScaling& s = rope_scaling;
    if (s.kind == RopeScalingKind::none) return {};
    const auto refuse = [](const std::string& what) {
      return Error{Errc::out_of_range, "rope scaling: " + what};
    };
    if (!(s.factor >= 1 && std::isfinite(s.factor)))
      return refuse("factor is " + std::to_string(s.factor));
    if (s.kind == RopeScalingKind::linear) return {};
    if (s.original_max_positions < 1)
      return refuse("original_max_position_embeddings is missing or not positive");
    if (s.kind == RopeScalingKind::llama3 &&
        !(s.low_frequency_factor > 0 && s.high_frequency_factor > s.low_frequency_factor)) {
      return refuse("low_freq_factor must be positive and below high_freq_factor");
    }
    if (s.kind == RopeScalingKind::yarn && !(s.beta_slow > 0 && s.beta_fast > s.beta_slow)) {
      return refuse("beta_slow must be positive and below beta_fast");
    }
    return {};
  }
};

}  // namespace bisup::llama
