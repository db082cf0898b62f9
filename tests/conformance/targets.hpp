// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which entries of a table can this machine run? Each conformance test runs all of them against the
// scalar kernel and names those it had to skip.

#include <array>
#include <cstddef>
#include <iostream>

#include <bisup/kernel/dispatch.hpp>

constexpr double u = 0x1p-24;       // unit roundoff of float
constexpr float untouched = 12345;  // what lies where a kernel must not write
constexpr int widths[] = {2, 3, 4, 5, 6, 8};

template <class Fn, std::size_t N, class Check>
void on_every_target(const std::array<bisup::Entry<Fn>, N>& table, Check&& check) {
  for (const auto& entry : table) {
    if (bisup::runs_here(entry.target)) {
      check(entry.target, entry.function);
    } else {
      std::cout << "skipped: " << bisup::name(entry.target) << " does not run on this processor\n";
    }
  }
}
