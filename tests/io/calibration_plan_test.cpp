// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/calibration_plan.hpp>
#include <bisup/io/working_folder.hpp>
#include <filesystem>
#include <functional>
#include <set>

#include <bisup_test.hpp>
#include "scratch_folder.hpp"

namespace {

using namespace bisup;
using io::Json;
namespace fs = std::filesystem;

const fs::path tiny = BISUP_SOURCE_DIR "/examples/tiny_llama";

struct Inputs {
  Json model = {{"weights_crc32c", 1}};
  Scheme scheme = Scheme::parse("W4A4KV4-g64").value();
  Recipe recipe = recipes::atom;
  Samples samples = {{{1, 2, 3}, {4, 5, 6}}, {{7, 8}}, {{9}}};
  CalibrateOptions options = {};

  [[nodiscard]] Json plan() const { return io::calibration_plan(model, scheme, recipe, samples, options); }
};

TEST_CASE("whatever changes the result changes the plan, and the difference has its name") {
  const auto changes = std::to_array<std::pair<const char*, std::function<void(Inputs&)>>>({
      {"model.weights_crc32c", [](Inputs& i) { i.model["weights_crc32c"] = 2; }},
      {"scheme", [](Inputs& i) { i.scheme.group = 32; }},
      {"recipe.name", [](Inputs& i) { i.recipe.name = "mine"; }},
      {"recipe.basis", [](Inputs& i) { i.recipe.basis = Basis::rotated; }},
      {"recipe.smoothing", [](Inputs& i) { i.recipe.smoothing = 0.5f; }},
      {"recipe.engine", [](Inputs& i) { i.recipe.engine = Engine::nearest; }},
      {"recipe.quantizer.high", [](Inputs& i) { i.recipe.quantizer = Nearest{{0.9f, 0.85f}, Grid::gptq}; }},
      {"recipe.quantizer.low", [](Inputs& i) { i.recipe.quantizer = Nearest{{0.85f, 0.9f}, Grid::gptq}; }},
      {"recipe.quantizer.grid", [](Inputs& i) { i.recipe.quantizer = Nearest{{0.85f, 0.85f}, Grid::plain}; }},
      {"recipe.static_groups", [](Inputs& i) { i.recipe.static_groups = true; }},
      {"recipe.act_order", [](Inputs& i) { i.recipe.act_order = true; }},
      {"recipe.damping", [](Inputs& i) { i.recipe.damping = 0.02; }},
      {"recipe.moments", [](Inputs& i) { i.recipe.moments = Moments::exact_inputs; }},
      {"recipe.staged", [](Inputs& i) { i.recipe.staged = true; }},
      {"recipe.keepers", [](Inputs& i) { i.recipe.keepers = 32; }},
      {"recipe.activation_clip", [](Inputs& i) { i.recipe.activation_clip.constant = 0.9f; }},
      {"recipe.kv_clip", [](Inputs& i) { i.recipe.kv_clip.constant = 0.9f; }},
      {"recipe.tuning.rank", [](Inputs& i) { i.recipe.tuning.rank = 8; }},
      {"recipe.tuning.branch_energy", [](Inputs& i) { i.recipe.tuning.branch_energy = 0.5; }},
      {"recipe.tuning.biases", [](Inputs& i) { i.recipe.tuning.biases = false; }},
      {"recipe.tuning.length", [](Inputs& i) { i.recipe.tuning.length = 8; }},
      {"recipe.tuning.block_steps", [](Inputs& i) { i.recipe.tuning.block_steps = 8; }},
      {"recipe.tuning.end_to_end_steps", [](Inputs& i) { i.recipe.tuning.end_to_end_steps = 8; }},
      {"recipe.tuning.clips", [](Inputs& i) { i.recipe.tuning.clips = false; }},
      {"recipe.tuning.norm_gains", [](Inputs& i) { i.recipe.tuning.norm_gains = false; }},
      {"recipe.tuning.branch_rate", [](Inputs& i) { i.recipe.tuning.branch_rate = 1; }},
      {"recipe.tuning.end_to_end_branch_rate", [](Inputs& i) { i.recipe.tuning.end_to_end_branch_rate = 1; }},
      {"recipe.tuning.clip_rate", [](Inputs& i) { i.recipe.tuning.clip_rate = 1; }},
      {"recipe.tuning.scale_rate", [](Inputs& i) { i.recipe.tuning.scale_rate = 1; }},
      {"recipe.tuning.end_to_end_scale_rate", [](Inputs& i) { i.recipe.tuning.end_to_end_scale_rate = 1; }},
      {"recipe.tuning.gain_rate", [](Inputs& i) { i.recipe.tuning.gain_rate = 1; }},
      {"tokens.crc32c", [](Inputs& i) { i.samples.crops[1][2] = 7; }},
      {"tokens.crc32c", [](Inputs& i) { i.samples.crops = {{1, 2}, {3, 4, 5, 6}}; }},  // the same ids
      {"tokens.crc32c", [](Inputs& i) { i.samples.held_out[0][0] = 8; }},
      {"tokens.crc32c", [](Inputs& i) { i.samples.end_to_end[0][0] = 8; }},
      {"streams", [](Inputs& i) { i.options.stream = DType::bf16; }},
      {"seed", [](Inputs& i) { i.options.seed = 1; }},
      {"prompt", [](Inputs& i) { i.options.prompt = {1, 2}; }},
      {"prompt", [](Inputs& i) { i.options.prompt = {1, 3}; }},
      {"prompt", [](Inputs& i) { i.options.prompt = {1, 2}, i.options.prompt_bits = 4; }},
  });
  const Json plan = Inputs{}.plan();
  CHECK(plan == Inputs{}.plan());
  CHECK(io::first_difference(plan, io::parse_json(plan.dump(1), "plan").value()).empty());
  std::set<std::string> seen;
  for (const auto& [name, change] : changes) {
    Inputs inputs;
    change(inputs);
    const std::string difference = io::first_difference(plan, inputs.plan());
    INFO(difference);
    CHECK(difference.starts_with(std::string(name) + " is "));
    seen.insert(inputs.plan().dump());
  }
  CHECK(seen.size() == changes.size());
}

TEST_CASE("a search of weights' ranges is written down too") {
  Inputs inputs;
  inputs.recipe.quantizer = ClipSearch{};
  const Json plan = inputs.plan();
  for (const auto& search : {ClipSearch{.loss = ClipLoss::power}, ClipSearch{.grid = Grid::gptq}, ClipSearch{.candidates = 9}}) {
    inputs.recipe.quantizer = search;
    CHECK(inputs.plan() != plan);
  }
}

TEST_CASE("differences are told as people wrote them") {
  CHECK(io::first_difference({{"a", {{"b", 1}}}}, {{"a", {{"b", 2}}}}) == "a.b is 1 there and 2 here");
  CHECK(io::first_difference({{"a", 1}}, {{"a", 1}, {"z", true}}) == "z is null there and true here");
  CHECK(io::first_difference({{"a", 1}}, 3) == "the plan is {\"a\":1} there and 3 here");
  CHECK(io::first_difference({{"a", std::string(500, 'x')}}, {{"a", 1}}).size() < 100);
  Inputs inputs;
  inputs.recipe.activation_clip.constant = 0.9f;
  CHECK(io::first_difference(Inputs{}.plan(), inputs.plan()) == "recipe.activation_clip is \"search\" there and 0.9 here");
}

TEST_CASE("a model is another one if a bit of its weights is") {
  const ScratchFolder folder;
  const auto copy = folder.path() / "model";
  fs::copy(tiny, copy);
  const auto checksum = [](const fs::path& path) { return io::Checkpoint::open(path).value().checksum(); };
  const auto whole = checksum(tiny);
  CHECK(checksum(copy) == whole);
  std::string bytes = folder.read("model/model.safetensors");
  bytes[bytes.size() - 100] = static_cast<char>(bytes[bytes.size() - 100] ^ 1);
  folder.write("model/model.safetensors", bytes);
  CHECK(checksum(copy) != whole);
  const Json described = io::describe(io::Checkpoint::open(copy).value());
  CHECK(described["weights_crc32c"] == checksum(copy));
  CHECK(described["config"]["hidden_size"] == 128);
}

}  // namespace
