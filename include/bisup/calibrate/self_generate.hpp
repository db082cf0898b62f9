// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// On what is a model calibrated when there is no text? On its own: every sequence begins with a
// token drawn at random, goes on greedily for a few and is then sampled (the data-free recipe of
// LLM-QAT, arXiv 2305.17888, section 2.2).

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/random.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/sampler.hpp>
#include <bisup/llama/sequences.hpp>

namespace bisup {

struct SelfGenerateOptions {
  int sequences = 24, length = 2048;
  int greedy = 4;     // tokens after the first
  int together = 16;  // sequences that are written at once, each with a cache of its own
  std::uint64_t seed = 0;
  std::function<bool(long, long)> progress = {};  // tokens written, in all; false: stop
};

namespace detail {

// What one sequence says next.
class SelfWriter {
 public:
  SelfWriter(const llama::Config& config, int greedy, std::uint64_t seed)
      : config_(&config),
        greedy_(greedy),
        random_(seed, 2),
        drawn_({.temperature = 1, .seed = seed}),
        next_(any()) {}

  [[nodiscard]] const int& next() const noexcept { return next_; }
  // logits: after next(), which becomes the token that follows it.
  void read(std::span<const float> logits) {
    const auto& eos = config_->eos_ids;
    if (std::find(eos.begin(), eos.end(), next_) != eos.end()) {
      next_ = any(), since_ = 0;
      return;
    }
    next_ = since_++ < greedy_ ? best_.sample(logits) : drawn_.sample(logits);
  }

 private:
  int any() {
    return static_cast<int>(random_.below(static_cast<std::uint32_t>(config_->vocab_size)));
  }

  const llama::Config* config_;
  int greedy_;
  Random random_;
  llama::Sampler best_{{}}, drawn_;
  int next_, since_ = 0;  // tokens of this text after its first
};

}  // namespace detail

// All sequences one after the other: sequences * length ids. Where the model ends its text a new
// one begins. Errors: those of Sequences::make, not_finite, interrupted.
[[nodiscard]] inline Result<std::vector<int>> self_generate(
    const llama::Model& model, const SelfGenerateOptions& options,
    ThreadPool& pool = ThreadPool::shared()) {
  BISUP_EXPECTS(options.sequences >= 1 && options.length >= 1 && options.together >= 1);
  const auto length = static_cast<std::size_t>(options.length);
  const int together = std::min(options.together, options.sequences);
  auto sequences =
      llama::Sequences::make(model, model.prompt.tokens() + options.length,
                             KvPolicy::of(model.scheme), {.sequences = together}, pool);
  if (!sequences) return sequences.error();
  std::vector<int> ids(static_cast<std::size_t>(options.sequences) * length);
  std::vector<detail::SelfWriter> writers;
  std::vector<llama::Sequences::Next> nexts;
  for (int first = 0; first < options.sequences; first += together) {
    const int count = std::min(together, options.sequences - first);
    writers.clear(), nexts.clear();
    for (int s = first; s < first + count; ++s)
      writers.emplace_back(model.config, options.greedy,
                           options.seed + static_cast<std::uint64_t>(s));
    for (const auto& writer : writers) {
      const auto id = sequences->begin();
      if (!id) return id.error();
      nexts.push_back({*id, std::span(&writer.next(), 1)});
    }
    for (std::size_t t = 0; t < length; ++t) {
      for (std::size_t i = 0; i < writers.size(); ++i)
        ids[(static_cast<std::size_t>(first) + i) * length + t] = writers[i].next();
      const long written = static_cast<long>(first) * options.length +
                           static_cast<long>(count) * static_cast<long>(t + 1);
      if (options.progress && !options.progress(written, static_cast<long>(ids.size())))
        return Error{Errc::interrupted, "stopped"};
      if (t + 1 == length) break;
      const auto logits = sequences->forward(nexts);
      if (!logits) return logits.error();
      for (std::size_t i = 0; i < writers.size(); ++i) {
        const auto row = logits->row(static_cast<int>(i));
        if (!std::isfinite(row[0])) return Error{Errc::not_finite, "the model's own logits"};
        writers[i].read(row);
      }
    }
    for (const auto& next : nexts) sequences->end(next.sequence);
  }
  return ids;
}

}  // namespace bisup
