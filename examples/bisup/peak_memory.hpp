// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How much memory did this process have at most?

#include <sys/resource.h>

#include <cstddef>

namespace command {

// In bytes, since it began.
[[nodiscard]] inline std::size_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return static_cast<std::size_t>(usage.ru_maxrss);
#else
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
#endif
}

}  // namespace command
