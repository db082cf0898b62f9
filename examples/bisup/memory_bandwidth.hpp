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

// Bytes per second that the pool's threads read together: the best of six passes over 512 MB, more
// than most caches hold. Half of them read four places in turns and ask for lines ahead: a thread of
// a Xeon got 1.4 times as much that way.
[[nodiscard]] inline double read_bandwidth(bisup::ThreadPool& pool) {
  constexpr int blocks = 512;
  constexpr std::size_t block_words = std::size_t{1} << 17;  // 1 MiB
  const std::vector<std::uint64_t> words(blocks * block_words, 1);
  std::vector<std::uint64_t> sums(blocks);
  const auto read = [&]<std::size_t Places>(int first) {
    const std::uint64_t* from = words.data() + static_cast<std::size_t>(first) * block_words;
    std::uint64_t sum[8] = {};
    for (std::size_t i = 0; i < block_words; i += 8) {
      for (std::size_t place = 0; place < Places; ++place) {
        const std::uint64_t* line = from + place * block_words + i;
        if (Places > 1) __builtin_prefetch(line + 128);
        for (std::size_t j = 0; j < 8; ++j) sum[j] += line[j];
      }
    }
    for (const std::uint64_t part : sum) sums[static_cast<std::size_t>(first)] += part;
  };
  double best = 0;
  for (int pass = 0; pass < 6; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.parallel_for(blocks / 4, [&](int task, int) {
      if (pass % 2 == 0) return read.template operator()<4>(4 * task);
      for (int i = 0; i < 4; ++i) read.template operator()<1>(4 * task + i);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(words.size() * sizeof words[0]) / seconds.count());
  }
  // The sums are right only if every word was read.
  std::uint64_t all = 0;
  for (const std::uint64_t sum : sums) all += sum;
  BISUP_EXPECTS(all == 6 * words.size());
  return best;
}

}  // namespace command
