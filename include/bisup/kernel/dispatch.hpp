// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who provides an operation? Each operation has one constexpr table of entries, strongest target
// first; the first that the active target includes is chosen once per process.

#include <array>
#include <cstddef>

#include <bisup/kernel/target.hpp>

namespace bisup {

template <class Fn>
struct Entry {
  Target target;
  Fn function;
};

// Every table ends with an entry for scalar, so there always is one.
template <class Fn, std::size_t N>
[[nodiscard]] constexpr const Entry<Fn>& choose(const std::array<Entry<Fn>, N>& table,
                                                Target target) {
  for (const auto& entry : table) {
    if (includes(target, entry.target)) return entry;
  }
  return table.back();
}

}  // namespace bisup
