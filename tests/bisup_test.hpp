// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which Catch2 is it? Debian ships v2 in one header, vcpkg and Conan ship v3; tests include this.

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
