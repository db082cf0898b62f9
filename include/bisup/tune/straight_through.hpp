// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does rounding do to a row, and to its gradient? Groups are rounded as pack/codes.hpp says,
// in float to the bit; backwards the rounding counts as the identity inside the range and as the
// bound outside (a straight-through estimator), and ranges, clips and extremes get their share.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <utility>

#include <bisup/core/contract.hpp>
#include <bisup/core/format.hpp>
#include <bisup/kernel/attention.hpp>
#include <bisup/pack/codes.hpp>
#include <bisup/tune/arithmetic.hpp>
#include <bisup/tune/rounding_tape.hpp>

namespace bisup::tune {

// How the columns of a row are rounded.
struct RowRounding {
  Format format;              // group 0: one group, the keepers excluded
  int keepers = 0;            // so many last columns have 8 bits, one scale and no clip
  bool through_range = true;  // whether gradients reach a group's extremes through its scale
  friend bool operator==(const RowRounding&, const RowRounding&) = default;

  [[nodiscard]] int groups(int cols) const { return format.groups_per_row(cols - keepers); }
  // Group g of a row of so many columns: its first column, and one past its last.
  [[nodiscard]] std::pair<int, int> group(int g, int cols) const {
    const int body = cols - keepers, size = format.group == 0 ? body : format.group;
    return {g * size, std::min(body, (g + 1) * size)};
  }
  [[nodiscard]] Format keeper_format() const {
    return {.bits = 8, .group = 0, .scale = format.scale};
  }
};

// Shares of each group's extremes that the codes cover: one a group, or one for all. `low` is read
// by affine formats alone.
template <class T>
struct Clips {
  std::span<T> high, low = {};

  [[nodiscard]] static T& of(std::span<T> shares, int group) {
    return shares[shares.size() == 1 ? 0 : static_cast<std::size_t>(group)];
  }
};

namespace detail {

using bisup::detail::over_rows;

template <class T>
struct Extent {
  T low = 0, high = 0;  // zero is always inside
};

template <class T>
Extent<T> extent(const T* x, int count) {
  if constexpr (dispatched<T>) {
    const Extremes e = attention_kernels().extremes(x, count);
    return {e.low, e.high};
  } else {
    Extent<T> e;
    for (int i = 0; i < count; ++i) e = {std::min(e.low, x[i]), std::max(e.high, x[i])};
    return e;
  }
}

// The range of one group as its parameters make it.
template <class T>
struct GroupRange {
  LevelRange<T> levels;
  T low = 0, high = 0;    // what the codes cover, before the scale is rounded
  T zero_error = 0;       // affine: zero point + low / step, in (-1/2, 1/2)
  bool on_floor = false;  // nothing moves it
};

// A scale as stored, in double as well; the rounding itself counts as an addition.
template <class T>
T stored_step(const Format& format, T step) {
  if constexpr (dispatched<T>) {
    return stored_scale(format, step);
  } else {
    T stored = step;
    if (format.scale != Scale::f32) stored = stored_scale(format, static_cast<float>(step));
    if (RoundingTape* tape = RoundingTape::active()) return step + tape->follow(stored - step);
    return stored;
  }
}

// parameters_for of pack/codes.hpp, in any scalar type, with what a gradient needs beside.
template <class T>
GroupRange<T> group_range(const Format& format, const Extent<T>& e, T clip_high, T clip_low) {
  GroupRange<T> r;
  constexpr T floor = smallest_range;
  if (format.affine()) {
    r.high = std::max(e.high * clip_high, T(0)), r.low = std::min(e.low * clip_low, T(0));
  } else {
    r.high = std::max(e.high, -e.low) * clip_high;
  }
  const T width = r.high - r.low, levels = static_cast<T>(format.highest());
  const T step = stored_step(format, std::max(width, floor) / levels);
  r.on_floor = !(width > floor) || !(step > static_cast<T>(smallest_normal(format.scale)));
  const T zero = format.affine() ? std::min(std::nearbyint(-r.low / step), levels) : 0;
  r.zero_error = zero + r.low / step;
  const auto lowest = static_cast<T>(format.affine() ? 0 : format.smallest_used());
  r.levels = {step, 1 / step, lowest - zero, levels - zero};
  if constexpr (!dispatched<T>) {
    if (RoundingTape* tape = RoundingTape::active()) r.zero_error = tape->follow(r.zero_error);
  }
  return r;
}

// Rounds a group, or, in double, does what the tape did when it was recorded.
template <class T>
void round_group(const Format& format, const GroupRange<T>& r, const T* x, int count, T* y) {
  if constexpr (!dispatched<T>) {
    if (RoundingTape* tape = RoundingTape::active()) {
      const bool moves = format.affine() && !r.on_floor;
      const T low = moves ? r.low - r.levels.scale * r.zero_error : r.levels.scale * r.levels.low;
      const T high = low + r.levels.scale * (r.levels.high - r.levels.low);
      for (int i = 0; i < count; ++i) {
        const T u = x[i] * r.levels.inverse, level = std::nearbyint(u);
        const bool below = level<r.levels.low, above = level> r.levels.high;
        const T side = tape->follow(below ? -1 : above ? 1 : 0);
        const T residual = tape->follow(below || above ? 0 : level - u);
        y[i] = side < 0 ? low : side > 0 ? high : x[i] + r.levels.scale * residual;
      }
      return;
    }
  }
  gradient_kernels<T>().round_to_levels(x, count, r.levels, y);
}

// The first place of a number that is there.
template <class T, class Is>
std::ptrdiff_t place(const T* x, int count, Is&& is) {
  return std::find_if(x, x + count, is) - x;
}

// dx (it may be g) of one group; adds to the gradients of its clips.
template <class T>
void round_group_gradient(const Format& format, bool through_range, const T* x, int count,
                          T clip_high, T clip_low, const T* g, T* dx, T& dclip_high, T& dclip_low) {
  const Extent<T> e = extent(x, count);
  const GroupRange<T> r = group_range(format, e, clip_high, clip_low);
  const RangeGradient<T> s = gradient_kernels<T>().round_gradient(x, g, count, r.levels, dx);
  if (r.on_floor) return;
  const T levels = static_cast<T>(format.highest());
  if (!format.affine()) {
    const T m = std::max(e.high, -e.low);
    const T dstep = s.inside + r.levels.low * s.below + r.levels.high * s.above;
    dclip_high += dstep * m / levels;
    if (!through_range) return;
    const auto at = place(x, count, [m](T v) { return std::abs(v) == m; });
    dx[at] += (x[at] < 0 ? -1 : 1) * dstep * clip_high / levels;
    return;
  }
  // The zero point too counts as an addition: z = zero_error - low / step.
  const T dstep = s.inside - r.zero_error * (s.below + s.above);
  const T dhigh = s.above + dstep / levels, dlow = s.below - dstep / levels;
  if (r.high > 0) {
    dclip_high += dhigh * e.high;
    if (through_range) {
      dx[place(x, count, [&](T v) { return v == e.high; })] += dhigh * clip_high;
    }
  }
  if (r.low < 0) {
    dclip_low += dlow * e.low;
    if (through_range) dx[place(x, count, [&](T v) { return v == e.low; })] += dlow * clip_low;
  }
}

// Calls body(format, first column, columns, group); of the keepers the group is -1.
template <class Body>
void over_groups(const RowRounding& rounding, int cols, Body&& body) {
  const int end = cols - rounding.keepers;
  BISUP_EXPECTS(rounding.keepers >= 0 && end >= 0);
  const int width = rounding.format.group == 0 ? end : rounding.format.group;
  for (int begin = 0, group = 0; begin < end; begin += width, ++group) {
    body(rounding.format, begin, std::min(width, end - begin), group);
  }
  if (rounding.keepers > 0) body(rounding.keeper_format(), end, rounding.keepers, -1);
}

}  // namespace detail

// y = the row as its codes say it; y may be x.
template <class T>
void round_row(const RowRounding& rounding, const Clips<const T>& clips, std::span<const T> x,
               std::span<T> y) {
  BISUP_EXPECTS(x.size() == y.size());
  detail::over_groups(rounding, static_cast<int>(x.size()),
                      [&](const Format& format, int begin, int count, int group) {
                        const T high = group < 0 ? T(1) : Clips<const T>::of(clips.high, group);
                        const T low = format.affine() ? Clips<const T>::of(clips.low, group) : high;
                        const auto e = detail::extent(x.data() + begin, count);
                        const auto range = detail::group_range(format, e, high, low);
                        detail::round_group(format, range, x.data() + begin, count,
                                            y.data() + begin);
                      });
}

// dx from the gradient g of the rounded row (dx may be g, not x); adds to the gradients of the
// clips.
template <class T>
void round_row_gradient(const RowRounding& rounding, const Clips<const T>& clips,
                        std::span<const T> x, std::span<const T> g, std::span<T> dx,
                        const Clips<T>& dclips) {
  BISUP_EXPECTS(x.size() == g.size() && x.size() == dx.size());
  detail::over_groups(rounding, static_cast<int>(x.size()),
                      [&](const Format& format, int begin, int count, int group) {
                        T unused = 0;
                        T& dhigh = group < 0 ? unused : Clips<T>::of(dclips.high, group);
                        T& dlow = format.affine() ? Clips<T>::of(dclips.low, group) : unused;
                        const T high = group < 0 ? T(1) : Clips<const T>::of(clips.high, group);
                        const T low = format.affine() ? Clips<const T>::of(clips.low, group) : high;
                        detail::round_group_gradient(
                            format, rounding.through_range, x.data() + begin, count, high, low,
                            g.data() + begin, dx.data() + begin, dhigh, dlow);
                      });
}

}  // namespace bisup::tune
