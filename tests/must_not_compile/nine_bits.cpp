// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// A format of nine bits has no code type. must say: F.valid()
#include <bisup/core/format.hpp>

#ifdef MUST_FAIL
constexpr int bits = 9;
#else
constexpr int bits = 8;
#endif

struct own_format : bisup::FormatOf<bisup::Format{.bits = bits}> {};
