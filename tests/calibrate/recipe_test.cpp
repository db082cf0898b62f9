// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/recipe.hpp>
#include <set>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("every named recipe is found by its name, and only those") {
  std::set<std::string_view> names;
  for (const Recipe& recipe : recipes::all) {
    CHECK(names.insert(recipe.name).second);
    const auto found = find_recipe(recipe.name);
    REQUIRE(found);
    CHECK(*found == recipe);
  }
  for (const char* name : {"rtn", "gptq", "smoothquant", "atom", "quarot"})
    CHECK(names.contains(name));
  // Every base that GPTQ or nothing rounds has its tuned recipe, which is the base and a tuning.
  for (const char* base : {"rtn", "gptq", "atom", "quarot"}) {
    const auto tuned = find_recipe("bisup_" + std::string(base));
    REQUIRE(tuned);
    CHECK(tuned->tuning.any());
    CHECK(tuned->basis == find_recipe(base)->basis);
    CHECK(tuned->engine == find_recipe(base)->engine);
    CHECK(tuned->tuning.biases);
  }
  CHECK_FALSE(find_recipe("Atom"));
  CHECK_FALSE(find_recipe(""));
}

TEST_CASE("only round to nearest with constant clips needs no data") {
  for (const Recipe& recipe : recipes::all) CHECK(recipe.calibrated() == (recipe.name != "rtn"));
  Recipe recipe = recipes::rtn;
  recipe.kv_clip.constant.reset();
  CHECK(recipe.calibrated());
  recipe = recipes::rtn, recipe.quantizer = ClipSearch{};
  CHECK(recipe.calibrated());
  recipe = recipes::rtn, recipe.tuning.block_steps = 1;
  CHECK(recipe.calibrated());
}

TEST_CASE("Atom keeps one channel in 32, in whole tiles") {
  CHECK(default_keepers(4096) == 128);
  CHECK(default_keepers(576) == 32);
  for (int channels = 32; channels < 5000; channels += 32) {
    const int keepers = default_keepers(channels);
    CHECK(keepers % 32 == 0);
    CHECK((keepers * 32 >= channels && keepers * 32 < channels + 32 * 32));
    CHECK(recipes::atom.keepers_of(channels) == (keepers < channels ? keepers : 0));
    CHECK(recipes::quarot.keepers_of(channels) == 0);
  }
  Recipe chosen = recipes::quarot;
  chosen.keepers = 64;
  CHECK(chosen.keepers_of(576) == 64);
  chosen = recipes::atom, chosen.keepers = 0;
  CHECK(chosen.keepers_of(576) == 0);
}

TEST_CASE("what a recipe does is told slot by slot, with its numbers") {
  const auto says = [](const Recipe& recipe, const char* what) {
    return explain(recipe).find(what) != std::string::npos;
  };
  for (const Recipe& recipe : recipes::all)
    CHECK(explain(recipe).starts_with(std::string(recipe.name) + "\n"));
  CHECK(says(recipes::rtn, "round to nearest"));
  CHECK(says(recipes::rtn, "clip 1.0"));
  CHECK(says(recipes::smoothquant, "alpha 0.5"));
  CHECK(says(recipes::atom, "1/32 kept in 8 bits"));
  CHECK(says(recipes::atom, "range times 0.85"));
  CHECK(says(recipes::quarot, "Hadamard"));
  CHECK(says(recipes::quarot, "damping 0.01"));
  Recipe changed = recipes::atom;
  changed.keepers = 96, changed.activation_clip.constant = atom_activation_clip,
  changed.damping = 0.05;
  CHECK(says(changed, "the last 96 kept"));
  CHECK(says(changed, "activations  clip 0.9"));
  CHECK(says(changed, "damping 0.05"));
}

TEST_CASE("tuned recipes take as many steps as the preset that is the default") {
  for (const Recipe& recipe : recipes::all) {
    if (!recipe.tuning.any()) continue;
    INFO(recipe.name);
    CHECK(recipe.tuning.block_steps == find_preset("default")->block_steps);
    CHECK(recipe.tuning.end_to_end_steps == find_preset("default")->end_to_end_steps);
  }
  CHECK_FALSE(find_preset("usual"));
}

TEST_CASE("a branch costs no more than it may, and its rank fits the linear") {
  const Tuning exact{.rank = 32}, modest{.rank = 32, .branch_bits = 0.5};
  CHECK(exact.rank_of(576, 576) == 32);
  CHECK(exact.rank_of(576, 8) == 8);
  CHECK(modest.rank_of(4096, 4096) == 32);  // an eighth of a bit
  CHECK(modest.rank_of(576, 576) == 17);    // (8 * 1152 + 32) * 17 / 576^2 = 0.47
  CHECK(modest.rank_of(576, 192) == 8);
  CHECK(modest.rank_of(16, 16) == 1);
  const Tuning halves{.rank = 32, .branch_bits = 0.5, .branch_type = DType::f16};
  CHECK(halves.rank_of(576, 576) == 9);  // 16 * 9 * 1152 / 576^2 = 0.5
  CHECK(halves.rank_of(576, 192) == 4);
  CHECK(Tuning{}.rank_of(576, 576) == 0);
}

}  // namespace
