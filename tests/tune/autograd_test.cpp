// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// Does PyTorch's autograd find the same gradients? tests/oracle/block_gradient.py wrote them.
#include <bisup/transform/hadamard.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <bisup_test.hpp>
#include <llama/golden_models.hpp>
#include <tune/small_block.hpp>

namespace {

using namespace bisup;
using namespace bisup::tune;

// The tensors of the file, drawn again.
std::map<std::string, Matrix<double>> draw(const nlohmann::json& golden) {
  std::map<std::string, Matrix<double>> tensors;
  const std::uint64_t seed = golden.at("seed");
  std::uint64_t index = 0;
  for (const auto& entry : golden.at("tensors")) {
    const auto extents = entry.at("shape").get<std::vector<int>>();
    Matrix<double> values(extents.size() == 1 ? 1 : extents[0], extents.back());
    const double offset = entry.at("offset"), scale = entry.at("scale");
    for (int i = 0; i < values.rows() * values.cols(); ++i) {
      const std::uint64_t at = (seed << 48) + (index << 32) + static_cast<std::uint64_t>(i);
      const auto bits = static_cast<std::int64_t>(test::mix(at + 0x9e3779b97f4a7c15ull) >> 48);
      values.data()[i] = offset + scale * static_cast<double>(bits - 32768) / 32768;
    }
    tensors[entry.at("name")] = std::move(values);
    ++index;
  }
  return tensors;
}

TEST_CASE("every gradient of a block is the one that autograd finds") {
  const auto golden = test::read_json("tests/oracle/block_gradient.json");
  auto tensors = draw(golden);
  const auto vector = [&](const std::string& name) {
    const auto row = tensors.at(name).row(0);
    return std::vector<double>(row.begin(), row.end());
  };
  const auto number = [&](const std::string& name) { return tensors.at(name)(0, 0); };

  SimulatedBlock<double> block;
  block.shape = small::shape;
  const char* const names[] = {"q", "k", "v", "o", "gate", "up", "down"};
  for (std::size_t i = 0; i < tune::linears; ++i) {
    const std::string name = names[i];
    auto& l = block.linears[i];
    l.weights = tensors.at(name + ".weight").clone(), l.bias = vector(name + ".bias");
    l.rounding = RowRounding{.format = {.bits = 3, .group = 8}, .keepers = 4};
    l.clip_high = tensors.at(name + ".clip").clone();
    l.a = tensors.at(name + ".a").clone(), l.b = tensors.at(name + ".b").clone(), l.kappa = 0.75;
  }
  const char* const arriving[] = {"attention_input", "output_input", "mlp_input", "down_input"};
  for (std::size_t i = 0; i < tune::inputs; ++i) {
    block.inputs[i].rounding =
        RowRounding{.format = {.bits = 4, .group = 8, .scale = Scale::f32}, .keepers = 4};
    block.inputs[i].clip = number(std::string(arriving[i]) + ".clip");
  }
  for (int j = 0; j < 24; ++j) block.inputs[attention_input].order.push_back((5 * j + 3) % 24);
  block.inputs[output_input].rotation = row_rotation<double>(Hadamard::make({1, 4, 8}).value());
  block.inputs[output_input].factor = vector("output_input.factor");
  block.attention_norm.weight = vector("attention_norm"),
  block.mlp_norm.weight = vector("mlp_norm");
  block.query_norm.weight = vector("query_norm"), block.key_norm.weight = vector("key_norm");
  auto& cache = block.cache;
  cache.keys = {.bits = 4}, cache.values = {.bits = 3};
  cache.rotate_keys = cache.rotate_values = cache.through_range = true, cache.sinks = 1;
  cache.key_high = number("keys.high"), cache.key_low = number("keys.low");
  cache.value_high = number("values.high"), cache.value_low = number("values.low");
  cache.prompt_keys = tensors.at("keys.prompt").clone();
  cache.prompt_values = tensors.at("values.prompt").clone();

  const small::Angles<double> angles(small::prompt);
  ThreadPool pool(1);
  BlockActivations<double> activations;
  BlockGradient<double> g;
  BlockScratch<double> scratch;
  Matrix<double> y(small::tokens, 24);
  refresh(block, pool);
  forward<double>(block, angles.view(), tensors.at("x").ref(), activations, y.ref(), pool);
  double value = 0;
  for (int i = 0; i < small::tokens * 24; ++i) {
    value += tensors.at("loss").data()[i] * y.data()[i];
  }
  // The file has ten digits, and both sides compute in double.
  CHECK(value == Approx(golden.at("value").get<double>()).epsilon(1e-9));
  auto dx = tensors.at("loss").clone();
  g.clear(block);
  backward<double>(block, angles.view(), activations, dx.ref(),
                   {.weight_clips = true,
                    .smoothing = true,  // for the factor's logarithm
                    .low_rank = true,
                    .activation_clips = true,
                    .cache_clips = true,
                    .norm_gains = true,
                    .input = true},
                   g, scratch, pool);

  std::map<std::string, std::vector<double>> found;
  const auto flat = [](const Matrix<double>& m) {
    return std::vector<double>(m.data(), m.data() + m.rows() * m.cols());
  };
  for (std::size_t i = 0; i < tune::linears; ++i) {
    const std::string name = names[i];
    found[name + ".clip"] = flat(g.linears[i].clip_high);
    found[name + ".a"] = flat(g.linears[i].a), found[name + ".b"] = flat(g.linears[i].b);
  }
  for (std::size_t i = 0; i < tune::inputs; ++i) {
    auto& values = found[std::string(arriving[i]) + ".clip"];
    values.push_back(g.clips[i]);
  }
  found["output_input.factor"] = g.factors[output_input];
  for (std::size_t i = 0; i < found["output_input.factor"].size(); ++i) {
    found["output_input.factor"][i] /= block.inputs[output_input].factor[i];
  }
  found["attention_norm"] = g.attention_norm, found["mlp_norm"] = g.mlp_norm;
  found["query_norm"] = g.query_norm, found["key_norm"] = g.key_norm;
  found["keys.high"] = {g.key_high}, found["keys.low"] = {g.key_low};
  found["values.high"] = {g.value_high}, found["values.low"] = {g.value_low};
  found["x"] = flat(dx);

  int compared = 0;
  for (const auto& [name, expected] : golden.at("gradients").items()) {
    if (!found.contains(name)) continue;  // weights and biases, which nobody learns here
    CAPTURE(name);
    const auto& values = found.at(name);
    double sum = 0, size = 0;
    for (const double v : values) sum += v, size += std::fabs(v);
    CHECK(std::fabs(sum - expected.at("sum").get<double>()) <= 1e-9 * size);
    const std::size_t step = expected.at("step");
    for (std::size_t i = 0; i < expected.at("values").size(); ++i) {
      REQUIRE(values.at(i * step) ==
              Approx(expected.at("values")[i].get<double>()).epsilon(1e-9).margin(1e-9));
    }
    ++compared;
  }
  CHECK(compared == 35);
}

}  // namespace
