// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// Remembers 512 tokens in 4 bits but the first 4 and the last 64, and says what that costs.
#include <bisup/bisup.hpp>
#include <cmath>
#include <cstdio>

int main() {
  constexpr int tokens = 512, heads = 9, kv_heads = 3, head_dim = 64;
  bisup::Random random(1);
  bisup::Matrix<float> keys(tokens, kv_heads * head_dim), values(tokens, kv_heads * head_dim);
  bisup::Matrix<float> query(1, heads * head_dim), exact(1, heads * head_dim),
      out(1, heads * head_dim);
  for (auto* m : {&keys, &values, &query}) {
    for (int r = 0; r < m->rows(); ++r) {
      for (float& x : m->row(r)) x = static_cast<float>(random.normal());
    }
  }
  const bisup::CacheShape shape{
      .layers = 1, .kv_heads = kv_heads, .head_dim = head_dim, .capacity = tokens};
  const bisup::KvPolicy policy{.sinks = 4,
                               .recent = 64,
                               .keys = {4},
                               .values = {4},
                               .rotate_keys = true,
                               .rotate_values = true};
  auto floats = bisup::KvCache::allocate(shape, {});
  auto packed = bisup::KvCache::allocate(shape, policy);
  if (!floats || !packed) return 1;
  for (auto* cache : {&*floats, &*packed}) {
    cache->append(0, keys.ref(), values.ref());
    cache->attend(0, query.ref(), cache == &*floats ? exact.ref() : out.ref());
  }
  double error = 0, power = 0;
  for (int i = 0; i < heads * head_dim; ++i) {
    error += std::pow(out(0, i) - exact(0, i), 2), power += std::pow(exact(0, i), 2);
  }
  const double share =
      static_cast<double>(packed->used_bytes()) / static_cast<double>(floats->used_bytes());
  std::printf("%.2f of the bytes, relative error %.3f\n", share, std::sqrt(error / power));
  return share < 0.3 && std::sqrt(error / power) < 0.2 ? 0 : 1;
}
