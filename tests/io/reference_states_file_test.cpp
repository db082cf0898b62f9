// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/evaluate/divergence.hpp>
#include <bisup/io/reference_states_file.hpp>
#include <bisup/llama/stored_prompt.hpp>
#include <fstream>

#include <bisup_test.hpp>
#include "../llama/golden_models.hpp"
#include "scratch_folder.hpp"

namespace {

using namespace bisup;
namespace fs = std::filesystem;

ReferenceStates states_of_some_text(const llama::Model& model) {
  ReferenceStates known;
  REQUIRE(divergence(model, {}, model, {}, test::some_ids(60), {.context = 30},
                     ThreadPool::shared(), {}, &known));
  return known;
}

TEST_CASE("a file gives back the states it was given, to the bit") {
  const ScratchFolder folder;
  const fs::path path = folder.path() / "states.safetensors";
  const auto model = test::small_model("llama");
  const auto known = states_of_some_text(model);
  REQUIRE(io::save_reference_states(path, known, model, {}));
  const auto loaded = io::load_reference_states(path, model, {});
  if (!loaded) FAIL(loaded.error().describe());
  REQUIRE(loaded->size() == 2);
  for (const auto& read : known) {
    const auto* found = loaded->find(read.ids);
    REQUIRE(found != nullptr);
    REQUIRE(found->states.cols() == model.config.hidden_size);
    for (int t = 0; t < read.states.rows(); ++t)
      REQUIRE(std::ranges::equal(found->states.row(t), read.states.row(t)));
  }
  REQUIRE(io::save_reference_states(path, {}, model, {}));
  CHECK(io::load_reference_states(path, model, {})->size() == 0);
}

TEST_CASE("states of another model, cache or prompt are refused") {
  const ScratchFolder folder;
  const fs::path path = folder.path() / "states.safetensors";
  auto model = test::small_model("llama");
  REQUIRE(io::save_reference_states(path, states_of_some_text(model), model, {}));
  const auto refused = [&](const llama::Model& of, const KvPolicy& policy) {
    const auto loaded = io::load_reference_states(path, of, policy);
    return !loaded && loaded.error().code == Errc::unsupported &&
           loaded.error().where == path.string();
  };
  CHECK_FALSE(refused(model, {}));
  CHECK(refused(model, {.sinks = 4}));
  CHECK(refused(test::small_model("qwen3"), {}));
  auto changed = test::small_model("llama");
  changed.blocks.back().norms.mlp[0] += 0.5f;
  CHECK(refused(changed, {}));
  model.prompt = llama::store_prompt(model, std::vector<int>{5, 3, 2}).value();
  CHECK(refused(model, {}));
  REQUIRE(io::save_reference_states(path, {}, model, {}));
  CHECK_FALSE(refused(model, {}));
  auto other = PromptCache({5, 3, 2}, model.config.layers, model.config.kv_heads,
                           model.config.head_dim);  // the same words, other keys and values
  const int width = model.config.kv_heads * model.config.head_dim;
  Matrix<float> ones(3, width);
  for (int t = 0; t < 3; ++t) std::ranges::fill(ones.row(t), 1.0f);
  for (int layer = 0; layer < model.config.layers; ++layer) other.set(layer, ones.ref(), ones.ref());
  model.prompt = other;
  CHECK(refused(model, {}));
}

TEST_CASE("a damaged file of states is refused by name, and so is one of another kind") {
  const ScratchFolder folder;
  const fs::path path = folder.path() / "states.safetensors";
  const auto model = test::small_model("llama");
  REQUIRE(io::save_reference_states(path, states_of_some_text(model), model, {}));
  const std::string good = read_file(path);
  std::string bytes = good;
  bytes[bytes.size() - 3] = static_cast<char>(bytes[bytes.size() - 3] ^ 4);
  write_file(path, bytes);
  CHECK(io::load_reference_states(path, model, {}).error().code == Errc::wrong_checksum);
  for (std::size_t length = 0; length < good.size(); length += 1 + good.size() / 50) {
    write_file(path, good.substr(0, length));
    CHECK_FALSE(io::load_reference_states(path, model, {}));
  }
  REQUIRE(io::write_checked(path, {}, {{"reference", 3}}));
  CHECK(io::load_reference_states(path, model, {}).error().code == Errc::missing);
  // A description that promises what the file does not hold, and states of another width.
  const io::Json reference = io::detail::describe_reference(model, {});
  REQUIRE(io::write_checked(path, {}, {{"reference", reference}, {"reads", 1u}}));
  CHECK(io::load_reference_states(path, model, {}).error().code == Errc::missing);
  const std::vector<int> ids = {1, 2};
  const std::vector<float> narrow = {1, 2, 3, 4};
  const std::vector<io::Tensor> tensors = {
      {.name = "ids.0",
       .type = io::ElementType::i32,
       .shape = {2},
       .bytes = std::as_bytes(std::span(ids))},
      {.name = "states.0",
       .type = io::ElementType::f32,
       .shape = {2, 2},
       .bytes = std::as_bytes(std::span(narrow))},
  };
  REQUIRE(io::write_checked(path, tensors, {{"reference", reference}, {"reads", 1u}}));
  CHECK(io::load_reference_states(path, model, {}).error().code == Errc::wrong_shape);
}

}  // namespace
