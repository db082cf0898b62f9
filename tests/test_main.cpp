// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// The main function of every test executable. A forced target (BISUP_TARGET) that this machine lacks
// ends the run with 77, which ctest reports as skipped; one that runs must be the one in force.

#include <cstdio>
#include <cstdlib>

#include <bisup/kernel/target.hpp>

#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_RUNNER
#endif
#include <bisup_test.hpp>

int main(int argc, char** argv) {
  const char* forced = std::getenv("BISUP_TARGET");
  if (forced != nullptr && !bisup::find_target()) {
    const bool known = bisup::target_named(forced).has_value();
    std::printf("%s: %s\n", known ? "skipped" : "FAILED",
                bisup::find_target().error().describe().c_str());
    return known ? 77 : 1;
  }
  if (forced != nullptr && name(bisup::active_target()) != forced) {
    std::printf("FAILED: %s was forced, another target is in force\n", forced);
    return 1;
  }
  return Catch::Session().run(argc, argv);
}
