// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does one append change in a layer of a cache? Which tokens come, which leave the window, and
// in which panels that is: panels are what threads share.

#include <array>
#include <cstddef>

#include <bisup/cache/kv_pool.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/pack/kv_store.hpp>

namespace bisup {

// The exact panels of one layer while its queries need more of them than the window holds, as f32.
struct KvStaging {
  int layer = -1, from = 0, first = 0, panels = 0;  // tokens from `from`, panels from `first`
  AlignedBuffer<float> floats;                      // [keys, values][kv_heads][panels]

  [[nodiscard]] std::size_t at(KvSide side, int head, int kv_heads, const KvPanel& panel) const {
    const int which = (side == KvSide::keys ? 0 : kv_heads) + head;
    return static_cast<std::size_t>(which) * static_cast<std::size_t>(panels) *
           static_cast<std::size_t>(panel.floats());
  }
};

// The next tokens, first ... end - 1, of which those before pack_to leave the window; the exact
// form of what came before is needed back to exact_from.
struct KvAppend {
  struct Panels {
    int first = 0, count = 0;
  };
  int layer = 0, first = 0, end = 0, pack_to = 0, exact_from = 0;
  bool staged = false;
  Panels rounded = {}, kept = {};                   // what leaves and is staged; what stays exact
  std::array<MatrixRef<const float>, 2> rows = {};  // keys, values: [tokens, kv_heads * head_dim]

  [[nodiscard]] const float* row(KvSide side, int head, const KvPanel& panel, int token) const {
    return rows[side == KvSide::keys ? 0 : 1].row_data(token - first) + head * panel.head_dim;
  }
};

}  // namespace bisup
