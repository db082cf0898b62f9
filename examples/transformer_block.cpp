// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// A transformer block in float and in 4 bits: the same forward(), so one is the other's oracle.
#include <bisup/calibrate/random_model.hpp>
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/llama/session.hpp>
#include <bisup/quant/error_report.hpp>
#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  namespace llama = bisup::llama;
  llama::Config config;
  config.hidden_size = 256, config.intermediate_size = 704, config.layers = 1;
  config.heads = 4, config.kv_heads = 2, config.head_dim = 64;
  config.vocab_size = 512, config.max_positions = 64;
  const auto exact = bisup::random_model(config, bisup::Scheme{});
  const auto scheme = bisup::Scheme::parse("W4A8KV4-g64");
  if (!exact || !scheme) return 1;
  const auto rounded = bisup::round_to_nearest(*exact, *scheme);
  if (!rounded) return 1;

  std::vector<int> ids;
  for (int i = 0; i < 32; ++i) ids.push_back(i * 7 % config.vocab_size);
  auto ours = llama::Session::make(*rounded, 32, bisup::KvPolicy::of(*scheme));
  auto oracle = llama::Session::make(*exact, 32, {});
  if (!ours || !oracle) return 1;
  const auto report = bisup::error_report(oracle->forward(ids), ours->forward(ids));
  const double relative = std::sqrt(report.relative);
  std::printf("%s: relative error of the hidden states %.4f\n", scheme->name().c_str(), relative);
  return relative > 0.05 && relative < 0.4 ? 0 : 1;
}
