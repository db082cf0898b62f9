// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// On what is a model calibrated when there is no text? On its own: every sequence begins with a
// token drawn at random, goes on greedily for a few and is then sampled (the data-free recipe of
// LLM-QAT, arXiv 2305.17888, section 2.2).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <bisup/core/random.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/sampler.hpp>
#include <bisup/llama/session.hpp>

namespace bisup {

struct SelfGenerateOptions {
  int sequences = 24, length = 2048;
  int greedy = 4;  // tokens after the first
  std::uint64_t seed = 0;
  std::function<bool(int, int)> progress = {};  // sequences done, in all; false: stop
};

// All sequences one after the other: sequences * length ids. Where the model ends its text a new
// one begins. Errors: those of Session::make, not_finite, interrupted.
[[nodiscard]] inline Result<std::vector<int>> self_generate(
    const llama::Model& model, const SelfGenerateOptions& options,
    ThreadPool& pool = ThreadPool::shared()) {
  const auto& eos = model.config.eos_ids;
  const auto ends = [&](int id) { return std::find(eos.begin(), eos.end(), id) != eos.end(); };
  std::vector<int> ids;
  for (int s = 0; s < options.sequences; ++s) {
    auto session = llama::Session::make(model, options.length, KvPolicy::of(model.scheme), pool);
    if (!session) return session.error();
    const auto seed = options.seed + static_cast<std::uint64_t>(s);
    Random random(seed, 2);
    llama::Sampler greedy({}), sampler({.temperature = 1, .seed = seed});
    const auto any = [&] {
      return static_cast<int>(random.below(static_cast<std::uint32_t>(model.config.vocab_size)));
    };
    int since = 0, id = any();
    for (int t = 0; t < options.length; ++t, ++since) {
      ids.push_back(id);
      if (t + 1 == options.length) break;
      const auto logits = session->next_logits(std::span(&id, 1));
      if (!std::isfinite(logits[0])) return Error{Errc::not_finite, "the model's own logits"};
      if (ends(id)) {
        id = any(), since = 0;
        continue;
      }
      id = since < options.greedy ? greedy.sample(logits) : sampler.sample(logits);
    }
    if (options.progress && !options.progress(s + 1, options.sequences))
      return Error{Errc::interrupted, "stopped"};
  }
  return ids;
}

}  // namespace bisup
