// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <iostream>
#include <sstream>

#include <bisup_test.hpp>
#include <kernel/providers.hpp>

#if BISUP_X86
TEST_CASE("no shipped combination falls back to scalar where there is AVX2") {
  for (const Provider& p : providers()) {
    if (!includes(p.asked, bisup::Target::avx2)) continue;
    CAPTURE(p.operation, p.weights, name(p.asked));
    REQUIRE(p.provides != bisup::Target::scalar);
  }
}

TEST_CASE("docs/kernels.md is what the tables say") {
  std::ifstream file(BISUP_SOURCE_DIR "/docs/kernels.md");
  std::stringstream page;
  page << file.rdbuf();
  REQUIRE(page.str() == providers_page());
}
#endif

TEST_CASE("a provider is never stronger than what was asked for") {
  for (const Provider& p : providers()) REQUIRE(includes(p.asked, p.provides));
}

TEST_CASE("prints docs/kernels.md", "[.print]") { std::cout << providers_page(); }
