// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is a method? A value with one field a slot (docs/calibration.md), interpreted by
// calibrator.hpp.
// The named recipes are those of the papers, constants included; where a search replaces a constant
// by default, the constant's name says what the paper used.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include <bisup/calibrate/tuning.hpp>
#include <bisup/core/scheme.hpp>
#include <bisup/quant/clip_search.hpp>
#include <bisup/quant/quantizer.hpp>

namespace bisup {

// Slot T: in which basis inputs and weights are rounded.
enum class Basis : std::uint8_t {
  natural,    // as the model has them
  reordered,  // channels sorted by power, the strongest kept in 8 bits (Atom)
  rotated,    // Hadamard rotations of the stream, the heads and d_ff (QuaRot)
};

// Slot R.
enum class Engine : std::uint8_t { nearest, gptq };

// On which inputs second moments are gathered.
enum class Moments : std::uint8_t {
  exact_inputs,    // of the quantized stream, before this linear's input is rounded (QuaRot)
  rounded_inputs,  // as the integer kernels will see them (Atom)
};

// A clip of activations or of the cache: searched on held-out data, or a constant.
struct ClipChoice {
  std::optional<float> constant = {};
  friend constexpr bool operator==(const ClipChoice&, const ClipChoice&) = default;
};

struct Recipe {
  std::string_view name = "rtn";
  Basis basis = Basis::natural;
  float smoothing = 0;  // alpha of SmoothQuant; 0: none
  Engine engine = Engine::nearest;
  std::variant<Nearest, ClipSearch> quantizer = Nearest{};  // slot Q
  bool static_groups = false, act_order = false;            // of GPTQ
  double damping = 0.01;                                    // of the mean diagonal
  Moments moments = Moments::exact_inputs;
  bool staged = true;  // q,k,v, then o, then gate,up, then down, each on what those before left
  std::optional<int> keepers = {};  // channels in 8 bits; none: default_keepers() if reordered
  ClipChoice activation_clip = {}, kv_clip = {};
  Tuning tuning = {};  // slots K and P

  friend bool operator==(const Recipe&, const Recipe&) = default;

  // How many of `channels` are kept in 8 bits.
  [[nodiscard]] int keepers_of(int channels) const;
  // Whether anything is learned from data.
  [[nodiscard]] bool calibrated() const {
    return engine == Engine::gptq || basis == Basis::reordered || smoothing > 0 ||
           std::holds_alternative<ClipSearch>(quantizer) || !activation_clip.constant ||
           !kv_clip.constant || tuning.any();
  }
};

// Atom keeps 128 of 4096 channels: one in 32, here in whole tiles of 32 columns, since the padding
// of an incomplete one would cost more bits than more keepers do.
[[nodiscard]] constexpr int default_keepers(int channels) {
  constexpr int tile = 32;
  return (channels / 32 + tile - 1) / tile * tile;
}

inline int Recipe::keepers_of(int channels) const {
  const int wanted = keepers.value_or(basis == Basis::reordered ? default_keepers(channels) : 0);
  return wanted < channels ? wanted : 0;
}

// The constants of the papers that a search replaces by default; --act-clip and --kv-clip give
// them.
inline constexpr float atom_activation_clip = 0.9f, atom_kv_clip = 1.0f;
inline constexpr float quarot_activation_clip = 0.9f, quarot_kv_clip = 0.95f;
inline constexpr float atom_weight_clip = 0.85f;

namespace recipes {

inline constexpr Recipe rtn{.activation_clip = {1.0f}, .kv_clip = {1.0f}};
// arXiv 2210.17323, here with activations and cache rounded too. Columns by descending power, with
// scales that were found before: SmolLM2 W4A8KV8-g64 is .13 nats from float, left to right with
// scales found on the way .18.
inline constexpr Recipe gptq{.name = "gptq",
                             .engine = Engine::gptq,
                             .quantizer = ClipSearch{},
                             .static_groups = true,
                             .act_order = true};
// arXiv 2211.10438.
inline constexpr Recipe smoothquant{.name = "smoothquant", .smoothing = 0.5f};
// arXiv 2310.19102.
inline constexpr Recipe atom{
    .name = "atom",
    .basis = Basis::reordered,
    .engine = Engine::gptq,
    .quantizer = Nearest{.clip = {atom_weight_clip, atom_weight_clip}, .grid = Grid::gptq},
    .moments = Moments::rounded_inputs,
    .staged = false};
// arXiv 2404.00456.
inline constexpr Recipe quarot{.name = "quarot",
                               .basis = Basis::rotated,
                               .engine = Engine::gptq,
                               .quantizer = ClipSearch{.loss = ClipLoss::power}};
// arXiv 2405.15346, as we read it (docs/bisup.md), on top of a base.
[[nodiscard]] constexpr Recipe bisup(Recipe base, std::string_view name) {
  base.name = name;
  // Rank 32 is an eighth of a bit at 4096 x 4096 and 0.9 bits at 576 x 576: there less must do.
  constexpr Preset preset = *find_preset("default");
  base.tuning = {.rank = 32,
                 .branch_bits = 0.25,
                 .block_steps = preset.block_steps,
                 .end_to_end_steps = preset.end_to_end_steps};
  return base;
}
// Round to nearest as far as it goes: what tuning alone is worth, without a transform or GPTQ.
inline constexpr Recipe searched_rtn{.quantizer = ClipSearch{}};
inline constexpr std::array all = {rtn,
                                   gptq,
                                   smoothquant,
                                   atom,
                                   quarot,
                                   bisup(searched_rtn, "bisup_rtn"),
                                   bisup(gptq, "bisup_gptq"),
                                   bisup(atom, "bisup_atom"),
                                   bisup(quarot, "bisup_quarot")};

}  // namespace recipes

[[nodiscard]] inline std::optional<Recipe> find_recipe(std::string_view name) {
  for (const Recipe& recipe : recipes::all) {
    if (recipe.name == name) return recipe;
  }
  return std::nullopt;
}

namespace detail {

// Without the zeros behind the last digit.
[[nodiscard]] inline std::string number(double value) {
  std::string text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  return text.ends_with('.') ? text + "0" : text;
}

}  // namespace detail

// What tuning learns, for people.
[[nodiscard]] inline std::string learned(const Tuning& tuning) {
  std::string text;
  const auto add = [&text](bool is_learned, const std::string& name) {
    if (is_learned) text += (text.empty() ? "" : ", ") + name;
  };
  add(tuning.smoothing, "smoothing before the rounding");
  add(tuning.merged_rank > 0,
      "branches of rank " + std::to_string(tuning.merged_rank) + " merged before the rounding");
  std::string rank = std::to_string(tuning.rank);
  if (tuning.branch_bits > 0)
    rank += " or less, for " + detail::number(tuning.branch_bits) + " bits a weight at most";
  if (tuning.branch_energy < 1)
    rank += ", as much as takes " + detail::number(tuning.branch_energy) + " of the error off";
  if (tuning.regression) rank += ", begun by regression";
  add(tuning.rank > 0,
      "branches of rank " + rank + ", in " + (tuning.branch_type == DType::i8 ? "int8" : "f16"));
  add(tuning.clips, "clips"), add(tuning.scales, "scales of weights");
  add(tuning.biases, "biases"), add(tuning.norm_gains, "norm gains");
  return text.empty() ? "nothing" : text;
}

// What the recipe does, slot by slot, for people.
[[nodiscard]] inline std::string explain(const Recipe& recipe) {
  using detail::number;
  const auto clip = [&](const ClipChoice& choice) {
    return choice.constant ? number(*choice.constant)
                           : std::string("searched for the least damage on held-out data");
  };
  std::string text = std::string(recipe.name) + "\n  transform    ";
  switch (recipe.basis) {
    case Basis::natural: text += "none"; break;
    case Basis::reordered:
      text += "channels sorted by power, the last " +
              (recipe.keepers ? std::to_string(*recipe.keepers) : std::string("1/32")) +
              " kept in 8 bits";
      break;
    case Basis::rotated:
      text +=
          "Hadamard rotations: residual stream and value heads offline, across heads, d_ff, "
          "queries and keys online";
      break;
  }
  if (recipe.smoothing > 0) text += ", smoothing with alpha " + number(recipe.smoothing);
  text += "\n  weights      ";
  text += recipe.engine == Engine::gptq
              ? std::string("GPTQ, damping ") + number(recipe.damping) + " of the mean diagonal, " +
                    (recipe.static_groups ? "static" : "dynamic") + " scales" +
                    (recipe.act_order ? ", by descending power" : "")
              : std::string("round to nearest");
  if (const auto* nearest = std::get_if<Nearest>(&recipe.quantizer)) {
    text += ", range times " + number(nearest->clip.high) +
            (nearest->grid == Grid::gptq ? " on the grid of 2^b codes" : "");
  } else {
    const auto& search = std::get<ClipSearch>(recipe.quantizer);
    text += std::string(", range searched for the least ") +
            (search.loss == ClipLoss::power ? "|error|^2.4" : "error weighted by E[x^2]");
  }
  if (recipe.engine == Engine::gptq) {
    text += std::string("\n  moments      of ") +
            (recipe.moments == Moments::rounded_inputs ? "rounded" : "exact") + " inputs, " +
            (recipe.staged ? "in four stages" : "of a block at once");
  }
  text += "\n  activations  clip " + clip(recipe.activation_clip);
  text += "\n  cache        clip " + clip(recipe.kv_clip) + "\n";
  if (recipe.tuning.any()) {
    const Tuning& t = recipe.tuning;
    text += "  tuning       " + learned(t) + ": " + std::to_string(t.block_steps) +
            " steps a block, " + std::to_string(t.end_to_end_steps) + " end to end\n";
  }
  return text;
}

}  // namespace bisup
