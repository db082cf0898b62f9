// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/core/random.hpp>
#include <bisup/llama/session.hpp>
#include <cmath>
#include <limits>

#include <bisup_test.hpp>
#include "../llama/golden_models.hpp"

namespace {

using namespace bisup;

std::vector<float> logits_of(const llama::Model& model, std::span<const int> ids) {
  auto session = llama::Session::make(model, 64, KvPolicy::of(model.scheme));
  REQUIRE(session);
  const auto logits = session->next_logits(ids);
  return {logits.begin(), logits.end()};
}

double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0, power = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    squares += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2),
        power += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(squares / power);
}

TEST_CASE("the simulation and the packed model agree on the input of a linear, on every scheme") {
  // One linear, so nothing downstream can turn a last-bit difference into another code: the two
  // differ by float summation only, at most (cols + groups) 2^-24 sum |w||x|.
  ThreadPool pool(2);
  Random random(3);
  Matrix<float> weights(40, 172), x(5, 172);
  for (auto* m : {&weights, &x}) {
    for (int r = 0; r < m->rows(); ++r) {
      for (int c = 0; c < m->cols(); ++c) (*m)(r, c) = static_cast<float>(random.normal());
    }
  }
  const llama::AnyLinear dense(llama::dense_tensor(weights.clone()));
  for (const int wb : {2, 3, 4, 5, 6, 8, 16}) {
    for (const int ab : {2, 3, 4, 5, 6, 7, 8, 16}) {
      for (const char* rest :
           {"-g32", "-g64", "-g128", "-channel", "-g64-atoken", "-g64-affine", "-channel-affine"}) {
        const auto scheme =
            Scheme::parse("W" + std::to_string(wb) + "A" + std::to_string(ab) + rest);
        if (!scheme) continue;  // -affine without quantized weights, -atoken without activations
        const auto packed =
            scheme->quantizes_weights()
                ? detail::RoundToNearest{false, pool}(dense, scheme->weight_format()).value()
                : dense;
        const auto simulated =
            scheme->quantizes_weights()
                ? detail::RoundToNearest{true, pool}(dense, scheme->weight_format()).value()
                : dense;
        llama::Activation integer, rounded;
        integer.prepare(x.ref(), input_form(*scheme, scheme->quantizes_weights()), pool);
        rounded.prepare(x.ref(), input_form(*scheme, false), pool);
        Matrix<float> y(5, 40), z(5, 40);
        packed.apply(integer, y.ref(), pool);
        simulated.apply(rounded, z.ref(), pool);
        double difference = 0;
        for (int t = 0; t < 5; ++t) {
          for (int r = 0; r < 40; ++r) {
            double magnitude = 0;
            for (int c = 0; c < 172; ++c) {
              magnitude += std::abs(static_cast<double>(simulated.dense()->view(r, c)) *
                                    static_cast<double>(rounded.values()(t, c)));
            }
            INFO(scheme->name() << " token " << t << " row " << r);
            REQUIRE(std::abs(static_cast<double>(y(t, r)) - static_cast<double>(z(t, r))) <=
                    (172 + 6 + 3) * 0x1p-24 * magnitude);
            difference += std::abs(static_cast<double>(z(t, r)));
          }
        }
        REQUIRE(difference > 0);
      }
    }
  }
}

TEST_CASE("more bits are closer to float, in whole models") {
  std::vector<int> ids;
  for (int i = 0; i < 30; ++i) ids.push_back((37 * i + 11) % 128);
  for (const char* name : {"llama", "qwen2", "qwen3_tied"}) {
    const auto model = test::small_model(name);
    const auto exact = logits_of(model, ids);
    double last = std::numeric_limits<double>::infinity();
    for (const char* text : {"W3A3KV3-g32", "W4A6KV4-g32", "W8A8KV8-g32"}) {
      const auto scheme = Scheme::parse(text).value();
      const auto packed = round_to_nearest(model, scheme);
      REQUIRE(packed);
      const double error = relative_difference(logits_of(*packed, ids), exact);
      INFO(name << " " << text << ": " << error);
      CHECK(error < last);
      CHECK(error > 1e-5);
      last = error;
    }
    CHECK(last < 0.1);  // 8 bits: steps of 1/127 of a group's range, averaged over rows of 64
  }
}

TEST_CASE("a weight that is not finite is refused by its layer's name") {
  auto model = test::small_model("llama");
  Matrix<float> bad = llama::as_matrix(model.blocks[1].up.dense()->view);
  bad(3, 3) = std::numeric_limits<float>::quiet_NaN();
  model.blocks[1].up = llama::AnyLinear(llama::dense_tensor(std::move(bad)));
  const auto packed = round_to_nearest(model, Scheme::parse("W4A8").value());
  REQUIRE_FALSE(packed);
  CHECK(packed.error().code == Errc::not_finite);
  CHECK(packed.error().message.find("model.layers.1.mlp.up_proj") != std::string::npos);
}

TEST_CASE("stopping between blocks is an error of its own") {
  const auto stopped = round_to_nearest(test::small_model("llama"), Scheme::parse("W4A8").value(),
                                        ThreadPool::shared(), [](int, int) { return false; });
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().code == Errc::interrupted);
}

}  // namespace
