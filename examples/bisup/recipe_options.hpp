// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a recipe chosen and changed? --method, and an option for each of its slots.

#include <CLI/CLI.hpp>

#include <bisup/calibrate/recipe.hpp>
#include <string>
#include <vector>

#include "calibration.hpp"

namespace command {

struct RecipeOptions {
  std::string method = "rtn", activation_clip = "search", kv_clip = "search";
  std::string weight_clip, moments, preset;  // empty: as the method has it
  std::string branch_type, branch_start;     // the same
  double branch_energy = 1;
  int keepers = -1, rank = -1, merged_rank = -1, block_steps = -1,
      end_to_end_steps = -1;  // -1: the same
  std::vector<std::string> learned, rates;
};
void add_recipe_options(CLI::App& sub, RecipeOptions& options);

// The method's recipe as the options change it.
[[nodiscard]] bisup::Recipe recipe(const RecipeOptions& options);

// Samples as the preset has them, where the command line did not say how many or how long. Methods
// that tune have the preset `default` unless another is named.
void use_preset(const RecipeOptions& options, const CLI::App& sub, CalibrationOptions& calibration);

}  // namespace command
