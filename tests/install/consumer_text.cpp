// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// A program that uses the components: utf8proc composes, PCRE2 splits, nlohmann/json parses.

#include <cstdio>

#include <bisup/io/json.hpp>
#include <bisup/text/normal_form.hpp>
#include <bisup/text/regex.hpp>

int main() {
  const bool composed = bisup::text::to_nfc("e\xcc\x81") == "\xc3\xa9";
  const bool parsed = bisup::io::parse_json("{\"bits\": 4}", "consumer").has_value();
  const bool compiled = bisup::text::Regex::compile("\\p{L}+").has_value();
  std::printf("composed %d, parsed %d, compiled %d\n", composed, parsed, compiled);
  return composed && parsed && compiled ? 0 : 1;
}
