// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is done to text before it is cut into words? A Normalizer is a list of small rewritings,
// applied to each stretch of text between added tokens.

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <bisup/text/normal_form.hpp>
#include <bisup/text/split_pattern.hpp>
#include <bisup/text/unicode.hpp>

namespace bisup::text {

struct NormalFormStep {
  NormalForm form;
};
struct ReplaceStep {
  SplitPattern pattern;
  std::string content;
};
struct PrependStep {  // to text that is not empty
  std::string content;
};
struct LowercaseStep {};
struct StripAccentsStep {};  // removes nonspacing marks: follows a decomposition
struct StripSpaceStep {
  bool left = true, right = true;
};

class Normalizer {
 public:
  using Step = std::variant<NormalFormStep, ReplaceStep, PrependStep, LowercaseStep,
                            StripAccentsStep, StripSpaceStep>;

  Normalizer() = default;
  explicit Normalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  [[nodiscard]] bool empty() const noexcept { return steps_.empty(); }

  // Rewrites valid UTF-8 in place. False: a regular expression gave up.
  [[nodiscard]] bool apply(std::string& text) const {
    for (const Step& step : steps_) {
      const bool done = std::visit([&text](const auto& one) { return rewrite(one, text); }, step);
      if (!done) return false;
    }
    return true;
  }

 private:
  static bool rewrite(const NormalFormStep& step, std::string& text) {
    return text = normalize(text, step.form), true;
  }
  static bool rewrite(const ReplaceStep& step, std::string& text) {
    std::string out;
    out.reserve(text.size() + text.size() / 2);
    const bool done = step.pattern.for_each_piece(text, [&](std::string_view piece, bool is_match) {
      out += is_match ? std::string_view(step.content) : piece;
      return true;
    });
    return text = std::move(out), done;
  }
  static bool rewrite(const PrependStep& step, std::string& text) {
    if (!text.empty()) text.insert(0, step.content);
    return true;
  }
  static bool rewrite(const LowercaseStep&, std::string& text) {
    return each_character(text, [](char32_t c, std::string& out) {
      if (c == 0x130)
        return append_utf8(out, 'i'), append_utf8(out, 0x307);  // the one that becomes two
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    });
  }
  static bool rewrite(const StripAccentsStep&, std::string& text) {
    return each_character(text, [](char32_t c, std::string& out) {
      if (category(c) != UTF8PROC_CATEGORY_MN) append_utf8(out, c);
    });
  }
  static bool rewrite(const StripSpaceStep& step, std::string& text) {
    std::size_t begin = 0, end = text.size();
    while (step.left && begin < end) {
      const CodePoint c = decode_utf8(text.data() + begin);
      if (!is_white_space(c.value)) break;
      begin += static_cast<std::size_t>(c.bytes);
    }
    while (step.right && end > begin) {
      const CodePoint c = decode_utf8_before(text.data() + end);
      if (!is_white_space(c.value)) break;
      end -= static_cast<std::size_t>(c.bytes);
    }
    return text = text.substr(begin, end - begin), true;
  }

  template <class Rewrite>
  static bool each_character(std::string& text, Rewrite rewrite) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const CodePoint c = decode_utf8(text.data() + at);
      rewrite(c.value, out);
      at += static_cast<std::size_t>(c.bytes);
    }
    return text = std::move(out), true;
  }

  std::vector<Step> steps_;
};

}  // namespace bisup::text
