// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are rows cut into tiles of at most six, for which a kernel has registers? Into as few as can
// be, of nearly equal height: 7 rows are 4 + 3, not 6 + 1.

#include <bisup/core/platform.hpp>

namespace bisup {

// Calls visit.template operator()<Rows>(row) for the tiles of rows first ... last - 1.
template <class Visit>
BISUP_ALWAYS_INLINE void each_tile(int first, int last, Visit visit) noexcept {
  const int heights = (last - first + 5) / 6;
  for (int i = 0, row = first; i < heights; ++i) {
    const int height = (last - row + heights - i - 1) / (heights - i);
    switch (height) {
      case 1: visit.template operator()<1>(row); break;
      case 2: visit.template operator()<2>(row); break;
      case 3: visit.template operator()<3>(row); break;
      case 4: visit.template operator()<4>(row); break;
      case 5: visit.template operator()<5>(row); break;
      default: visit.template operator()<6>(row); break;
    }
    row += height;
  }
}

}  // namespace bisup
