// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Attention whose products are of floats, on each target.

#define BISUP_LOOPS <bisup/kernel/lanes/attention.hpp>
#include <bisup/kernel/each_target.hpp>
