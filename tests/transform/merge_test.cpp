// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/transform/hadamard.hpp>
#include <bisup/transform/merge.hpp>
#include <bisup/transform/random_signs.hpp>

#include <bisup_test.hpp>
#include <transform/reference_block.hpp>

namespace {

using namespace bisup;

ThreadPool& pool() {
  static ThreadPool two(2);
  return two;
}

template <class R>
ReferenceModel::Online online(R rotation) {
  return [rotation](std::span<double> x) { rotation.apply(x); };
}

void fold(ReferenceModel& m) {
  fold_norms(m.block);
  fold_final_norm<double>(m.head.ref(), m.final_norm);
}

template <class R>
void rotate_stream(ReferenceModel& m, const R& rotation) {
  rotate_residual(m.block, rotation, pool());
  absorb_input_rotation(m.embedding.ref(), rotation, pool());
  absorb_input_rotation(m.head.ref(), rotation, pool());
}

TEST_CASE("each merge leaves what the model computes, biases and head norms or not") {
  for (const bool biases : {false, true}) {
    for (const bool head_norms : {false, true}) {
      CAPTURE(biases, head_norms);
      const auto before = random_reference(biases, head_norms);
      auto m = random_reference(biases, head_norms);
      REQUIRE(difference(before, m) == 0);
      const auto& s = m.shape;
      fold(m);
      CHECK(difference(before, m) < same);

      rotate_stream(m, RandomizedHadamard::make({1, s.hidden, 1}, 1).value());
      CHECK(difference(before, m) < same);

      rotate_values(m.block, s, Hadamard::make({1, s.head_dim, 1}).value(), pool());
      CHECK(difference(before, m) < same);

      const auto across = Hadamard::make(across_heads(s.heads, s.head_dim)).value();
      CHECK(across.axis().order == 12);
      absorb_input_rotation(m.block.o.weights.ref(), across, pool());
      CHECK(difference(before, m) > another);
      m.before_output = online(across);
      CHECK(difference(before, m) < same);

      const auto wide = Hadamard::make(widest_hadamard(s.intermediate)).value();
      CHECK(wide.axis().order == 40);
      absorb_input_rotation(m.block.down.weights.ref(), wide, pool());
      CHECK(difference(before, m) > another);
      m.before_down = online(wide);
      CHECK(difference(before, m) < same);

      m.after_rope = online(Hadamard::make({1, s.head_dim, 1}).value());
      CHECK(difference(before, m) < same);
    }
  }
}

TEST_CASE("removing the mean of embeddings is another function") {
  const auto before = random_reference(true, false);
  auto m = random_reference(true, false);
  for (int r = 0; r < m.embedding.rows(); ++r) {
    double mean = 0;
    for (const double v : m.embedding.row(r)) mean += v / m.shape.hidden;
    for (double& v : m.embedding.row(r)) v -= mean;
  }
  CHECK(difference(before, m) > another);
}

TEST_CASE("a stream whose norms have weights cannot be rotated") {
  auto m = random_reference(false, false);
  CHECK_THROWS_AS(rotate_residual(m.block, RandomSigns{m.shape.hidden, 1}, pool()),
                  ContractViolation);
  fold_norms(m.block);
  CHECK_THROWS_AS(rotate_residual(m.block, RandomSigns{m.shape.hidden + 1, 1}, pool()),
                  ContractViolation);
  CHECK_THROWS_AS(rotate_values(m.block, m.shape, RandomSigns{m.shape.hidden, 1}, pool()),
                  ContractViolation);
}

TEST_CASE("in float the rotated weights are the double ones, rounded") {
  auto m = random_reference(true, false);
  FloatLinear<float> o{Matrix<float>(m.shape.hidden, m.shape.heads * m.shape.head_dim), {}};
  for (int r = 0; r < o.weights.rows(); ++r) {
    for (int c = 0; c < o.weights.cols(); ++c)
      o.weights(r, c) = static_cast<float>(m.block.o.weights(r, c));
    o.bias.push_back(static_cast<float>(m.block.o.bias[static_cast<std::size_t>(r)]));
  }
  const auto rotation = RandomizedHadamard::make({1, m.shape.hidden, 1}, 1).value();
  absorb_output_rotation(m.block.o, rotation, pool());
  absorb_output_rotation(o, rotation, pool());
  for (int c = 0; c < o.weights.cols(); ++c) {
    double squares = 0;
    for (int r = 0; r < o.weights.rows(); ++r)
      squares += m.block.o.weights(r, c) * m.block.o.weights(r, c);
    for (int r = 0; r < o.weights.rows(); ++r) {
      // 24 = 12 * 2: the rounded start, one butterfly, 2 + 3 additions and 4 roundings of the
      // scale, each at most 2^-24 of the sum of magnitudes / sqrt(24), which is at most the length.
      REQUIRE(std::fabs(o.weights(r, c) - m.block.o.weights(r, c)) <=
              11 * 1.001 * 0x1p-24 * std::sqrt(squares));
    }
  }
}

}  // namespace
