// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does attention read of a token that was rounded? Keys or values as they come out of the
// cache again, for those who ask what the cache did to them.

#include <algorithm>
#include <cstddef>

#include <bisup/cache/kv_cache.hpp>
#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/kernel/attention.hpp>
#include <bisup/ops/hadamard.hpp>

namespace bisup {

// The first rows.rows() tokens of one layer, [tokens, kv_heads * head_dim], in the basis in which
// they were appended. Precondition: all of them are packed, which a policy without sinks and recent
// tokens sees to, and the policy rounds this side.
inline void read_packed(const KvCache& cache, int layer, KvSide side, MatrixRef<float> rows) {
  const int head_dim = cache.shape().head_dim;
  BISUP_EXPECTS(rows.cols() == cache.shape().kv_heads * head_dim);
  BISUP_EXPECTS(rows.rows() <= cache.packed_tokens(layer));
  const bool keys = side == KvSide::keys;
  const bool rotated = keys ? cache.policy().rotate_keys : cache.policy().rotate_values;
  const AttendRequest request = cache.request(layer, {}, {});
  const AttentionKernels& kernels = attention_kernels();
  for (std::size_t head = 0; head < request.heads.size(); ++head) {
    const KvPlaneView& plane = keys ? request.heads[head].keys : request.heads[head].values;
    const KvPanel& panel = plane.panel;
    BISUP_EXPECTS(!panel.format.exact());
    const auto bits = static_cast<std::size_t>(panel.format.bits);
    AlignedBuffer<float> floats(static_cast<std::size_t>(panel.floats()));
    for (int first = 0; first < rows.rows(); first += kv_panel) {
      const int p = first / kv_panel;
      if (keys) {
        const auto read = (panel.format.channels ? kernels.channel_keys : kernels.keys)[bits];
        read(plane.codes(p), plane.scales(p), plane.zeros(p), plane.center, panel, floats.data());
      } else {
        kernels.values[bits](plane.codes(p), plane.scales(p), plane.zeros(p), panel, floats.data());
      }
      for (int lane = 0; lane < std::min(kv_panel, rows.rows() - first); ++lane) {
        const auto row = rows.row(first + lane)
                             .subspan(head * static_cast<std::size_t>(head_dim),
                                      static_cast<std::size_t>(head_dim));
        for (int d = 0; d < head_dim; ++d) {
          const int at = keys ? d * kv_panel + lane : lane * panel.dim() + d;
          row[static_cast<std::size_t>(d)] = floats.data()[at];
        }
        if (rotated) hadamard(row);
      }
    }
  }
}

}  // namespace bisup
