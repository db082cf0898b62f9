// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/result.hpp>

#include <memory>
#include <set>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

Result<std::unique_ptr<int>> boxed(int value) {
  if (value < 0) return Error{Errc::out_of_range, "negative", "box.bin"};
  return std::make_unique<int>(value);
}

Result<void> check(bool good) {
  if (!good) return Error{Errc::malformed, "bad magic"};
  return {};
}

TEST_CASE("a result holds a value, which may be move-only") {
  auto box = boxed(3);
  REQUIRE(box);
  CHECK(box.has_value());
  CHECK(**box == 3);
  CHECK(*box->get() == 3);
  const std::unique_ptr<int> taken = std::move(box).value();
  CHECK(*taken == 3);
}

TEST_CASE("or an error, which names file and reason") {
  const auto box = boxed(-1);
  REQUIRE(!box);
  CHECK(box.error().code == Errc::out_of_range);
  CHECK(box.error().describe() == "box.bin: out of range: negative");
  CHECK(check(false).error().describe() == "malformed: bad magic");
  CHECK(check(true).has_value());
}

TEST_CASE("asking for what is not there is a broken contract") {
  CHECK_THROWS_AS(boxed(-1).value(), ContractViolation);
  CHECK_THROWS_AS(*boxed(-1), ContractViolation);
  CHECK_THROWS_AS((void)boxed(1).error(), ContractViolation);
  CHECK_THROWS_AS(check(false).value(), ContractViolation);
  CHECK_THROWS_AS((void)check(true).error(), ContractViolation);
}

TEST_CASE("value_or gives the fallback only for an error") {
  CHECK(Result<int>(4).value_or(9) == 4);
  CHECK(Result<int>(Error{Errc::missing, ""}).value_or(9) == 9);
}

TEST_CASE("every error code has a name of its own") {
  std::set<std::string> names;
  const int count = static_cast<int>(Errc::unknown_target) + 1;
  for (int i = 0; i < count; ++i) names.insert(name(static_cast<Errc>(i)));
  CHECK(names.size() == static_cast<std::size_t>(count));
  CHECK(names.count("unknown error") == 0);
}

}  // namespace
