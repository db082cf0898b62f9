// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/normalizer.hpp>

#include <bisup_test.hpp>
#include <string>
#include <vector>

namespace {

using namespace bisup::text;

std::string rewritten(std::vector<Normalizer::Step> steps, std::string text) {
  REQUIRE(Normalizer(std::move(steps)).apply(text));
  return text;
}

TEST_CASE("each step") {
  CHECK(rewritten({NormalFormStep{NormalForm::nfc}}, "e\u0301") == "\u00e9");
  CHECK(rewritten({ReplaceStep{SplitPattern::literal(" "), "\u2581"}}, " a b ") ==
        "\u2581"
        "a\u2581"
        "b\u2581");
  CHECK(rewritten({ReplaceStep{*SplitPattern::regex(" {2,}"), "_"}}, "a   b c") == "a_b c");
  CHECK(rewritten({PrependStep{"_"}}, "a") == "_a");
  CHECK(rewritten({PrependStep{"_"}}, "").empty());
  CHECK(rewritten({LowercaseStep{}}, "\u00c4BC\u0130\u03a3") ==
        "\u00e4"
        "bci\u0307\u03c3");
  CHECK(rewritten({NormalFormStep{NormalForm::nfd}, StripAccentsStep{}}, "d\u00e9j\u00e0") ==
        "deja");
  CHECK(rewritten({StripSpaceStep{}}, " \u0085\u3000a b\n") == "a b");
  CHECK(rewritten({StripSpaceStep{false, true}}, " a ") == " a");
  CHECK(rewritten({StripSpaceStep{true, false}}, " a ") == "a ");
  CHECK(rewritten({StripSpaceStep{}}, " \t ").empty());
}

TEST_CASE("steps apply in order") {
  CHECK(rewritten({PrependStep{" "}, ReplaceStep{SplitPattern::literal(" "), "_"}}, "a b") ==
        "_a_b");
  CHECK(rewritten({ReplaceStep{SplitPattern::literal(" "), "_"}, PrependStep{" "}}, "a b") ==
        " a_b");
}

}  // namespace
