// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How far should a group be clipped? ClipSearch tries p = 1, .99, ... .21 and keeps the one whose
// rounding costs least: weighted with what the columns' inputs are worth, or as QuaRot measures it.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include <bisup/core/contract.hpp>
#include <bisup/kernel/rounding_error.hpp>
#include <bisup/quant/quantizer.hpp>

namespace bisup {

// squares: sum of h_j (v_j - v^_j)^2. power: sum of |v_j - v^_j|^2.4 with equal weights, QuaRot's.
enum class ClipLoss : std::uint8_t { squares, power };

struct ClipSearch {
  ClipLoss loss = ClipLoss::squares;
  Grid grid = Grid::plain;
  int candidates = 80;  // p = 1, .99, ...; at most 99
  friend constexpr bool operator==(const ClipSearch&, const ClipSearch&) = default;

  [[nodiscard]] GroupParameters quantize(const Format& format, std::span<const float> x,
                                         std::span<std::uint8_t> codes) const noexcept {
    return quantize(format, x, {}, codes);
  }
  // error_weights: as many as x, or none for equal ones.
  [[nodiscard]] GroupParameters quantize(const Format& format, std::span<const float> x,
                                         std::span<const float> error_weights,
                                         std::span<std::uint8_t> codes) const noexcept {
    const GroupParameters p =
        search(format, x, loss == ClipLoss::power ? std::span<const float>() : error_weights);
    encode_group(format, x, p, codes);
    return p;
  }

  // Of candidates that cost the same the least clipped wins.
  [[nodiscard]] GroupParameters search(const Format& format, std::span<const float> x,
                                       std::span<const float> error_weights) const noexcept {
    float low = 0, high = 0;
    std::size_t low_at = 0, high_at = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (x[i] < low) low = x[i], low_at = i;
      if (x[i] > high) high = x[i], high_at = i;
    }
    const float* weights = error_weights.empty() ? nullptr : error_weights.data();
    const auto weight = [&](std::size_t i) { return weights == nullptr ? 1.0f : weights[i]; };
    const auto& kernels = rounding_error_kernels();
    const RoundingErrorFn error = loss == ClipLoss::squares ? kernels.squares : kernels.power;
    GroupParameters best, previous{0, 0};
    float least = std::numeric_limits<float>::infinity();
    for (int i = 0; i < std::max(1, candidates) && least > 0; ++i) {
      const float c = static_cast<float>(100 - i) / 100;
      const GroupParameters p =
          parameters_for(format, low, high, on_grid(grid, format, {.high = c, .low = c}));
      if (i == 0) best = p;
      if (p == previous) continue;
      previous = p;
      const int first = format.affine() ? 0 : format.smallest_used() - format.lowest();
      const CodeLevels levels{p.scale, static_cast<float>(first - p.zero),
                              static_cast<float>((1 << format.bits) - 1 - p.zero)};
      // Clipping the largest value costs more with every further p: once that alone is too much
      // nothing better can follow. (The zero point of an affine range jumps, so not there.)
      if (!format.affine() && (clipped(high, levels.high, p.scale, weight(high_at), least) ||
                               clipped(-low, -levels.low, p.scale, weight(low_at), least))) {
        break;
      }
      const float cost = error(x.data(), weights, static_cast<int>(x.size()), levels, least);
      if (cost < least) least = cost, best = p;
    }
    return best;
  }

 private:
  // Whether a value of this magnitude beyond the last level costs more than `least` by itself, by
  // more than the roundings of the sum it is part of.
  [[nodiscard]] bool clipped(double magnitude, double level, double scale, double weight,
                             double least) const noexcept {
    const double distance = magnitude * (1 - 0x1p-20) - level * scale;
    if (distance <= 0) return false;
    const double square = distance * distance;
    const double cost = loss == ClipLoss::squares ? square : std::pow(square, 1.2);
    return weight * cost * (1 - 0x1p-16) > least;
  }
};
static_assert(WeightedQuantizer<ClipSearch>);

}  // namespace bisup
