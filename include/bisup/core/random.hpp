// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where do random numbers come from? One counter-based generator with an explicit seed: the n-th
// number of a stream is a pure function of (seed, stream, n), whatever the thread.

#include <bit>
#include <cmath>
#include <cstdint>

namespace bisup {

// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
class Random {
 public:
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0) noexcept
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
        stream_(stream) {}

  // The next 32 random bits.
  std::uint32_t bits() noexcept {
    if (used_ == 4) refill();
    return block_[used_++];
  }
  std::uint64_t bits64() noexcept {
    const std::uint64_t high = bits();
    return high << 32 | bits();
  }
  // Uniform in [0, 1), 53 bits.
  double uniform() noexcept { return static_cast<double>(bits64() >> 11) * 0x1p-53; }
  // Uniform in 0 ... bound - 1 without bias (Lemire 2019). Requires bound > 0.
  std::uint32_t below(std::uint32_t bound) noexcept {
    std::uint64_t product = std::uint64_t{bits()} * bound;
    const std::uint32_t threshold = (0u - bound) % bound;
    while (static_cast<std::uint32_t>(product) < threshold) product = std::uint64_t{bits()} * bound;
    return static_cast<std::uint32_t>(product >> 32);
  }
  // Standard normal (Box and Muller).
  double normal() noexcept {
    if (has_spare_) return has_spare_ = false, spare_;
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    const double angle = 6.283185307179586477 * uniform();
    spare_ = radius * std::sin(angle), has_spare_ = true;
    return radius * std::cos(angle);
  }

 private:
  void refill() noexcept {
    std::uint32_t c[4] = {
        static_cast<std::uint32_t>(counter_), static_cast<std::uint32_t>(counter_ >> 32),
        static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)};
    std::uint32_t k0 = key_[0], k1 = key_[1];
    for (int round = 0; round < 10; ++round, k0 += 0x9e3779b9u, k1 += 0xbb67ae85u) {
      const std::uint64_t p0 = 0xd2511f53ull * c[0], p1 = 0xcd9e8d57ull * c[2];
      const std::uint32_t next[4] = {
          static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
          static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
      for (int i = 0; i < 4; ++i) c[i] = next[i];
    }
    for (int i = 0; i < 4; ++i) block_[i] = c[i];
    ++counter_, used_ = 0;
  }

  std::uint32_t key_[2];
  std::uint64_t stream_ = 0, counter_ = 0;
  std::uint32_t block_[4] = {};
  int used_ = 4;
  double spare_ = 0;
  bool has_spare_ = false;
};

}  // namespace bisup
