// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "propagation.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <iterator>

namespace command {

namespace {

double sum_over(const std::vector<double>& values, SourceRange range) {
  double sum = 0;
  for (int i = range.first; i <= range.last; ++i) sum += values[static_cast<std::size_t>(i)];
  return sum;
}

}  // namespace

std::vector<SourceRange> source_ranges(const bisup::ErrorPropagation& propagation) {
  std::vector<SourceRange> ranges;
  const int tokens = propagation.prompt + propagation.context;
  if (propagation.prompt > 0) ranges.push_back({0, propagation.prompt - 1});
  for (int from = 0, to = 1; from < propagation.context; from = to, to *= 4)
    ranges.push_back({propagation.prompt + from, std::min(propagation.prompt + to, tokens) - 1});
  return ranges;
}

nlohmann::json describe(const bisup::ErrorPropagation& propagation) {
  auto layers = nlohmann::json::array();
  const auto ranges = source_ranges(propagation);
  for (const auto& layer : propagation.layers) {
    auto sources = nlohmann::json::array();
    for (const SourceRange& range : ranges) {
      sources.push_back({{"first", range.first},
                         {"last", range.last},
                         {"mass", sum_over(layer.mass, range) / (range.last - range.first + 1)},
                         {"error", sum_over(layer.source_error, range)}});
    }
    layers.push_back({{"layer", layers.size()},
                      {"stream_error", layer.stream_error},
                      {"cache_error", layer.cache_error},
                      {"sources", sources}});
  }
  return layers;
}

std::string explain(const bisup::ErrorPropagation& propagation) {
  const auto ranges = source_ranges(propagation);
  std::string text = fmt::format(
      "\nerror of the residual stream behind each block, and of attention's output "
      "because of the cache; then how\nmuch of that each source token range "
      "causes, in %\n\n{:>5} {:>10} {:>10}",
      "layer", "stream", "cache");
  for (const SourceRange& range : ranges) {
    text += fmt::format(" {:>11}", range.first == range.last
                                       ? std::to_string(range.first)
                                       : fmt::format("{}-{}", range.first, range.last));
  }
  text += '\n';
  for (std::size_t i = 0; i < propagation.layers.size(); ++i) {
    const auto& layer = propagation.layers[i];
    text += fmt::format("{:>5} {:>10.4g} {:>10.4g}", i, layer.stream_error, layer.cache_error);
    double all = 0;
    for (const double error : layer.source_error) all += error;
    for (const SourceRange& range : ranges) {
      text += all > 0 ? fmt::format(" {:>11.1f}", 100 * sum_over(layer.source_error, range) / all)
                      : fmt::format(" {:>11}", "-");
    }
    text += '\n';
  }
  return text;
}

}  // namespace command
