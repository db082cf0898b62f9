// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are operations on rows shared among threads? In tasks of whole rows, about 64 KiB each, so
// that one token never wakes a worker.

#include <algorithm>

#include <bisup/core/thread_pool.hpp>

namespace bisup::detail {

// Calls body(row) for every row.
template <class Body>
void over_rows(int rows, int cols, ThreadPool& pool, Body&& body) {
  const int block = std::max(1, (16 << 10) / std::max(1, cols));
  pool.parallel_for((rows + block - 1) / block, [&](int task, int) {
    const int last = std::min(rows, (task + 1) * block);
    for (int row = task * block; row < last; ++row) body(row);
  });
}

}  // namespace bisup::detail
