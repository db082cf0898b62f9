// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/calibrator.hpp>
#include <bisup/calibrate/preflight.hpp>
#include <bisup/llama/model_size.hpp>

#include <bisup_test.hpp>
#include <calibrate/tiny_llama.hpp>
#include "../llama/golden_models.hpp"

namespace {

using namespace bisup;

CalibrationCost cost_of(const llama::Config& c, const char* scheme, const Recipe& recipe,
                        const CalibrationTokens& tokens, DType stream = DType::f32,
                        bool dequantized = false) {
  return calibration_cost(c, Scheme::parse(scheme).value(), recipe, tokens, stream, dequantized);
}

template <class S>
void expect_size(const S& source, const char* scheme, const Recipe& recipe) {
  Samples samples;
  samples.crops = {{3, 1, 4, 1, 5, 9, 2, 6}}, samples.held_out = {{2, 7, 1, 8, 2, 8, 1, 8}};
  NoStore nothing;
  const auto done = calibrate(source, Scheme::parse(scheme).value(), recipe, samples,
                              {.prompt = {4, 3, 2}}, nothing);
  INFO(recipe.name << " " << scheme);
  if (!done) FAIL(done.error().describe());
  const std::size_t expected = cost_of(source.config(), scheme, recipe, {1, 1, 8, 3}).model;
  std::size_t left_out = 0;  // branches and biases of blocks that were better without
  Recipe plain = recipe;
  plain.tuning.rank = 0, plain.tuning.biases = false;
  const std::size_t learned =
      expected - cost_of(source.config(), scheme, plain, {1, 1, 8, 3}).model;
  for (const auto& block : done->model.blocks)
    left_out += block.q.branch() == nullptr ? learned / done->model.blocks.size() : 0;
  CHECK(expected - left_out == llama::model_size(done->model).bytes);
}

TEST_CASE("the size of the quantized model is known before it is made") {
  const auto golden = test::read_json("tests/oracle/models.json");
  Recipe tuned = *find_recipe("bisup_atom"), kept = recipes::quarot;
  tuned.tuning = {.rank = 8, .length = 8, .block_steps = 1};
  kept.keepers = 32;
  for (const Recipe& recipe :
       {recipes::gptq, recipes::smoothquant, recipes::atom, recipes::quarot, tuned, kept}) {
    for (const char* scheme : {"W4A4KV4-g32", "W3A3KV3-g128-affine-head8", "W16A8-g32"}) {
      if (recipe.tuning.any() && scheme[1] == '1')
        continue;  // nothing to learn without rounded weights
      expect_size(test::tiny_source(), scheme, recipe);
    }
  }
  for (const char* name : {"qwen2_tied", "qwen3", "llama_mlp_bias"})
    expect_size(test::GoldenModel(golden.at("models").at(name)), "W4A4KV4-g32",
                recipes::smoothquant);
}

TEST_CASE("memory and operations grow with what is asked for") {
  const auto c = test::tiny_source().config();
  const auto cost = cost_of(c, "W4A4KV4-g32", recipes::quarot, {12, 2, 64});
  // 14 crops of 64 tokens, 128 floats each, twice.
  CHECK(cost.streams == 2 * 14 * 64 * 128 * 4);
  CHECK(cost_of(c, "W4A4KV4-g32", recipes::quarot, {12, 2, 64}, DType::bf16).streams ==
        cost.streams / 2);
  CHECK(cost.peak >= cost.model - cost.embeddings + cost.block + cost.streams);
  CHECK(cost.tuning == 0);
  const auto more = cost_of(c, "W4A4KV4-g32", recipes::quarot, {24, 4, 64});
  CHECK(more.peak > cost.peak);
  CHECK(more.operations > cost.operations);
  CHECK(more.operations < 2 * cost.operations);  // GPTQ itself does not depend on tokens
  CHECK(cost_of(c, "W4A4KV4-g32", recipes::smoothquant, {12, 2, 64}).operations < cost.operations);
  const auto tuned = cost_of(c, "W4A4KV4-g32", *find_recipe("bisup_quarot"), {12, 2, 64});
  CHECK(tuned.tuning > 0);
  CHECK(tuned.operations == Approx(cost.operations + tuned.tuning_operations));
  CHECK(tuned.tuning_operations > 0);
  CHECK(cost.tuning_operations == 0);
  // Tokens of the last stage alone are in one stream, and behind a teacher each.
  CalibrationTokens longer{
      .samples = 12, .held_out = 2, .length = 64, .end_to_end = 320, .longest_end_to_end = 64};
  const auto together = cost_of(c, "W4A4KV4-g32", *find_recipe("bisup_quarot"), longer);
  CHECK(together.streams == cost.streams + 320 * 128 * 4);
  CHECK(together.tuning == tuned.tuning + 320 * 128 * 4);
  CHECK(together.tuning_operations == tuned.tuning_operations);
  CHECK(together.operations > tuned.operations);
  // In longer crops a segment of 256 tokens reads keys and values of one head, 32 channels, of what
  // was before it: twice, as they are read now and as the next segment will, and in both layers.
  longer.longest_end_to_end = 320;
  const auto behind = cost_of(c, "W4A4KV4-g32", *find_recipe("bisup_quarot"), longer);
  const auto segments = behind.tuning - together.tuning;
  longer.longest_end_to_end = 400;
  const auto further = cost_of(c, "W4A4KV4-g32", *find_recipe("bisup_quarot"), longer);
  CHECK(further.tuning - behind.tuning ==
        80 * 2 * 2 * 4u * static_cast<unsigned>(c.layers * c.kv_heads * c.head_dim));
  CHECK(segments > further.tuning - behind.tuning);
  CHECK(further.tuning_operations > behind.tuning_operations);
  // Smoothing is learned in steps of its own; what learns nothing takes none.
  Recipe changed = *find_recipe("bisup_quarot");
  changed.tuning.smoothing = true;
  CHECK(cost_of(c, "W4A4KV4-g32", changed, {12, 2, 64}).tuning_operations >
        tuned.tuning_operations);
  // So is merging; a regression keeps moments of all four inputs.
  changed = *find_recipe("bisup_quarot");
  changed.tuning.merged_rank = 4;
  CHECK(cost_of(c, "W4A4KV4-g32", changed, {12, 2, 64}).tuning_operations >
        tuned.tuning_operations);
  // With many crops it is tuning that needs most.
  changed.tuning.merged_rank = 0;
  const auto begun = cost_of(c, "W4A4KV4-g32", changed, {200, 2, 64});
  changed.tuning.regression = true;
  CHECK(cost_of(c, "W4A4KV4-g32", changed, {200, 2, 64}).block ==
        begun.block + 20 * (3 * 128 * 128 + 384 * 384));
  // Without branches there is nothing to begin.
  changed.tuning.rank = 0, changed.tuning.block_steps = 0;
  const auto nothing = cost_of(c, "W4A4KV4-g32", changed, {200, 2, 64});
  changed.tuning.regression = false;
  CHECK(cost_of(c, "W4A4KV4-g32", changed, {200, 2, 64}).block == nothing.block);
  changed.tuning = {.block_steps = 8,
                    .end_to_end_steps = 8,
                    .clips = false,
                    .scales = false,
                    .biases = false,
                    .norm_gains = false};
  CHECK(cost_of(c, "W4A4KV4-g32", changed, {12, 2, 64}).operations == cost.operations);
  // Without data only the model counts, and its floats where the file has none.
  const auto plain = cost_of(c, "W4A4KV4-g32", recipes::rtn, {});
  CHECK(plain.streams == 0);
  CHECK(plain.peak == plain.model);
  CHECK(cost_of(c, "W4A4KV4-g32", recipes::rtn, {}, DType::f32, true).peak > plain.peak);
}

TEST_CASE("what tuning keeps of a block is what it is told to take") {
  const auto source = test::tiny_source();
  ThreadPool pool(1);
  for (const char* name : {"bisup_atom", "bisup_quarot"}) {
    Recipe recipe = *find_recipe(name);
    recipe.tuning = {.rank = 4, .length = 16, .block_steps = 1};
    Samples samples;
    for (int i = 0; i < 16; ++i) samples.crops.resize(1), samples.crops[0].push_back(3 * i + 1);
    samples.held_out = samples.crops;
    NoStore nothing;
    const auto done =
        calibrate(source, Scheme::parse("W4A4KV4-g32").value(), recipe, samples, {}, nothing)
            .value();
    const llama::Model& model = done.model;
    const auto block = simulated<float>(model.blocks[0], model.block_shape(),
                                        model.kv.entry(0, 0, 1), model.kv, pool);
    const tune::RopeAngleTable<float> angles(model.config, 0, 16);
    Matrix<float> x(16, model.config.hidden_size), y(16, model.config.hidden_size);
    tune::BlockActivations<float> a;
    tune::forward<float>(block, angles.view(), x.ref(), a, y.ref(), pool);
    std::size_t kept = static_cast<std::size_t>(x.rows() * x.cols());
    const auto add = [&](const Matrix<float>& m) {
      kept += static_cast<std::size_t>(m.rows() * m.cols());
    };
    for (const auto* m : {&a.attention_normed, &a.q_raw, &a.k_raw, &a.q, &a.k, &a.v, &a.keys,
                          &a.values, &a.attended, &a.middle, &a.mlp_normed, &a.gate, &a.up,
                          &a.hidden, &a.query_cosines, &a.query_sines})
      add(*m);
    for (const auto& input : a.inputs) add(input.rotated), add(input.prepared), add(input.rounded);
    for (const auto& projected : a.projected) add(projected);
    // Besides, the gradients of keys and values, one of each for every query head.
    kept += static_cast<std::size_t>(2 * 16 * model.config.heads * model.config.head_dim);
    INFO(name);
    CHECK(16 * detail::activation_floats(model.config, recipe) >= kept);
    CHECK(16 * detail::activation_floats(model.config, recipe) <
          kept + kept / 4);  // not each has each
  }
}

TEST_CASE("what cannot be is refused before anything long") {
  const auto c = test::tiny_source().config();
  const auto scheme = Scheme::parse("W4A4KV4-g32").value();
  const auto refused = [&](const llama::Config& config, const Recipe& recipe,
                           const CalibrationTokens& tokens) {
    const auto checked = check_calibration(config, scheme, recipe, tokens);
    REQUIRE_FALSE(checked);
    CHECK(checked.error().code == Errc::out_of_range);
    return checked.error().message;
  };
  for (const Recipe& recipe : recipes::all)
    CHECK(check_calibration(c, scheme, recipe, {2, 1, 512}));
  Recipe kept = recipes::atom;
  kept.keepers = 128;
  CHECK(refused(c, kept, {2, 1, 64}) ==
        "128 keepers leave none of the 128 channels of the attention input");
  kept.keepers = 127;
  CHECK(check_calibration(c, scheme, kept, {2, 1, 64}));
  CHECK(refused(c, recipes::atom, {2, 1, 513}).find("512 positions") != std::string::npos);
  CHECK(check_calibration(c, scheme, recipes::atom, {2, 1, 512, 512}));
  CHECK(refused(c, recipes::atom, {2, 1, 64, 513}).find("a prompt of 513 tokens") == 0);
  auto wide = c;
  wide.head_dim = 4098, wide.heads = wide.kv_heads = 1;
  CHECK(refused(wide, recipes::gptq, {2, 1, 64}).find("head_dim") != std::string::npos);
}

}  // namespace
