// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How fast can this machine read memory? Decoding reads every weight once a token, so this bounds
// it.

#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace command {

// Bytes per second that the pool's threads read together: the best of five passes over 512 MB, more
// than any cache holds.
[[nodiscard]] inline double read_bandwidth(bisup::ThreadPool& pool) {
  constexpr int blocks = 512;
  constexpr std::size_t block_words = std::size_t{1} << 17;  // 1 MiB
  const std::vector<std::uint64_t> words(blocks * block_words, 1);
  std::vector<std::uint64_t> sums(blocks);
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.parallel_for(blocks, [&](int block, int) {
      const std::uint64_t* from = words.data() + static_cast<std::size_t>(block) * block_words;
      std::uint64_t sum[8] = {};
      for (std::size_t i = 0; i < block_words; i += 8) {
        for (std::size_t j = 0; j < 8; ++j) sum[j] += from[i + j];
      }
      for (const std::uint64_t part : sum) sums[static_cast<std::size_t>(block)] += part;
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(words.size() * sizeof words[0]) / seconds.count());
  }
  // The sums are right only if every word was read.
  for (const std::uint64_t sum : sums) BISUP_EXPECTS(sum == 5 * block_words);
  return best;
}

}  // namespace command
