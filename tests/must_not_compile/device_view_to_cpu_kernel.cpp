// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// Device memory cannot be read by a CPU kernel. must say: PackedPanels
#include <bisup/pack/packed_view.hpp>

#ifdef MUST_FAIL
constexpr auto space = bisup::Space::device;
#else
constexpr auto space = bisup::Space::host;
#endif

bisup::PackedPanels panels(const bisup::PackedView<bisup::int4_g128, bisup::panel16, space>& view) {
  return view;
}
