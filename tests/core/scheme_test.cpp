// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/scheme.hpp>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

Scheme parsed(const std::string& text) {
  const auto scheme = Scheme::parse(text);
  INFO(text << (scheme ? "" : ": " + scheme.error().describe()));
  REQUIRE(scheme);
  return *scheme;
}

std::string canonical(const std::string& text) {
  return parsed(text).name();
}

TEST_CASE("what is left out has one meaning") {
  CHECK(canonical("W4A8") == "W4A8-g128-head16");
  CHECK(canonical("W4A8KV16") == canonical("W4A8"));
  CHECK(canonical("W4A8K4V4-g64") == "W4A8KV4-g64-head16");
  CHECK(canonical("W4A8K8V2-g64-head8") == "W4A8K8V2-g64-head8");
  CHECK(canonical("W8A8-head8-affine-atoken-g32") == "W8A8-g32-atoken-affine-head8");
  CHECK(canonical("W8A8-channel-atoken") == canonical("W8A8-channel"));
}

TEST_CASE("fields arrive where they belong") {
  const Scheme scheme = parsed("W3A6K8V2-g64-atoken-affine-head8");
  CHECK(scheme == Scheme{.weight_bits = 3,
                         .activation_bits = 6,
                         .key_bits = 8,
                         .value_bits = 2,
                         .group = 64,
                         .token_scales = true,
                         .affine = true,
                         .head_bits = 8});
  CHECK(scheme.weight_format() == Format{.bits = 3, .group = 64, .zero = Zero::affine});
  CHECK((scheme.quantizes_weights() && scheme.quantizes_activations() && scheme.quantizes_cache()));
  CHECK(parsed("W4A8KV4") ==
        Scheme{.weight_bits = 4, .activation_bits = 8, .key_bits = 4, .value_bits = 4});
  const Scheme none = parsed("W16A16");
  CHECK(!(none.quantizes_weights() || none.quantizes_activations() || none.quantizes_cache()));
  CHECK(parsed("W16A16K16V4").quantizes_cache());
}

TEST_CASE("every scheme of the grammar is its own canonical form's meaning") {
  int schemes = 0;
  for (const int w : {2, 3, 4, 5, 6, 8, 16}) {
    for (const int a : {2, 3, 4, 5, 6, 7, 8, 16}) {
      for (const char* cache : {"", "KV2", "KV3", "KV4", "KV8", "K4V2", "K8V16", "K16V4"}) {
        for (const char* group : {"", "-g32", "-g64", "-g128", "-channel"}) {
          for (const char* head : {"", "-head8", "-head16"}) {
            const std::string text =
                "W" + std::to_string(w) + "A" + std::to_string(a) + cache + group + head;
            for (const std::string extra : {"", "-atoken", "-affine"}) {
              if (extra == "-atoken" && a == 16) continue;
              if (extra == "-affine" && w == 16) continue;
              const Scheme scheme = parsed(text + extra);
              REQUIRE(parsed(scheme.name()) == scheme);
              REQUIRE(canonical(scheme.name()) == scheme.name());
              ++schemes;
            }
          }
        }
      }
    }
  }
  CHECK(schemes == 7 * 8 * 8 * 5 * 3 * 3 - 8 * 5 * 3 * (7 + 8));
}

TEST_CASE("anything else is refused, with the text and a reason") {
  for (const char* text : {"",
                           "W",
                           "W4",
                           "A8W4",
                           "w4a8",
                           "W4A8 ",
                           " W4A8",
                           "W4A8-",
                           "W4A8-g",
                           "W4A8-g0",
                           "W4A8-g48",
                           "W4A8-g256",
                           "W7A8",
                           "W1A8",
                           "W0A8",
                           "W9A8",
                           "W-4A8",
                           "W+4A8",
                           "W4A1",
                           "W4A9",
                           "W4A8KV",
                           "W4A8KV5",
                           "W4A8KV16V8",
                           "W4A8K4",
                           "W4A8V4",
                           "W4A8-KV4",
                           "W4A8-g64-g64",
                           "W4A8-g64-channel",
                           "W4A8-affine-affine",
                           "W4A8-atoken-atoken",
                           "W4A8-head8-head16",
                           "W4A8-head4",
                           "W4A8-head",
                           "W4A8-head88",
                           "W4A16-atoken",
                           "W16A8-affine",
                           "W4A8-fast",
                           "W4A8-g64x",
                           "W4A8KV4KV4",
                           "W99999999999999999999A8"}) {
    const auto scheme = Scheme::parse(text);
    INFO(text);
    CHECK_FALSE(scheme.has_value());
    if (scheme) continue;
    CHECK(scheme.error().code == Errc::bad_scheme);
    CHECK(scheme.error().message.find("'" + std::string(text) + "'") == 0);
    CHECK(scheme.error().message.find("W<b>A<b>") != std::string::npos);
  }
}

}  // namespace
