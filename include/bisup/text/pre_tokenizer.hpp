// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where may no token reach across? A PreTokenizer cuts text into the words that byte pair encoding
// then sees one by one: a list of steps, each of which cuts what the one before left.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <bisup/text/split_pattern.hpp>

namespace bisup::text {

enum class SplitBehavior : std::uint8_t {
  removed,               // matches vanish
  isolated,              // each match is a word of its own
  merged_with_previous,  // a match ends the word before it
  merged_with_next,      // a match begins the word behind it
  contiguous,            // neighbouring matches are one word
};

struct SplitStep {
  SplitPattern pattern;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;  // what lies between the matches counts as the match
};

// Spaces become a visible character, which is also put in front of the text.
struct MetaspaceStep {
  enum class Prepend : std::uint8_t { always, first, never };
  std::string replacement = "\xE2\x96\x81";  // U+2581
  Prepend prepend = Prepend::always;
  bool split = true;
};

struct PrefixSpaceStep {};  // a space in front, unless there is one

class PreTokenizer {
 public:
  using Step = std::variant<SplitStep, MetaspaceStep, PrefixSpaceStep>;

  PreTokenizer() = default;  // the whole text is one word
  explicit PreTokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  [[nodiscard]] const std::vector<Step>& steps() const noexcept { return steps_; }

  // Calls sink(word) for every word of valid UTF-8, in order. `at_start`: nothing precedes `text`.
  // False: a regular expression gave up.
  template <class Sink>
  [[nodiscard]] bool split(std::string_view text, bool at_start, Sink&& sink) const {
    return run(0, text, at_start, sink);
  }

 private:
  template <class Sink>
  bool run(std::size_t index, std::string_view text, bool at_start, Sink& sink) const {
    if (text.empty()) return true;
    if (index == steps_.size()) return sink(text), true;
    const Step& step = steps_[index];
    if (const auto* split = std::get_if<SplitStep>(&step)) {
      return run_split(*split, index, text, at_start, sink);
    }
    if (const auto* metaspace = std::get_if<MetaspaceStep>(&step)) {
      return run_metaspace(*metaspace, index, text, at_start, sink);
    }
    if (text.front() == ' ') return run(index + 1, text, at_start, sink);
    return run(index + 1, " " + std::string(text), at_start, sink);
  }

  template <class Sink>
  bool run_split(const SplitStep& step, std::size_t index, std::string_view text, bool at_start,
                 Sink& sink) const {
    const auto next = [&](std::string_view piece) {
      return run(index + 1, piece, at_start && piece.data() == text.data(), sink);
    };
    if (step.behavior == SplitBehavior::isolated) {
      return step.pattern.for_each_piece(text,
                                         [&](std::string_view piece, bool) { return next(piece); });
    }
    if (step.behavior == SplitBehavior::removed) {
      return step.pattern.for_each_piece(text, [&](std::string_view piece, bool is_match) {
        return is_match != step.invert || next(piece);
      });
    }
    std::vector<Piece> pieces;
    const bool cut = step.pattern.for_each_piece(text, [&](std::string_view piece, bool is_match) {
      pieces.push_back({piece, is_match != step.invert});
      return true;
    });
    if (!cut) return false;
    merge(pieces, step.behavior);
    for (const Piece& piece : pieces) {
      if (!next(piece.text)) return false;
    }
    return true;
  }

  struct Piece {
    std::string_view text;
    bool is_match;
  };

  // Pieces are neighbours in one text, so two of them are merged by adding their lengths.
  static void merge(std::vector<Piece>& pieces, SplitBehavior behavior) {
    std::vector<Piece> merged;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const bool before = i > 0 && pieces[i - 1].is_match;
      bool joins = false;
      switch (behavior) {
        case SplitBehavior::contiguous: joins = i > 0 && pieces[i].is_match == before; break;
        case SplitBehavior::merged_with_previous:
          joins = i > 0 && pieces[i].is_match && !before;
          break;
        case SplitBehavior::merged_with_next: joins = before && !pieces[i].is_match; break;
        case SplitBehavior::removed:
        case SplitBehavior::isolated: break;
      }
      if (joins) {
        auto& last = merged.back().text;
        last = std::string_view(last.data(), last.size() + pieces[i].text.size());
      } else {
        merged.push_back(pieces[i]);
      }
    }
    pieces = std::move(merged);
  }

  template <class Sink>
  bool run_metaspace(const MetaspaceStep& step, std::size_t index, std::string_view text,
                     bool at_start, Sink& sink) const {
    std::string replaced;
    replaced.reserve(text.size() + text.size() / 2);
    for (const char c : text) {
      if (c == ' ') {
        replaced += step.replacement;
      } else {
        replaced += c;
      }
    }
    const bool prepend = step.prepend == MetaspaceStep::Prepend::always ||
                         (step.prepend == MetaspaceStep::Prepend::first && at_start);
    if (prepend && !replaced.starts_with(step.replacement)) replaced.insert(0, step.replacement);
    if (!step.split) return run(index + 1, replaced, at_start, sink);
    std::string_view rest = replaced;
    while (!rest.empty()) {  // each word begins with the replacement, if there is one
      const std::size_t end = rest.find(step.replacement, 1);
      const std::string_view word = rest.substr(0, end);
      if (!run(index + 1, word, at_start && word.data() == replaced.data(), sink)) return false;
      rest.remove_prefix(word.size());
    }
    return true;
  }

  std::vector<Step> steps_;
};

}  // namespace bisup::text
