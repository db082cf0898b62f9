// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/llama/session.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include "golden_models.hpp"

namespace {

using namespace bisup;

TEST_CASE(
    "logits of every architecture and option equal transformers' within 1e-3 of the largest") {
  const auto golden = test::read_json("tests/oracle/models.json");
  const auto ids = golden.at("tokens").get<std::vector<int>>();
  const auto positions = golden.at("positions").get<std::vector<int>>();
  ThreadPool pool(2);
  for (const auto& [name, expected] : golden.at("models").items()) {
    const test::GoldenModel source(expected);
    const auto model = llama::read_model(source);
    REQUIRE(model);
    auto session = llama::Session::make(*model, static_cast<int>(ids.size()), {}, pool);
    REQUIRE(session);
    const auto hidden = session->forward(ids);
    Matrix<float> logits(static_cast<int>(ids.size()), model->config.vocab_size);
    session->logits(hidden, logits.ref());
    double largest = 0, worst = 0;
    for (std::size_t p = 0; p < positions.size(); ++p) {
      const auto wanted = expected.at("logits").at(p).get<std::vector<float>>();
      REQUIRE(static_cast<int>(wanted.size()) == model->config.vocab_size);
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        largest = std::max(largest, std::abs(static_cast<double>(wanted[i])));
        worst = std::max(
            worst,
            std::abs(static_cast<double>(logits(positions[p], static_cast<int>(i)) - wanted[i])));
      }
    }
    INFO(name << ": largest logit " << largest << ", largest difference " << worst);
    CHECK(largest > 0.5);
    CHECK(worst <= 1e-3 * largest);  // the bar; both sides are float32 with other summation orders
  }
}

TEST_CASE("a source that lacks a tensor is refused by the tensor's name") {
  auto golden = test::read_json("tests/oracle/models.json").at("models").at("qwen2");
  for (auto& entry : golden.at("tensors")) {
    if (entry.at("name") == "model.layers.1.mlp.up_proj.weight") entry["name"] = "elsewhere";
  }
  const auto model = llama::read_model(test::GoldenModel(golden));
  REQUIRE_FALSE(model);
  CHECK(model.error().code == Errc::missing);
  CHECK(model.error().message.find("model.layers.1.mlp.up_proj.weight") != std::string::npos);
}

}  // namespace
