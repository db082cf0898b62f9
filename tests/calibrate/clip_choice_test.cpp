// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/clip_choice.hpp>
#include <bisup/core/random.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

TEST_CASE("the search keeps the least damage and looks past one rise") {
  const auto bowl = [](float best) {
    return [best](float clip) { return 1 + std::pow(static_cast<double>(clip - best), 2); };
  };
  CHECK(search_clip(bowl(1.0f)).clip == 1.0f);
  CHECK(search_clip(bowl(0.7f)).clip == 0.7f);
  CHECK(search_clip(bowl(0.0f)).clip == clip_candidates.back());
  // Up, down again below all others, then up for good.
  int calls = 0;
  const auto found = search_clip([&](float clip) {
    ++calls;
    return clip == 1      ? 2.0
           : clip > 0.92f ? 3.0
           : clip > 0.87f ? 1.0
                          : 4.0 - static_cast<double>(clip);
  });
  CHECK(found.clip == 0.9f);
  CHECK((found.damage == 1 && found.unclipped == 2));
  CHECK(calls == 5);  // 0.85 and 0.8 rose twice in a row
}

TEST_CASE("fewer bits want a stronger clip, and the damage is that of the linears' outputs") {
  ThreadPool pool(2);
  const Matrix<float> x = test::normals(64, 256, 1), w = test::normals(32, 256, 2);
  const DenseView view{w.data(), DType::f32, 32, 256};
  float last = 0;
  for (const int bits : {3, 4, 8}) {
    const ActivationFormat format{.bits = bits, .group = 128};
    const auto found = choose_activation_clip(x.ref(), format, 0, std::span(&view, 1), pool);
    CHECK(found.clip > last);
    CHECK(found.damage <= found.unclipped);
    last = found.clip;
    ActivationFormat at = format;
    at.clip = found.clip;
    Matrix<float> rounded = x.clone();
    fake_quantize(rounded.ref(), at, pool);
    double damage = 0;
    for (int t = 0; t < 64; ++t) {
      for (int r = 0; r < 32; ++r) {
        double error = 0;
        for (int c = 0; c < 256; ++c)
          error += (static_cast<double>(rounded(t, c)) - static_cast<double>(x(t, c))) *
                   static_cast<double>(w(r, c));
        damage += error * error;
      }
    }
    // 256 float products a sum: relative error of a square at most 2 * 256 u, in the mean far less.
    CHECK(found.damage == Approx(damage).epsilon(512 * 0x1p-24));
  }
  CHECK(last == 1);  // 8 bits
}

TEST_CASE("keepers are not clipped and do not vote") {
  ThreadPool pool(1);
  Matrix<float> x = test::normals(32, 96, 3);
  const Matrix<float> w = test::normals(16, 96, 4);
  const DenseView view{w.data(), DType::f32, 16, 96};
  const ActivationFormat format{.bits = 3, .group = 32};
  const auto before = choose_activation_clip(x.ref(), format, 32, std::span(&view, 1), pool);
  for (int t = 0; t < 32; ++t) {
    for (int c = 64; c < 96; ++c) x(t, c) *= 1e-3f;
  }
  const auto after = choose_activation_clip(x.ref(), format, 32, std::span(&view, 1), pool);
  CHECK(before.clip == after.clip);
  CHECK(before.clip < 0.9f);
}

TEST_CASE("the cache's clips are searched for keys and values apart") {
  ThreadPool pool(2);
  const Matrix<float> q = test::normals(40, 128, 5), k = test::normals(40, 64, 6),
                      v = test::normals(40, 64, 7);
  const CacheShape shape{.kv_heads = 2, .head_dim = 32};
  const AttentionInputs inputs{q.ref(), k.ref(), v.ref()};
  const auto both =
      choose_kv_clips(inputs, shape, {.keys = {.bits = 2}, .values = {.bits = 2}}, {}, pool)
          .value();
  const auto keys = choose_kv_clips(inputs, shape, {.keys = {.bits = 2}}, {}, pool).value();
  CHECK(both.keys.clip == keys.keys.clip);
  CHECK(both.keys.damage == keys.keys.damage);
  CHECK(both.values.clip < 1);  // 2 bits of a Gaussian
  CHECK(both.values.damage < both.values.unclipped);
  CHECK((keys.values.clip == 1 && keys.values.damage == 0));
}

TEST_CASE("what attention gives to a prompt is not damaged by clips") {
  ThreadPool pool(2);
  const Matrix<float> q = test::normals(24, 128, 5), k = test::normals(24, 64, 6),
                      v = test::normals(24, 64, 7);
  const CacheShape shape{.kv_heads = 2, .head_dim = 32};
  const AttentionInputs inputs{q.ref(), k.ref(), v.ref()};
  const KvPolicy policy{.keys = {.bits = 2}, .values = {.bits = 2}};
  PromptCache prompt(std::vector<int>(200, 1), 1, 2, 32);
  const Matrix<float> keys = test::normals(200, 64, 8), zeros(200, 64);
  prompt.set(0, keys.ref(), zeros.ref());
  const auto without = choose_kv_clips(inputs, shape, policy, {}, pool).value(),
             with = choose_kv_clips(inputs, shape, policy, prompt, pool).value();
  // 200 of at most 224 weights go to values that nothing rounds: errors lose nine tenths of their
  // size.
  CHECK(with.values.unclipped < without.values.unclipped / 10);
  CHECK(with.values.unclipped > 0);
}

}  // namespace
