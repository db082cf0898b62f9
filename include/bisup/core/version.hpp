// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// The version of the library. CMake and the package recipes read it from here; nothing else states
// it.

#define BISUP_VERSION_MAJOR 0
#define BISUP_VERSION_MINOR 1
#define BISUP_VERSION_PATCH 0
#define BISUP_VERSION_STRING "0.1.0"
