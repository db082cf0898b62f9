// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/transform/hadamard.hpp>
#include <bisup/transform/random_signs.hpp>
#include <bisup/transform/smoothing.hpp>

#include <bisup_test.hpp>
#include <transform/reference_block.hpp>

namespace {

using namespace bisup;
using Scales = std::span<const double>;

ThreadPool& one_thread() {
  static ThreadPool one(1);
  return one;
}

Scales some(int count) {
  static Random random(13);
  static std::vector<std::vector<double>> kept(100);
  static std::size_t next = 0;
  REQUIRE(next < kept.size());
  return kept[next++] = random_scales(count, random);
}

TEST_CASE("un-rotated smoothing at all five sites is the same function") {
  for (const bool biases : {false, true}) {
    CAPTURE(biases);
    const auto before = random_reference(biases, false);
    auto m = random_reference(biases, false);
    const auto& s = m.shape;
    smooth_attention_input(m.block, some(s.hidden));
    CHECK(difference(before, m) < same);
    smooth_mlp_input(m.block, some(s.hidden));
    CHECK(difference(before, m) < same);
    smooth_values(m.block, s, some(s.kv_heads * s.head_dim));
    CHECK(difference(before, m) < same);
    smooth_values(m.block, s, some(s.head_dim));
    CHECK(difference(before, m) < same);
    smooth_intermediate(m.block, some(s.intermediate));
    CHECK(difference(before, m) < same);
    smooth_keys(m.block, s, some(s.kv_heads * s.head_dim / 2));
    CHECK(difference(before, m) < same);
    smooth_keys(m.block, s, some(s.head_dim / 2));
    CHECK(difference(before, m) < same);
  }
}

TEST_CASE("scales really are where they belong") {
  auto m = random_reference(true, false);
  const auto& s = m.shape;
  const auto before = random_reference(true, false);
  const Scales scales = some(s.kv_heads * s.head_dim);
  smooth_values(m.block, s, scales);
  const std::size_t channel = 2 * 8 + 5;  // of KV head 2
  CHECK(m.block.v.bias[channel] == before.block.v.bias[channel] / scales[channel]);
  CHECK(m.block.o.weights(3, 10 * 8 + 5) ==
        before.block.o.weights(3, 10 * 8 + 5) * scales[channel]);
}

TEST_CASE("keys under head norms are scaled in the norms") {
  const auto before = random_reference(true, true);
  auto m = random_reference(true, true);
  smooth_keys(m.block, m.shape, some(m.shape.head_dim / 2));
  CHECK(m.block.key_norm != before.block.key_norm);
  CHECK(difference(before, m) < same);
  CHECK_THROWS_AS(smooth_keys(m.block, m.shape, some(m.shape.kv_heads * m.shape.head_dim / 2)),
                  ContractViolation);
}

TEST_CASE("a scale that is not tied over the pairs of RoPE is another function") {
  const auto before = random_reference(true, false);
  auto m = random_reference(true, false);
  const auto& s = m.shape;
  const Scales scales = some(s.head_dim);
  divide_outputs<double>(m.block.k, detail::over_heads(scales, s.kv_heads, s.head_dim, s.kv_heads));
  divide_outputs<double>(m.block.q, detail::inverses<double>(detail::over_heads(
                                        scales, s.kv_heads, s.head_dim, s.heads)));
  CHECK(difference(before, m) > another);
}

struct Rotated {
  ReferenceModel model;
  Hadamard across, wide;
};

Rotated rotated(bool head_norms) {
  auto m = random_reference(true, head_norms);
  const auto& s = m.shape;
  const auto stream = RandomizedHadamard::make({1, s.hidden, 1}, 1).value();
  fold_norms(m.block);
  fold_final_norm<double>(m.head.ref(), m.final_norm);
  rotate_residual(m.block, stream, one_thread());
  absorb_input_rotation(m.embedding.ref(), stream, one_thread());
  absorb_input_rotation(m.head.ref(), stream, one_thread());
  const auto within = Hadamard::make({1, s.head_dim, 1}).value();
  const auto across = Hadamard::make(across_heads(s.heads, s.head_dim)).value();
  const auto wide = Hadamard::make(widest_hadamard(s.intermediate)).value();
  rotate_values(m.block, s, within, one_thread());
  absorb_input_rotation(m.block.o.weights.ref(), across, one_thread());
  absorb_input_rotation(m.block.down.weights.ref(), wide, one_thread());
  m.after_rope = [within](std::span<double> x) { within.apply(x); };
  m.before_output = [across](std::span<double> x) { across.apply(x); };
  m.before_down = [wide](std::span<double> x) { wide.apply(x); };
  return {std::move(m), across, wide};
}

TEST_CASE("after rotation the norms take scales again; heads share theirs; keys are tied") {
  for (const bool head_norms : {false, true}) {
    const auto before = random_reference(true, head_norms);
    auto m = rotated(head_norms).model;
    const auto& s = m.shape;
    CHECK(difference(before, m) < same);
    smooth_attention_input(m.block, some(s.hidden));
    smooth_mlp_input(m.block, some(s.hidden));
    CHECK(difference(before, m) < same);
    smooth_values(m.block, s, some(s.head_dim));
    CHECK(difference(before, m) < same);
    smooth_keys(m.block, s, some(head_norms ? s.head_dim / 2 : s.kv_heads * s.head_dim / 2));
    CHECK(difference(before, m) < same);
  }
}

TEST_CASE("behind an online Hadamard, o and down are scaled by dividing at run time") {
  const auto before = random_reference(true, false);
  auto [m, across, wide] = rotated(false);
  const auto& s = m.shape;
  const auto divided = [](Hadamard rotation, Scales by) {
    return [rotation, by](std::span<double> x) {
      rotation.apply(x);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] /= by[i];
    };
  };
  const Scales output = some(s.heads * s.head_dim), down = some(s.intermediate);
  scale_columns(m.block.o.weights.ref(), output);
  scale_columns(m.block.down.weights.ref(), down);
  CHECK(difference(before, m) > another);
  m.before_output = divided(across, output);
  m.before_down = divided(wide, down);
  CHECK(difference(before, m) < same);
}

TEST_CASE("an online Hadamard between makes smoothing into v or up another function") {
  const auto before = random_reference(true, false);
  auto values = rotated(false).model;
  smooth_values(values.block, values.shape, some(values.shape.kv_heads * values.shape.head_dim));
  CHECK(difference(before, values) > another);
  auto intermediate = rotated(false).model;
  smooth_intermediate(intermediate.block, some(intermediate.shape.intermediate));
  CHECK(difference(before, intermediate) > another);
}

TEST_CASE("scales of another number than channels are refused") {
  auto m = random_reference(true, false);
  const auto& s = m.shape;
  CHECK_THROWS_AS(smooth_attention_input(m.block, some(s.hidden + 1)), ContractViolation);
  CHECK_THROWS_AS(smooth_values(m.block, s, some(2 * s.head_dim)), ContractViolation);
  CHECK_THROWS_AS(smooth_intermediate(m.block, some(s.hidden)), ContractViolation);
  CHECK_THROWS_AS(smooth_keys(m.block, s, some(s.head_dim)), ContractViolation);
  CHECK_THROWS_AS(smooth_keys(m.block, s, some(s.head_dim + 1)), ContractViolation);
}

}  // namespace
