// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/contract.hpp>

#include <string>

#include <bisup_test.hpp>

namespace {

int evaluated = 0;
bool counted(bool result) {
  ++evaluated;
  return result;
}

TEST_CASE("a kept contract costs one evaluation") {
  evaluated = 0;
  BISUP_EXPECTS(counted(true));
  CHECK(evaluated == 1);
}

TEST_CASE("a broken contract throws the expression and the place") {
  evaluated = 0;
  try {
    BISUP_EXPECTS(counted(2 < 1));
    FAIL("no exception");
  } catch (const bisup::ContractViolation& violation) {
    CHECK(evaluated == 1);
    CHECK(std::string(violation.expression()) == "counted(2 < 1)");
    CHECK(std::string(violation.what()).find("contract_test.cpp:") != std::string::npos);
  }
}

}  // namespace
