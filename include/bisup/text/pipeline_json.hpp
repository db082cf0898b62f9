// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a tokenizer.json spell its normalizer, pre-tokenizer and decoder? Each is one component
// or a Sequence of them, known by "type"; a type that is not known here is refused by its name.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/text/detokenizer.hpp>
#include <bisup/text/json_reader.hpp>
#include <bisup/text/normalizer.hpp>
#include <bisup/text/pre_tokenizer.hpp>

namespace bisup::text::detail {

inline void refuse_type(JsonReader& reader, std::string_view role, const std::string& type) {
  reader.fail(Errc::unsupported, std::string(role) + " of type " + io::in_quotes(type));
}

// {"String": "text"} or {"Regex": "expression"}.
inline SplitPattern read_pattern(JsonReader& reader, const Json& object, std::string_view what) {
  const Json& pattern = reader.object(object, "pattern", what);
  if (JsonReader::find(pattern, "Regex") != nullptr) {
    auto made = SplitPattern::regex(reader.string(pattern, "Regex", "a pattern"));
    if (made) return std::move(made).value();
    reader.fail(made.error());
    return SplitPattern::literal("");
  }
  return SplitPattern::literal(reader.string(pattern, "String", "a pattern"));
}

// Calls read(component, type) for the component, or for each of a Sequence's, which are in
// `members`.
template <class Read>
void for_each_component(JsonReader& reader, const Json& component, const char* members,
                        std::string_view role, Read&& read) {
  if (reader.failed() || component.is_null()) return;
  if (!component.is_object()) {
    return reader.fail(Errc::malformed, "the " + std::string(role) + " is not an object");
  }
  const std::string type = reader.string(component, "type", role);
  if (reader.failed()) return;
  if (type != "Sequence") return read(component, type);
  for (const Json& member : reader.array(component, members, role)) {
    for_each_component(reader, member, members, role, read);
  }
}

inline Normalizer read_normalizer(JsonReader& reader, const Json& root) {
  std::vector<Normalizer::Step> steps;
  const auto read = [&](const Json& one, const std::string& type) {
    if (type == "NFC") {
      steps.emplace_back(NormalFormStep{NormalForm::nfc});
    } else if (type == "NFD") {
      steps.emplace_back(NormalFormStep{NormalForm::nfd});
    } else if (type == "NFKC") {
      steps.emplace_back(NormalFormStep{NormalForm::nfkc});
    } else if (type == "NFKD") {
      steps.emplace_back(NormalFormStep{NormalForm::nfkd});
    } else if (type == "Replace") {
      steps.emplace_back(
          ReplaceStep{read_pattern(reader, one, type), reader.string(one, "content", type)});
    } else if (type == "Prepend") {
      steps.emplace_back(PrependStep{reader.string(one, "prepend", type)});
    } else if (type == "Lowercase") {
      steps.emplace_back(LowercaseStep{});
    } else if (type == "StripAccents") {
      steps.emplace_back(StripAccentsStep{});
    } else if (type == "Strip") {
      steps.emplace_back(StripSpaceStep{reader.boolean(one, "strip_left", type, true),
                                        reader.boolean(one, "strip_right", type, true)});
    } else {
      refuse_type(reader, "a normalizer", type);
    }
  };
  if (const Json* member = JsonReader::find(root, "normalizer")) {
    for_each_component(reader, *member, "normalizers", "normalizer", read);
  }
  return Normalizer(std::move(steps));
}

inline SplitBehavior read_behavior(JsonReader& reader, const Json& one, const std::string& type) {
  const std::string name = reader.string(one, "behavior", type);
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  reader.fail(Errc::unsupported, "a split behavior " + io::in_quotes(name));
  return SplitBehavior::isolated;
}

inline MetaspaceStep read_metaspace(JsonReader& reader, const Json& one) {
  MetaspaceStep step;
  step.replacement = reader.string(one, "replacement", "Metaspace", "\xE2\x96\x81");
  if (step.replacement.empty()) reader.fail(Errc::malformed, "Metaspace has an empty replacement");
  const bool add_prefix =
      reader.boolean(one, "add_prefix_space", "Metaspace", true);  // older files
  const std::string scheme =
      reader.string(one, "prepend_scheme", "Metaspace", add_prefix ? "always" : "never");
  step.prepend = scheme == "first"   ? MetaspaceStep::Prepend::first
                 : scheme == "never" ? MetaspaceStep::Prepend::never
                                     : MetaspaceStep::Prepend::always;
  if (scheme != "first" && scheme != "never" && scheme != "always") {
    reader.fail(Errc::unsupported, "a prepend_scheme " + io::in_quotes(scheme));
  }
  step.split = reader.boolean(one, "split", "Metaspace", true);
  return step;
}

struct PreTokenizerFromJson {
  PreTokenizer pre_tokenizer;
  bool byte_level = false;
};

inline PreTokenizerFromJson read_pre_tokenizer(JsonReader& reader, const Json& root) {
  std::vector<PreTokenizer::Step> steps;
  bool byte_level = false;
  const auto characters = [](SplitPattern::Kind kind, SplitBehavior behavior) {
    return SplitStep{SplitPattern::characters(kind), behavior, false};
  };
  const auto read = [&](const Json& one, const std::string& type) {
    if (byte_level) {
      // What follows would see bytes spelled as characters, which this library never writes out.
      return reader.fail(Errc::unsupported,
                         "a pre-tokenizer of type " + io::in_quotes(type) + " behind ByteLevel");
    }
    if (type == "Split") {
      steps.emplace_back(SplitStep{read_pattern(reader, one, type),
                                   read_behavior(reader, one, type),
                                   reader.boolean(one, "invert", type, false)});
    } else if (type == "ByteLevel") {
      byte_level = true;
      if (reader.boolean(one, "add_prefix_space", type, true))
        steps.emplace_back(PrefixSpaceStep{});
      if (reader.boolean(one, "use_regex", type, true)) {
        steps.emplace_back(SplitStep{SplitPattern::known(KnownPattern::gpt2)});
      }
    } else if (type == "Digits") {
      const bool each = reader.boolean(one, "individual_digits", type, false);
      steps.emplace_back(characters(SplitPattern::Kind::numbers,
                                    each ? SplitBehavior::isolated : SplitBehavior::contiguous));
    } else if (type == "Punctuation") {
      const bool named = JsonReader::find(one, "behavior") != nullptr;
      steps.emplace_back(
          characters(SplitPattern::Kind::punctuation,
                     named ? read_behavior(reader, one, type) : SplitBehavior::isolated));
    } else if (type == "WhitespaceSplit") {
      steps.emplace_back(characters(SplitPattern::Kind::white_space, SplitBehavior::removed));
    } else if (type == "Whitespace") {
      auto words = SplitPattern::regex(R"(\w+|[^\w\s]+)");
      if (!words) return reader.fail(words.error());
      steps.emplace_back(SplitStep{std::move(words).value(), SplitBehavior::removed, true});
    } else if (type == "Metaspace") {
      steps.emplace_back(read_metaspace(reader, one));
    } else {
      refuse_type(reader, "a pre-tokenizer", type);
    }
  };
  if (const Json* member = JsonReader::find(root, "pre_tokenizer")) {
    for_each_component(reader, *member, "pretokenizers", "pre-tokenizer", read);
  }
  return {PreTokenizer(std::move(steps)), byte_level};
}

inline DetokenizerRules read_decoder(JsonReader& reader, const Json& root) {
  DetokenizerRules rules;
  bool fused = false;
  const auto read = [&](const Json& one, const std::string& type) {
    if (fused && type != "Strip" && type != "Fuse") {
      return reader.fail(Errc::unsupported,
                         "a decoder of type " + io::in_quotes(type) + " behind Fuse");
    }
    if (type == "ByteLevel") {
      rules.steps.emplace_back(ByteLevelDecoding{});
    } else if (type == "ByteFallback") {
      rules.steps.emplace_back(ByteFallbackDecoding{});
    } else if (type == "Replace") {
      rules.steps.emplace_back(
          ReplaceDecoding{read_pattern(reader, one, type), reader.string(one, "content", type)});
    } else if (type == "Fuse") {
      fused = true;
    } else if (type == "Strip") {
      const StripDecoding strip = {reader.string(one, "content", type),
                                   reader.count(one, "start", type, 1 << 20)};
      if (strip.content.empty())
        reader.fail(Errc::malformed, "the decoder Strip has empty content");
      if (reader.count(one, "stop", type, 1 << 20) != 0) {
        reader.fail(Errc::unsupported, "the decoder Strip takes from the end of the text");
      }
      if (fused) {
        rules.strip = strip;
      } else {
        rules.steps.emplace_back(strip);
      }
    } else if (type == "Metaspace") {
      const MetaspaceStep step = read_metaspace(reader, one);
      rules.steps.emplace_back(ReplaceDecoding{SplitPattern::literal(step.replacement), " "});
      if (step.prepend != MetaspaceStep::Prepend::never) rules.dropped_in_first = " ";
    } else {
      refuse_type(reader, "a decoder", type);
    }
  };
  if (const Json* member = JsonReader::find(root, "decoder")) {
    for_each_component(reader, *member, "decoders", "decoder", read);
  } else {
    rules.separator = " ";
  }
  return rules;
}

}  // namespace bisup::text::detail
