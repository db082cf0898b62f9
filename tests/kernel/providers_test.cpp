// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <iostream>
#include <sstream>

#include <bisup_test.hpp>
#include <kernel/providers.hpp>

TEST_CASE("no shipped combination falls back to scalar where there is AVX2 or NEON") {
  for (const Provider& p : providers()) {
    const auto weakest = BISUP_ARM64 ? bisup::Target::neon : bisup::Target::avx2;
    if (!includes(p.asked, weakest)) continue;
    CAPTURE(p.operation, p.weights, name(p.asked));
    REQUIRE(p.provides != bisup::Target::scalar);
  }
}

TEST_CASE("docs/kernels.md is what the tables say") {
  std::ifstream file(BISUP_SOURCE_DIR "/docs/kernels.md");
  std::stringstream page;
  page << file.rdbuf();
  REQUIRE(page.str().find(providers_table()) != std::string::npos);
}

TEST_CASE("a provider is never stronger than what was asked for") {
  for (const Provider& p : providers()) REQUIRE(includes(p.asked, p.provides));
}

TEST_CASE("prints its part of docs/kernels.md", "[.print]") { std::cout << providers_table(); }
