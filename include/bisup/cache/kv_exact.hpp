// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// In what form does an exact token lie in its page? As f16, which costs half of f32 and moves
// predictions a hundred times less than four bits do; as bf16; or as it came. Keys lie with tokens
// as lanes, values a token after the other.

#include <algorithm>
#include <span>
#include <type_traits>

#include <bisup/cache/kv_pool.hpp>
#include <bisup/core/dense.hpp>
#include <bisup/core/float16.hpp>
#include <bisup/pack/kv_view.hpp>

namespace bisup {

namespace detail {

template <class T>
[[nodiscard]] T narrowed(float x) {
  // What f16 cannot hold becomes its largest: an infinite key would make every score NaN.
  constexpr float most = largest_finite(Scale::f16);
  if constexpr (std::is_same_v<T, Half>) return to_half(std::clamp(x, -most, most));
  if constexpr (std::is_same_v<T, BFloat16>) return to_bfloat16(x);
  if constexpr (std::is_same_v<T, float>) return x;
}

// Calls visit with a float, Half or BFloat16.
template <class Visit>
decltype(auto) with_exact_type(DType type, Visit visit) {
  switch (type) {
    case DType::f16: return visit(Half{});
    case DType::bf16: return visit(BFloat16{});
    case DType::i8:  // check() has refused it
    case DType::f32: break;
  }
  return visit(0.0f);
}

[[nodiscard]] inline int exact_at(KvSide side, const KvPanel& panel, int lane, int d) {
  return side == KvSide::keys ? d * kv_panel + lane : lane * panel.dim() + d;
}

}  // namespace detail

// Makes of each number what would come back out of a page.
inline void round_exact(DType type, std::span<float> row) {
  if (type == DType::f32) return;
  detail::with_exact_type(type, [&]<class T>(T) {
    for (float& x : row) x = to_float(detail::narrowed<T>(x));
  });
}

// One token, [head_dim], into a lane of a panel and back.
inline void write_exact(KvSide side, const KvPanel& panel, DType type, const float* row, int lane,
                        void* into) {
  detail::with_exact_type(type, [&]<class T>(T) {
    for (int d = 0; d < panel.head_dim; ++d)
      static_cast<T*>(into)[detail::exact_at(side, panel, lane, d)] = detail::narrowed<T>(row[d]);
  });
}
inline void read_exact(KvSide side, const KvPanel& panel, DType type, const void* from, int lane,
                       float* row) {
  detail::with_exact_type(type, [&]<class T>(T) {
    for (int d = 0; d < panel.head_dim; ++d)
      row[d] = to_float(static_cast<const T*>(from)[detail::exact_at(side, panel, lane, d)]);
  });
}

}  // namespace bisup
