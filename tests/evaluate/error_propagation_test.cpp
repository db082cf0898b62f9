// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/calibrator.hpp>
#include <bisup/evaluate/error_propagation.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include "../calibrate/tiny_llama.hpp"

namespace {

using namespace bisup;

constexpr WindowOptions two_windows{.context = 64, .windows = 2};

llama::Model quantized(const Recipe& recipe, const char* scheme, ThreadPool& pool) {
  NoStore store;
  return calibrate(test::tiny_source(), Scheme::parse(scheme).value(), recipe,
                   test::tiny_samples(4, 64), {}, store, pool)
      .value()
      .model;
}

TEST_CASE("a model propagates no error against itself") {
  ThreadPool pool(2);
  const auto model = llama::read_model(test::tiny_source()).value();
  const auto found = error_propagation(model, {}, model, test::tiny_judge(), two_windows, pool);
  REQUIRE(found);
  CHECK(found->windows == 2);
  CHECK(found->layers.size() == static_cast<std::size_t>(model.config.layers));
  for (const LayerPropagation& layer : found->layers) {
    CHECK(layer.stream_error == 0);
    CHECK(layer.cache_error == 0);
    REQUIRE(layer.mass.size() == 64);
    // Each of 64 queries spends 1; token j is seen by 64 - j of them.
    double spent = 0;
    for (std::size_t j = 0; j < 64; ++j) spent += layer.mass[j] * static_cast<double>(64 - j);
    CHECK(spent == Approx(64).epsilon(1e-5));
    for (const double error : layer.source_error) CHECK(error == 0);
  }
}

TEST_CASE("a rotated model is compared in its own basis") {
  ThreadPool pool(2);
  const auto exact = llama::read_model(test::tiny_source()).value();
  const auto rotated = quantized(recipes::quarot, "W16A16", pool);
  const auto found =
      error_propagation(rotated, rotated.kv, exact, test::tiny_judge(), two_windows, pool);
  REQUIRE(found);
  // Embeddings in f16, 2^-12 each; without the basis the error would be about 2.
  for (const LayerPropagation& layer : found->layers) {
    CHECK(layer.stream_error > 0);
    CHECK(layer.stream_error < 0x1p-18);
  }
}

TEST_CASE("fewer bits make both directions worse, each its own") {
  ThreadPool pool(2);
  const auto exact = llama::read_model(test::tiny_source()).value();
  double stream = 0, cache = 0;
  for (const char* scheme : {"W8A8KV8-g32", "W4A4KV4-g32", "W3A3KV3-g32"}) {
    const auto model = quantized(recipes::quarot, scheme, pool);
    const auto found =
        error_propagation(model, model.kv, exact, test::tiny_judge(), two_windows, pool);
    REQUIRE(found);
    const LayerPropagation& last = found->layers.back();
    INFO(scheme << ": " << last.stream_error << ", " << last.cache_error);
    CHECK(last.stream_error > stream);
    CHECK(last.cache_error > cache);
    stream = last.stream_error, cache = last.cache_error;
    double parts = 0;
    for (const double error : last.source_error) parts += error;
    // Errors of different tokens add up but for what they have in common.
    CHECK(parts > 0.3 * last.cache_error);
    CHECK(parts < 3 * last.cache_error);
    // A window as long as the text leaves the cache exact, and the weights as they are.
    KvPolicy window = model.kv;
    window.recent = 64;
    const auto spared =
        error_propagation(model, window, exact, test::tiny_judge(), two_windows, pool);
    REQUIRE(spared);
    CHECK(spared->layers.back().cache_error == 0);
    CHECK(spared->layers.back().stream_error > 0);
    CHECK(spared->layers.back().stream_error < stream);
  }
}

TEST_CASE("models that cannot be compared are refused") {
  ThreadPool pool(1);
  const auto exact = llama::read_model(test::tiny_source()).value();
  auto shorter = exact;
  shorter.config.layers -= 1, shorter.blocks.pop_back();
  const auto ids = test::tiny_judge();
  CHECK(error_propagation(shorter, {}, exact, ids, two_windows, pool).error().code ==
        Errc::wrong_shape);
  CHECK(error_propagation(exact, {}, exact, std::span(ids).first(10), two_windows, pool)
            .error()
            .code == Errc::too_short);
}

}  // namespace
