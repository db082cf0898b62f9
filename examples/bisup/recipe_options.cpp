// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "recipe_options.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <variant>

namespace command {

namespace {

using bisup::Tuning;

struct Ingredient {
  std::string_view name;
  bool Tuning::*learned;
};
// What --learn calls by name.
constexpr std::array ingredients = {
    Ingredient{"clips", &Tuning::clips},         Ingredient{"scales", &Tuning::scales},
    Ingredient{"biases", &Tuning::biases},       Ingredient{"norms", &Tuning::norm_gains},
    Ingredient{"smoothing", &Tuning::smoothing},
};

struct Rate {
  std::string_view name;
  double Tuning::*rate;
};
// What --rate calls by name: of both stages, unless the end-to-end stage has its own.
constexpr std::array rates = {
    Rate{"branches", &Tuning::branch_rate},
    Rate{"end-to-end-branches", &Tuning::end_to_end_branch_rate},
    Rate{"clips", &Tuning::clip_rate},
    Rate{"scales", &Tuning::scale_rate},
    Rate{"end-to-end-scales", &Tuning::end_to_end_scale_rate},
    Rate{"biases", &Tuning::bias_rate},
    Rate{"norms", &Tuning::gain_rate},
    Rate{"smoothing", &Tuning::smoothing_rate},
};

std::string names_of_rates() {
  std::string names;
  for (const auto& rate : rates) names += (names.empty() ? "" : ", ") + std::string(rate.name);
  return names;
}

std::vector<std::string> names_of_ingredients() {
  std::vector<std::string> names;
  for (const auto& ingredient : ingredients) names.emplace_back(ingredient.name);
  return names;
}

// "scales=1e-2": what it changes and to what; nothing if it is neither.
std::pair<double Tuning::*, double> rate_of(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos) return {};
  double rate = 0;
  if (!CLI::detail::lexical_cast(text.substr(equals + 1), rate) || !(rate >= 0) || rate > 1)
    return {};
  const auto named =
      std::ranges::find(rates, std::string_view(text).substr(0, equals), &Rate::name);
  return {named == rates.end() ? nullptr : named->rate, rate};
}

void change(Tuning& tuning, const RecipeOptions& options) {
  if (const auto numbers = bisup::find_preset(options.preset)) {
    tuning.block_steps = numbers->block_steps;
    tuning.end_to_end_steps = numbers->end_to_end_steps;
  }
  if (options.rank >= 0) tuning.rank = options.rank, tuning.branch_bits = 0;
  tuning.branch_energy = options.branch_energy;
  if (options.merged_rank >= 0) tuning.merged_rank = options.merged_rank;
  if (!options.branch_start.empty()) tuning.regression = options.branch_start == "regression";
  if (!options.branch_type.empty())
    tuning.branch_type = options.branch_type == "f16" ? bisup::DType::f16 : bisup::DType::i8;
  if (options.block_steps >= 0) tuning.block_steps = options.block_steps;
  if (options.end_to_end_steps >= 0) tuning.end_to_end_steps = options.end_to_end_steps;
  for (const auto& ingredient : ingredients) {
    if (options.learned.empty()) break;
    tuning.*ingredient.learned =
        std::ranges::find(options.learned, ingredient.name) != options.learned.end();
  }
  for (const std::string& text : options.rates) {
    const auto [changed, rate] = rate_of(text);
    tuning.*changed = rate;
  }
}

}  // namespace

void add_recipe_options(CLI::App& sub, RecipeOptions& options) {
  std::vector<std::string> methods, presets;
  for (const auto& recipe : bisup::recipes::all) methods.emplace_back(recipe.name);
  for (const auto& preset : bisup::presets) presets.emplace_back(preset.name);
  sub.add_option("--method", options.method, "the recipe; rtn (round to nearest) needs no data")
      ->check(CLI::IsMember(methods))
      ->capture_default_str();
  const auto clip = [](const std::string& text) {
    const auto number = CLI::TypeValidator<float>("NUMBER")(text);
    return text == "search" || (number.empty() && std::stof(text) > 0 && std::stof(text) <= 1)
               ? std::string()
               : "must be 'search' or a number above 0, at most 1";
  };
  sub.add_option("--act-clip", options.activation_clip, "share of a group's range, or search")
      ->check(clip)
      ->capture_default_str();
  sub.add_option("--kv-clip", options.kv_clip, "the same for keys and values")
      ->check(clip)
      ->capture_default_str();
  sub.add_option(
         "--weight-clip", options.weight_clip,
         "ranges of weights: search (error weighted by E[x^2]), power (|error|^2.4) or a share of "
         "a group's range, instead of the method's own")
      ->check(
          [clip](const std::string& text) { return text == "power" ? std::string() : clip(text); });
  sub.add_option(
         "--moments", options.moments,
         "GPTQ's second moments are of exact or of rounded inputs, instead of the method's own")
      ->check(CLI::IsMember({"exact", "rounded"}));
  sub.add_option("--keepers", options.keepers,
                 "channels of each input kept in 8 bits (atom: 1/32 of them unless given)")
      ->check(CLI::Range(0, 1 << 20));
  sub.add_option("--preset", options.preset,
                 "how much bisup_* tune, and on how many samples: demo, fast, default, thorough")
      ->check(CLI::IsMember(presets));
  sub.add_option(
         "--rank", options.rank,
         "of the branches that bisup_* learn; 0: none (32 unless given, or what a quarter of a bit "
         "a weight allows)")
      ->check(CLI::Range(0, 4096));
  sub.add_option("--branch-energy", options.branch_energy,
                 "the lowest rank that takes this share of a linear's error off, at most --rank")
      ->check([](const std::string& text) {  // CLI::Range takes nan
        double share = 0;
        return CLI::detail::lexical_cast(text, share) && share >= 0 && share <= 1
                   ? std::string()
                   : "must be a number from 0 to 1";
      })
      ->capture_default_str();
  sub.add_option(
         "--branch-start", options.branch_start,
         "where they begin: svd, at the error of the weights, or regression, at that of the "
         "outputs where there are 16 tokens for each input")
      ->check(CLI::IsMember({"svd", "regression"}));
  sub.add_option("--branch-type", options.branch_type,
                 "in what branches are stored: int8 unless given, or f16, of which half the rank "
                 "costs as much")
      ->check(CLI::IsMember({"int8", "f16"}));
  sub.add_option(
         "--merged-rank", options.merged_rank,
         "of branches that bisup_* learn before a block is rounded, as part of its weights; "
         "they cost no bits (0 unless given)")
      ->check(CLI::Range(0, 4096));
  sub.add_option("--learn", options.learned,
                 "what bisup_* learn beside branches, and nothing else: clips (of activations and "
                 "cache), scales (of weights), biases, norms, smoothing; or none")
      ->delimiter(',')
      ->check(CLI::IsMember([] {
        auto names = names_of_ingredients();
        names.emplace_back("none");
        return names;
      }()));
  sub.add_option("--rate", options.rates, "how fast bisup_* learn it: scales=1e-2, ...")
      ->delimiter(',')
      ->check([](const std::string& text) {
        return rate_of(text).first != nullptr
                   ? std::string()
                   : "must be one of " + names_of_rates() + ", then = and a number from 0 to 1";
      });
  sub.add_option("--block-steps", options.block_steps, "tuning steps of each block (bisup_*)")
      ->check(CLI::Range(0, 1 << 20));
  sub.add_option("--end-to-end", options.end_to_end_steps, "tuning steps of all blocks (bisup_*)")
      ->check(CLI::Range(0, 1 << 20));
}

bisup::Recipe recipe(const RecipeOptions& options) {
  bisup::Recipe recipe = *bisup::find_recipe(options.method);
  const auto choose = [](const std::string& option, bisup::ClipChoice& choice) {
    if (option != "search") choice.constant = std::stof(option);
  };
  choose(options.activation_clip, recipe.activation_clip), choose(options.kv_clip, recipe.kv_clip);
  if (options.weight_clip == "search") {
    recipe.quantizer = bisup::ClipSearch{};
  } else if (options.weight_clip == "power") {
    recipe.quantizer = bisup::ClipSearch{.loss = bisup::ClipLoss::power};
  } else if (!options.weight_clip.empty()) {
    const float share = std::stof(options.weight_clip);
    // On the grid that the method has.
    const auto* own = std::get_if<bisup::Nearest>(&recipe.quantizer);
    bisup::Nearest nearest = own == nullptr ? bisup::Nearest{} : *own;
    nearest.clip = {share, share};
    recipe.quantizer = nearest;
  }
  if (!options.moments.empty()) {
    recipe.moments =
        options.moments == "exact" ? bisup::Moments::exact_inputs : bisup::Moments::rounded_inputs;
  }
  if (options.keepers >= 0) recipe.keepers = options.keepers;
  if (recipe.tuning.any()) change(recipe.tuning, options);
  return recipe;
}

void use_preset(const RecipeOptions& options, const CLI::App& sub,
                CalibrationOptions& calibration) {
  const bool tunes = bisup::find_recipe(options.method)->tuning.any();
  const auto preset =
      bisup::find_preset(options.preset.empty() && tunes ? "default" : options.preset);
  if (!preset) return;
  if (sub.count("--calib-samples") == 0) calibration.samples.samples = preset->samples;
  if (sub.count("--calib-length") == 0) calibration.samples.length = preset->length;
  // Beside a text only, and of fewer samples than the preset has none.
  const bool mixes = !calibration.text.empty() && calibration.samples.samples >= preset->samples;
  if (sub.count("--self-generate") == 0 && mixes)
    calibration.self_generate = preset->self_generated;
  if (sub.count("--end-to-end-tokens") == 0 && recipe(options).tuning.tunes_model())
    calibration.samples.end_to_end = preset->end_to_end_tokens;
}

}  // namespace command
