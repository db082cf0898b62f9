// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

namespace bisup::test {

// Token ids of the small models' vocabulary, 128, without a pattern that repeats soon.
inline std::vector<int> some_ids(int count) {
  std::vector<int> ids;
  for (int i = 0; i < count; ++i) ids.push_back((i * i + 5 * i) % 128);
  return ids;
}

}  // namespace bisup::test
