// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is exp(x) computed in vectors? x = n ln 2 + r with |r| <= ln 2 / 2 + rounding, then the
// Taylor polynomial of degree 7 in r, then the exponent n. Error, relative, u = 2^-24: the
// polynomial leaves r^8 / 8! / exp(r) < 0.13 u, r itself errs by |r| u + 2^-40, Horner's last step
// by (1 + 1.3 |r|) u: below 2 u together (exponential_error allows 3).

namespace bisup {

inline constexpr double exponential_error = 3 * 0x1p-24;

// 1 / k!, k = 7 ... 0.
inline constexpr float exponential_terms[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24,
                                              1.0f / 6,    0.5f,       1.0f,       1.0f};
inline constexpr float log2_e = 0x1.715476p0f;
// ln 2 in two parts; n times the first is exact.
inline constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
// Beyond these the result is 0 or infinity, as it must be.
inline constexpr float exponential_lowest = -104.0f, exponential_highest = 89.0f;

}  // namespace bisup
