// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How fast is attention over a cache? The heads of SmolLM2; a whole prompt at once, and one token
// after many. Prefill as a fraction of the multiply-add peak: only products that the causal mask
// keeps count, so a perfect kernel that computes whole tiles on the diagonal stays below one.
#include <benchmark/benchmark.h>

#include <bisup/cache/kv_cache.hpp>
#include <bisup/core/random.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "../probe.hpp"

namespace {

using namespace bisup;

constexpr int heads = 9, kv_heads = 3, head_dim = 64;

Matrix<float> normals(int rows, int cols, std::uint64_t seed) {
  Matrix<float> m(rows, cols);
  Random random(seed);
  for (int i = 0; i < rows * cols; ++i) m.data()[i] = static_cast<float>(random.normal());
  return m;
}

// The last token's result against the scalar step over all tiles, packed panels as floats. Values
// are below 6, and thousands of rounding errors of 2^-24 make 1e-4; queries of 15 bits move scores
// by some 2^-15 of them.
bool agrees(const KvCache& cache, MatrixRef<const float> query, MatrixRef<const float> out) {
  Matrix<float> scratch(1, query.cols());
  const AttendRequest r = cache.request(0, query, scratch.ref());
  const AttentionKernels kernels = choose(attention_kernel_table<>, Target::scalar).function;
  const int last = cache.size() - 1, floats = kv_panel * head_dim;
  std::vector<float> q(query.data(), query.data() + head_dim), sum(head_dim);
  for (float& v : q) v *= r.scale * log2_e;
  if (r.rotate_keys) hadamard(q);
  float maximum = -std::numeric_limits<float>::infinity(), total = 0;
  std::vector<float> room(static_cast<std::size_t>(4 * kv_panels * floats));
  for (int key = 0; key <= last; key += kv_tile) {
    AttentionTile tile{.queries = q.data(), .out = sum.data(), .maximum = &maximum, .sum = &total};
    tile.rows = 1, tile.dim = head_dim, tile.first_query = last, tile.first_key = key, tile.law = r.law;
    for (int p = 0; p < kv_panels && key + p * kv_panel <= last; ++p) {
      const int panel = key / kv_panel + p;
      float* into = room.data() + 4 * p * floats;
      for (const bool keys : {true, false}) {
        const KvPlaneView& plane = keys ? r.heads[0].keys : r.heads[0].values;
        const auto bits = static_cast<std::size_t>(plane.panel.format.bits);
        (keys ? tile.exact_keys : tile.exact_values)[p] = into;
        (keys ? tile.packed_keys : tile.packed_values)[p] = into + floats;
        const int first = panel * kv_panel;
        if (plane.panel.format.exact() || first < r.law.exact_below ||
            first + kv_panel > r.law.first_recent(last)) {
          kernels.widen[static_cast<std::size_t>(plane.exact_panel_type(panel))](plane.exact_panel(panel), floats,
                                                                                  into);
        }
        if (!plane.panel.format.exact() && first < r.law.first_recent(last)) {
          if (keys) {
            kernels.keys[bits](plane.codes(panel), plane.scales(panel), plane.zeros(panel), plane.center, plane.panel,
                               into + floats);
          } else {
            kernels.values[bits](plane.codes(panel), plane.scales(panel), plane.zeros(panel), plane.panel,
                                 into + floats);
          }
        }
        into += 2 * floats;
      }
    }
    scalar::attend(tile);
  }
  if (r.rotate_values) hadamard(sum);
  const float bound = cache.policy().exact() ? 1e-4f : 1e-3f;
  for (int d = 0; d < head_dim; ++d) {
    if (!(std::fabs(sum[static_cast<std::size_t>(d)] / total - out(0, d)) < bound)) return false;
  }
  return true;
}

void attend(benchmark::State& state, int context, bool prefill, const KvPolicy& policy) {
  const CacheShape shape{1, kv_heads, head_dim, context};
  auto cache = KvCache::allocate(shape, policy);
  if (!cache) return state.SkipWithError("no memory");
  const auto keys = normals(context, kv_heads * head_dim, 1);
  const auto values = normals(context, kv_heads * head_dim, 2);
  const auto queries = normals(context, heads * head_dim, 3);
  Matrix<float> out(context, heads * head_dim);
  ThreadPool pool(1);
  const int tokens = prefill ? context : 1;
  cache->append(0, keys.ref(), values.ref());
  const auto run = [&] {
    cache->attend(0, queries.ref().rows(context - tokens, tokens),
                  out.ref().rows(context - tokens, tokens), pool);
  };
  run();
  if (!agrees(*cache, queries.ref().rows(context - 1, 1), out.ref().rows(context - 1, 1))) {
    return state.SkipWithError("differs from scalar");
  }
  const double pairs = prefill ? 0.5 * context * (context + 1) : context;
  const double operations = 4e-9 * head_dim * heads * pairs;
  const int repeats = std::max(1, static_cast<int>(0.5 / operations));
  std::vector<double> rates, fractions;
  for (auto _ : state) {
    const double peak = bench::multiply_add_peak();
    const double seconds = bench::seconds_of([&] {
      for (int i = 0; i < repeats; ++i) run();
    });
    rates.push_back(operations * repeats / seconds), fractions.push_back(rates.back() / peak);
    state.SetIterationTime(seconds / repeats);
  }
  state.counters["GFLOPS"] = bench::median(rates);
  state.counters["of_peak"] = bench::median(fractions);
  state.counters["cache_bytes_per_token"] = static_cast<double>(cache->used_bytes()) / context;
}

void add_benchmarks() {
  const KvPolicy policies[] = {
      {},
      {.keys = {4}, .values = {4}},
      {.sinks = 4, .recent = 64, .keys = {8}, .values = {8}, .rotate_keys = true, .rotate_values = true},
      {.sinks = 4, .recent = 64, .keys = {4}, .values = {4}, .rotate_keys = true, .rotate_values = true},
      {.sinks = 4, .recent = 64, .keys = {3}, .values = {3}, .rotate_keys = true, .rotate_values = true},
      {.sinks = 4, .recent = 64, .keys = {2}, .values = {2}, .rotate_keys = true, .rotate_values = true}};
  for (const bool prefill : {true, false}) {
    for (const KvPolicy& policy : policies) {
      for (const int context : {512, 2048}) {
        const std::string label = "attend/K" + std::to_string(policy.keys.bits) + "V" +
                                  std::to_string(policy.values.bits) + "-recent" +
                                  std::to_string(policy.recent) + "/" +
                                  std::string(name(active_target())) +
                                  (prefill ? "/prefill/" : "/decode/") + std::to_string(context);
        benchmark::RegisterBenchmark(label.c_str(), attend, context, prefill, policy)
            ->UseManualTime()
            ->Iterations(7);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  add_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
}
