// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/cache/kv_cache.hpp>
#include <bisup/core/random.hpp>
#include <bisup/llama/block.hpp>
#include <bisup/quant/error_report.hpp>
#include <bisup/quant/nearest.hpp>
#include <map>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

constexpr BlockShape shape{
    .hidden = 96, .heads = 4, .kv_heads = 2, .head_dim = 32, .intermediate = 172};

Matrix<float> gaussian(int rows, int cols, double scale, Random& random) {
  Matrix<float> m(rows, cols);
  for (int r = 0; r < rows; ++r) {
    for (float& x : m.row(r)) x = static_cast<float>(scale * random.normal());
  }
  return m;
}

llama::BlockWeights<llama::DenseLinear> dense_block() {
  Random random(17);
  const auto linear = [&](int out, int in) {
    return llama::DenseLinear{llama::dense_tensor(gaussian(out, in, 0.1, random)), {}};
  };
  llama::BlockWeights<llama::DenseLinear> w;
  w.q = linear(128, 96), w.k = linear(64, 96), w.v = linear(64, 96), w.o = linear(96, 128);
  w.gate = linear(172, 96), w.up = linear(172, 96), w.down = linear(96, 172);
  w.norms.attention.assign(96, 1.0f), w.norms.mlp.assign(96, 1.0f);
  return w;
}

template <AnyFormat F>
llama::BlockWeights<llama::PackedLinear<F>> packed_block(
    const llama::BlockWeights<llama::DenseLinear>& dense) {
  const auto pack = [](const llama::DenseLinear& l) {
    return llama::PackedLinear<F>{quantize<F>(llama::as_matrix(l.weights.view).ref()).value(),
                                  l.bias};
  };
  const llama::InputForm input{ActivationFormat{.bits = 8, .group = F::group}, false};
  return {pack(dense.q),    pack(dense.k),    pack(dense.v),
          pack(dense.o),    pack(dense.gate), pack(dense.up),
          pack(dense.down), dense.norms,      {input, input, input, input}};
}

struct Run {
  Matrix<float> x;
  std::map<llama::Site, std::vector<float>> seen;
};

template <class W>
Run run(const llama::BlockWeights<W>& weights, const KvPolicy& policy) {
  Random random(4);
  Run result{gaussian(20, shape.hidden, 1, random), {}};
  llama::Config config;
  config.head_dim = shape.head_dim;
  const llama::RopeTable rope(config, 20);
  auto cache =
      KvCache::allocate({.layers = 1, .kv_heads = 2, .head_dim = 32, .capacity = 20}, policy)
          .value();
  llama::Scratch scratch;
  ThreadPool pool(2);
  llama::forward(shape, weights, rope, 0, {0, 20}, cache, scratch, pool, result.x.ref(),
                 [&](llama::Site site, MatrixRef<const float> tensor) {
                   const auto row = tensor.row(tensor.rows() - 1);
                   result.seen[site].assign(row.begin(), row.end());
                 });
  return result;
}

TEST_CASE("the dense block is the oracle of the packed one: the error falls with the bits") {
  const auto dense = dense_block();
  const auto exact = run(dense, {});
  const auto error = [&](const Run& other) {
    return error_report(exact.x.ref(), other.x.ref()).relative;
  };
  const double eight = error(run(packed_block<int8_g32>(dense), {}));
  const double four = error(run(packed_block<int4_g32>(dense), {}));
  const double two = error(run(packed_block<int2_g64>(dense), {}));
  // A symmetric b-bit step in units of the deviation is about 2.5 / Q for groups of 32: the
  // relative square error of one linear is that squared / 12 (4e-5 at 8 bits, 1e-2 at 4), added to
  // a residual stream of the same size or larger.
  CHECK(eight > 0);
  CHECK(eight < 1e-3);
  CHECK(four > 10 * eight);
  CHECK(four < 0.1);
  CHECK(two > 3 * four);
  const double cache_only = error(run(dense, {.keys = {.bits = 4}, .values = {.bits = 4}}));
  CHECK(cache_only > 0);
  CHECK(cache_only < 0.1);
}

TEST_CASE("an observer sees every site, in the shapes that are stated, and changes nothing") {
  const auto dense = dense_block();
  const auto observed = run(dense, {});
  const std::map<llama::Site, std::size_t> widths = {
      {llama::Site::block_input, 96}, {llama::Site::attention_input, 96},
      {llama::Site::queries, 128},    {llama::Site::keys, 64},
      {llama::Site::values, 64},      {llama::Site::output_input, 128},
      {llama::Site::mlp_input, 96},   {llama::Site::down_input, 172},
      {llama::Site::block_output, 96}};
  CHECK(observed.seen.size() == widths.size());
  for (const auto& [site, width] : widths) CHECK(observed.seen.at(site).size() == width);
  const auto last = observed.x.row(19);
  CHECK(std::equal(last.begin(), last.end(), observed.seen.at(llama::Site::block_output).begin()));
}

TEST_CASE("a bias and per-head norms enter where the model has them") {
  auto dense = dense_block();
  const auto before = run(dense, {});
  dense.v.bias.assign(64, 0.5f);
  const auto with_bias = run(dense, {});
  for (std::size_t i = 0; i < 64; ++i) {
    CHECK(with_bias.seen.at(llama::Site::values)[i] ==
          before.seen.at(llama::Site::values)[i] + 0.5f);
  }
  dense.norms.query.assign(32, 2.0f);
  const auto normed = run(dense, {});
  double squares = 0;
  for (std::size_t i = 0; i < 32; ++i)
    squares += std::pow(static_cast<double>(normed.seen.at(llama::Site::queries)[i]), 2);
  CHECK(squares == Approx(32 * 4).epsilon(1e-3));  // unit mean square times 2 squared; eps is 1e-5
}

}  // namespace
