// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// An error that nobody looks at is a mistake. must say: nodiscard
#include <bisup/core/result.hpp>

#ifdef MUST_FAIL
#pragma GCC diagnostic error "-Wunused-result"
void save(bisup::Result<void> (&write)()) { write(); }
#else
bool save(bisup::Result<void> (&write)()) { return write().has_value(); }
#endif
