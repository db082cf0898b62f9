// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

constexpr double unit = 0x1p-24;  // unit roundoff of float, the u of error bounds
