// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// By which angles do the tokens of a crop turn? The numbers of llama/rope_table.hpp, in the tuner's
// scalar type, from the position on that follows a stored prompt.

#include <cmath>
#include <cstddef>

#include <bisup/core/matrix.hpp>
#include <bisup/llama/config.hpp>
#include <bisup/llama/rope_table.hpp>

namespace bisup::tune {

// Cosines and sines of the tokens' positions: [tokens, head_dim / 2].
template <class T>
struct RopeAngles {
  MatrixRef<const T> cosines, sines;

  [[nodiscard]] RopeAngles rows(int first, int tokens) const {
    return {cosines.rows(first, tokens), sines.rows(first, tokens)};
  }
  [[nodiscard]] RopeAngles first(int tokens) const { return rows(0, tokens); }
};

template <class T>
class RopeAngleTable {
 public:
  RopeAngleTable(const llama::Config& config, int first_position, int tokens)
      : cosines_(tokens, config.head_dim / 2), sines_(tokens, config.head_dim / 2) {
    const auto frequencies = llama::rope_frequencies(config);
    const double magnitude = llama::rope_magnitude(config);
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < config.head_dim / 2; ++i) {
        const double angle = (first_position + t) * frequencies[static_cast<std::size_t>(i)];
        cosines_(t, i) = static_cast<T>(magnitude * std::cos(angle));
        sines_(t, i) = static_cast<T>(magnitude * std::sin(angle));
      }
    }
  }
  [[nodiscard]] RopeAngles<T> view() const { return {cosines_.ref(), sines_.ref()}; }

 private:
  Matrix<T> cosines_, sines_;
};

}  // namespace bisup::tune
