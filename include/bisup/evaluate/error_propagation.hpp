// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does quantization error travel? BiSup's two directions, measured against a float model on
// the same text: vertically, how far the residual stream is off behind each block; horizontally,
// how far attention's output is off because of the cache alone, and which tokens' keys and values
// did it.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/evaluate/cache_error.hpp>
#include <bisup/evaluate/stream_basis.hpp>
#include <bisup/evaluate/windows.hpp>
#include <bisup/llama/observer.hpp>
#include <bisup/llama/session.hpp>

namespace bisup {

struct LayerPropagation {
  double stream_error = 0;  // |H_q - H|^2 / |H|^2 behind the block
  double cache_error = 0;   // |O^ - O|^2 / |O|^2: attention's output with the cache and without
  // By source token, [prompt + context]: the share of attention it gets from the queries that see
  // it, and cache_error if only it were rounded.
  std::vector<double> mass = {}, source_error = {};
};

struct ErrorPropagation {
  std::vector<LayerPropagation> layers = {};
  int prompt = 0, context = 0, windows = 0;
};

namespace detail {

[[nodiscard]] inline double stream_power(MatrixRef<const float> x) {
  double sum = 0;
  for (int t = 0; t < x.rows(); ++t) sum += dot(x.row(t), x.row(t));
  return sum;
}

// Rows of a stored prompt, then those of the window.
[[nodiscard]] inline Matrix<float> with_prompt(const DenseView& prompt,
                                               MatrixRef<const float> rows) {
  Matrix<float> all(prompt.rows + rows.rows(), rows.cols());
  for (int t = 0; t < prompt.rows; ++t) {
    for (int c = 0; c < rows.cols(); ++c) all(t, c) = prompt(t, c);
  }
  for (int t = 0; t < rows.rows(); ++t)
    std::copy_n(rows.row_data(t), rows.cols(), all.row(prompt.rows + t).data());
  return all;
}

}  // namespace detail

// `reference` is the float model; a stored prompt of the model stands before every window.
// Errors: those of perplexity() and StreamBasis::between; wrong_shape for models of other sizes.
inline Result<ErrorPropagation> error_propagation(const llama::Model& model, const KvPolicy& policy,
                                                  const llama::Model& reference,
                                                  std::span<const int> ids,
                                                  const WindowOptions& options,
                                                  ThreadPool& pool = ThreadPool::shared(),
                                                  const Progress& progress = {}) {
  const llama::Config& c = model.config;
  if (c.layers != reference.config.layers)
    return Error{Errc::wrong_shape, "the models have " + std::to_string(c.layers) + " and " +
                                        std::to_string(reference.config.layers) + " layers"};
  const auto basis = StreamBasis::between(reference.embedding.view, model.embedding.view, pool);
  if (!basis) return basis.error();
  const auto windows =
      cut_windows(ids.size(), std::min(c.max_positions, reference.config.max_positions), options);
  if (!windows) return windows.error();
  if (auto known = llama::check_ids(ids, c); !known) return known.error();
  const int prompt = model.prompt.tokens(), tokens = prompt + windows->context;
  auto ours = llama::Session::make(model, tokens, policy, pool);
  if (!ours) return ours.error();
  auto theirs = llama::Session::make(reference, reference.prompt.tokens() + windows->context,
                                     KvPolicy{}, pool);
  if (!theirs) return theirs.error();

  const auto layers = static_cast<std::size_t>(c.layers);
  std::vector<Matrix<float>> streams(layers);  // of the reference, in the model's basis
  std::vector<double> errors(layers), powers(layers);
  std::vector<CacheError> caches(layers);
  for (int w = 0; w < windows->count; ++w) {
    const auto text = windows->at(ids, w);
    const auto read = behind_prompt(text, model.prompt, options.bos),
               reference_read = behind_prompt(text, reference.prompt, options.bos);
    // What both read: the end of the window.
    const auto common = static_cast<int>(std::min(read.size(), reference_read.size()));
    const auto last = [&](MatrixRef<const float> x) { return x.rows(x.rows() - common, common); };
    ours->truncate(0), theirs->truncate(0);
    std::size_t layer = 0;
    theirs->forward(reference_read, [&](llama::Site site, MatrixRef<const float> x) {
      if (site != llama::Site::block_output) return;
      streams[layer].resize(common, x.cols());
      basis->apply(last(x), streams[layer++].ref(), pool);
    });
    layer = 0;
    Matrix<float> queries, keys, values;
    Result<void> cached;
    ours->forward(read, [&](llama::Site site, MatrixRef<const float> x) {
      const int at = static_cast<int>(layer);
      switch (site) {
        case llama::Site::queries: queries = detail::with_prompt({}, x); break;
        case llama::Site::keys:
          keys = detail::with_prompt(prompt > 0 ? model.prompt.keys(at) : DenseView{}, x);
          break;
        case llama::Site::values:
          values = detail::with_prompt(prompt > 0 ? model.prompt.values(at) : DenseView{}, x);
          break;
        case llama::Site::output_input: {
          KvPolicy own = policy;
          if (!policy.table.empty()) {
            const auto first = policy.table.begin() + std::ptrdiff_t{at} * c.kv_heads;
            own.table.assign(first, first + c.kv_heads);
          }
          auto rows = cached_rows(keys.ref(), values.ref(),
                                  {.kv_heads = c.kv_heads, .head_dim = c.head_dim}, own, pool);
          if (!rows) {
            cached = rows.error();
            return;
          }
          caches[layer].add(cache_error(
              {queries.ref(), keys.ref(), values.ref(), rows->keys.ref(), rows->values.ref(),
               c.head_dim, 1.0f / std::sqrt(static_cast<float>(c.head_dim)), ours->cache().law(at)},
              pool));
          break;
        }
        case llama::Site::block_output:
          errors[layer] +=
              detail::stream_power(detail::difference_of(last(x), streams[layer].ref()).ref());
          powers[layer] += detail::stream_power(streams[layer].ref());
          ++layer;
          break;
        default: break;
      }
    });
    if (!cached) return cached.error();
    if (progress && !progress(w + 1, windows->count)) return Error{Errc::interrupted, "stopped"};
  }

  ErrorPropagation result{.prompt = prompt, .context = windows->context, .windows = windows->count};
  for (std::size_t i = 0; i < layers; ++i) {
    LayerPropagation layer{.stream_error = errors[i] / powers[i],
                           .cache_error = caches[i].all / caches[i].power};
    if (!std::isfinite(layer.stream_error + layer.cache_error))
      return Error{Errc::not_finite,
                   "the streams behind layer " + std::to_string(i) + " are not finite"};
    layer.mass.resize(static_cast<std::size_t>(tokens)),
        layer.source_error.resize(layer.mass.size());
    for (std::size_t j = 0; j < caches[i].mass.size(); ++j) {
      layer.mass[j] = caches[i].mass[j] / std::max(caches[i].queries[j], 1.0);
      layer.source_error[j] = caches[i].error[j] / caches[i].power;
    }
    result.layers.push_back(std::move(layer));
  }
  return result;
}

}  // namespace bisup
