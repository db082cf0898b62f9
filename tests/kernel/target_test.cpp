// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/kernel/target.hpp>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include <bisup_test.hpp>

using namespace bisup;

namespace {

// Sets BISUP_TARGET for one scope.
class Forced {
 public:
  explicit Forced(const char* value) {
    if (const char* old = std::getenv("BISUP_TARGET")) had_ = true, old_ = old;
    setenv("BISUP_TARGET", value, 1);
  }
  Forced(const Forced&) = delete;
  Forced& operator=(const Forced&) = delete;
  ~Forced() { had_ ? setenv("BISUP_TARGET", old_.c_str(), 1) : unsetenv("BISUP_TARGET"); }

 private:
  bool had_ = false;
  std::string old_;
};

}  // namespace

TEST_CASE("every target has a name that finds it again") {
  for (const Target target : all_targets) REQUIRE(target_named(name(target)) == target);
  REQUIRE_FALSE(target_named("avx").has_value());
  REQUIRE_FALSE(target_named("").has_value());
}

TEST_CASE("inclusion is an order with scalar below everything") {
  for (const Target a : all_targets) {
    REQUIRE(includes(a, a));
    REQUIRE(includes(a, Target::scalar));
    for (const Target b : all_targets) {
      if (a != b) REQUIRE_FALSE((includes(a, b) && includes(b, a)));
      for (const Target c : all_targets) {
        if (includes(a, b) && includes(b, c)) REQUIRE(includes(a, c));
      }
      // A processor that runs the strong one runs the weak one.
      if (runs_here(a) && includes(a, b)) REQUIRE(runs_here(b));
    }
  }
  REQUIRE_FALSE(includes(Target::avx512, Target::avx512_vnni));
  REQUIRE_FALSE(includes(Target::neon, Target::avx2));
}

TEST_CASE("who makes the processor says whether its wide instructions share ports") {
  std::ifstream file("/proc/cpuinfo");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  if (text.find("vendor_id") == std::string::npos) return;
  REQUIRE(wide_vectors_share_ports() == (text.find("GenuineIntel") != std::string::npos));
}

TEST_CASE("BISUP_TARGET forces a target, and a wrong one is an error that names it") {
  {
    const Forced none("");
    const auto best = find_target();
    REQUIRE(best);
    // Not only by inclusion: Zen 5 has avx_vnni and avx512_vnni, of which neither includes the
    // other.
    for (const Target target : all_targets) {
      if (runs_here(target)) REQUIRE(target <= *best);
    }
  }
  for (const Target target : all_targets) {
    const Forced forced(std::string(name(target)).c_str());
    const auto found = find_target();
    if (runs_here(target)) {
      REQUIRE(found);
      REQUIRE(*found == target);
    } else {
      REQUIRE_FALSE(found);
      REQUIRE(found.error().code == Errc::unknown_target);
      REQUIRE(found.error().describe().find(name(target)) != std::string::npos);
    }
  }
  const Forced unknown("sse9");
  REQUIRE_FALSE(find_target());
  REQUIRE(find_target().error().describe().find("sse9") != std::string::npos);
}
