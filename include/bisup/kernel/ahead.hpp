// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is read next? Memory that no processor expects is asked for while what is here is computed.
// Everything is inlined: of a function that only asks, g++ finds that the call has no effect.

#include <cstddef>

#include <bisup/core/platform.hpp>

namespace bisup {

// Memory that is read after this, into the second-level cache.
struct Ahead {
  const char* from = nullptr;
  std::ptrdiff_t bytes = 0;

  // Asks for the next line, if one is left.
  BISUP_ALWAYS_INLINE void fetch() noexcept {
    if (bytes <= 0) return;
    __builtin_prefetch(from, 0, 2);
    from += 64, bytes -= 64;
  }
  // Asks for all lines that are left.
  BISUP_ALWAYS_INLINE void fetch_rest() noexcept {
    while (bytes > 0) fetch();
  }
};

BISUP_ALWAYS_INLINE void ask_for(const void* first, std::ptrdiff_t bytes) noexcept {
  Ahead{static_cast<const char*>(first), bytes}.fetch_rest();
}

}  // namespace bisup
