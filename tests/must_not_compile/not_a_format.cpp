// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// The value of a format is not a format: templates take the named type. must say: AnyFormat
#include <bisup/pack/packed_tensor.hpp>

#ifdef MUST_FAIL
using Format = int;
#else
using Format = bisup::int4_g128;
#endif

bisup::PackedTensor<Format>* tensor = nullptr;
