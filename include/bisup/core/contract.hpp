// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What happens when a caller breaks a precondition? BISUP_EXPECTS throws ContractViolation, which
// carries the expression and the place; with exceptions disabled it traps. Errors of the world
// (files, memory, calibration data) are not contracts: see result.hpp.

#include <stdexcept>
#include <string>

#include <bisup/core/platform.hpp>

namespace bisup {

class ContractViolation : public std::logic_error {
 public:
  ContractViolation(const char* expression, const char* file, int line)
      : std::logic_error(std::string("precondition failed: ") + expression + " (" + file + ":" +
                         std::to_string(line) + ")"),
        expression_(expression) {}

  [[nodiscard]] const char* expression() const noexcept { return expression_; }

 private:
  const char* expression_;
};

[[noreturn]] inline void contract_violated(const char* expression, const char* file, int line) {
#if BISUP_EXCEPTIONS
  throw ContractViolation(expression, file, line);
#else
  (void)expression, (void)file, (void)line;
  __builtin_trap();
#endif
}

}  // namespace bisup

#define BISUP_EXPECTS(condition) \
  ((condition) ? static_cast<void>(0) : ::bisup::contract_violated(#condition, __FILE__, __LINE__))
