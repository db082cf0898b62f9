// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// On which tokens is a model calibrated? Crops of one text, spread over it. Its last part is held
// out first, so that what is chosen on held-out crops was never seen, and no crop crosses the
// split. The tuning of all blocks together, which lives on unread text, also learns from what lies
// between all these crops, in longer ones.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/cache/prompt_cache.hpp>
#include <bisup/core/contract.hpp>
#include <bisup/core/random.hpp>
#include <bisup/core/result.hpp>

namespace bisup {

struct SampleOptions {
  int samples = 24, length = 2048;  // crops, tokens of one
  // Tokens more for tuning all blocks together, about and as far as the text has them, in crops of
  // at most so many.
  int end_to_end = 0, end_to_end_length = 2048;
  std::uint64_t seed = 0;
  double held_out = 0.15;  // share of the text's tokens, at its end
};

// [samples][length]; held-out crops are as long as the others unless the text is too short. Those
// of end_to_end are learned from only when all blocks are tuned together.
struct Samples {
  std::vector<std::vector<int>> crops, held_out, end_to_end = {};

  [[nodiscard]] long tokens() const { return tokens_of(crops); }
  [[nodiscard]] long end_to_end_tokens() const { return tokens_of(end_to_end); }
  [[nodiscard]] static long tokens_of(const std::vector<std::vector<int>>& crops) {
    long sum = 0;
    for (const auto& crop : crops) sum += static_cast<long>(crop.size());
    return sum;
  }
};

// The same crops as they follow a stored prompt: without it where they begin with it, or without a
// BOS that it has said already (cache/prompt_cache.hpp).
[[nodiscard]] inline Samples after_prompt(Samples samples, std::span<const int> prompt,
                                          std::optional<int> bos = {}) {
  for (auto* part : {&samples.crops, &samples.held_out, &samples.end_to_end}) {
    for (std::vector<int>& crop : *part) {
      const auto rest = after_prompt(std::span<const int>(crop), prompt, bos);
      crop = std::vector<int>(rest.begin(), rest.end());
    }
  }
  return samples;
}

// One held-out crop for six samples, eight at most.
[[nodiscard]] constexpr int held_out_samples(int samples) {
  return std::clamp(samples / 6, 1, 8);
}

namespace detail {

// Where `count` crops of `length` tokens begin: evenly over the text from a random place on. Places
// drawn one by one leave 1/e of a text unread that is as long as all crops.
[[nodiscard]] inline std::vector<std::size_t> crop_places(std::size_t text, int count,
                                                          std::size_t length, Random& random) {
  const std::size_t places = text - length + 1, n = static_cast<std::size_t>(count);
  const std::size_t phase = random.below(static_cast<std::uint32_t>(places));
  std::vector<std::size_t> begins;
  for (std::size_t i = 0; i < n; ++i) begins.push_back((i * places + phase) / n);
  return begins;
}

[[nodiscard]] inline std::vector<int> part_of(std::span<const int> text, std::size_t begin,
                                              std::size_t length) {
  const auto part = text.subspan(begin, length);
  return {part.begin(), part.end()};
}

// Crops at these places, in random order.
[[nodiscard]] inline std::vector<std::vector<int>> crop(std::span<const int> text, int count,
                                                        std::size_t length, Random random) {
  std::vector<std::vector<int>> crops;
  for (const std::size_t begin : crop_places(text.size(), count, length, random)) {
    crops.push_back(part_of(text, begin, length));
    std::swap(crops.back(), crops[random.below(static_cast<std::uint32_t>(crops.size()))]);
  }
  return crops;
}

[[nodiscard]] inline std::size_t held_out_tokens(std::size_t text, const SampleOptions& options) {
  return static_cast<std::size_t>(options.held_out * static_cast<double>(text));
}

// Of a held-out part: how many crops, and how long.
[[nodiscard]] inline std::pair<int, std::size_t> held_out_crops(std::size_t part,
                                                                const SampleOptions& options) {
  return {held_out_samples(options.samples),
          std::min(static_cast<std::size_t>(options.length), part)};
}

[[nodiscard]] inline Random sample_random(const SampleOptions& options) {
  return Random(options.seed, 0);
}
[[nodiscard]] inline Random held_out_random(const SampleOptions& options) {
  return Random(options.seed, 1);
}

struct Place {
  std::size_t begin, size;
};

// What lies between crops of `length` tokens that begin at `crops`, in order: pieces of at most
// `longest` tokens and at least `shortest`.
inline void add_places_between(std::vector<std::size_t> crops, std::size_t length,
                               std::size_t shortest, std::size_t longest, std::size_t begin,
                               std::size_t end, std::vector<Place>& places) {
  crops.push_back(end - begin);
  std::size_t free = 0;
  for (const std::size_t next : crops) {
    while (free + shortest <= next) {
      const std::size_t size = std::min(longest, next - free);
      places.push_back({begin + free, size});
      free += size;
    }
    free = next + length;
  }
}

// The crops that only the tuning of all blocks together reads, in the order of the text.
[[nodiscard]] inline std::vector<Place> end_to_end_places(std::size_t text,
                                                          const SampleOptions& options) {
  const auto length = static_cast<std::size_t>(options.length);
  const auto longest = static_cast<std::size_t>(options.end_to_end_length);
  const std::size_t held = held_out_tokens(text, options), learned = text - held;
  std::vector<Place> places;
  if (options.end_to_end == 0 || learned < length) return places;
  const auto add = [&](std::size_t begin, std::size_t end, int count, std::size_t size,
                       Random random) {
    add_places_between(crop_places(end - begin, count, size, random), size,
                       std::min(length, longest), longest, begin, end, places);
  };
  const auto [count, held_length] = held_out_crops(held, options);
  add(0, learned, options.samples, length, sample_random(options));
  add(learned, text, count, held_length, held_out_random(options));
  std::size_t all = 0;
  for (const Place& place : places) all += place.size;
  const auto wanted = static_cast<std::size_t>(options.end_to_end);
  if (all <= wanted) return places;
  const std::size_t fewer = std::max<std::size_t>(places.size() * wanted / all, 1);
  for (std::size_t i = 0; i < fewer; ++i) places[i] = places[i * places.size() / fewer];
  places.resize(fewer);
  return places;
}

}  // namespace detail

// Tokens of each crop that tuning all blocks together has beside the samples, of a text of so many.
// It can read crops again, so that these overlap no others.
[[nodiscard]] inline std::vector<int> end_to_end_lengths(std::size_t text,
                                                         const SampleOptions& options) {
  std::vector<int> lengths;
  for (const auto& place : detail::end_to_end_places(text, options))
    lengths.push_back(static_cast<int>(place.size));
  return lengths;
}

// ids: the whole text, its BOS included if the tokenizer adds one. Errors: too_short (the parts of
// the text hold no crop), out_of_range (an id outside the vocabulary).
[[nodiscard]] inline Result<Samples> cut_samples(std::span<const int> ids, int vocab_size,
                                                 const SampleOptions& options) {
  BISUP_EXPECTS(options.samples >= 1 && options.length >= 2);
  BISUP_EXPECTS(options.end_to_end >= 0 && options.end_to_end_length >= 2);
  BISUP_EXPECTS(options.held_out > 0 && options.held_out < 1);
  for (const int id : ids) {
    if (id < 0 || id >= vocab_size)
      return Error{Errc::out_of_range,
                   "token id " + std::to_string(id) + " is not in the vocabulary"};
  }
  const std::size_t held = detail::held_out_tokens(ids.size(), options);
  const auto learned = ids.first(ids.size() - held), rest = ids.last(held);
  constexpr std::size_t fewest = 16;  // held-out tokens from which a choice can be made
  if (learned.size() < static_cast<std::size_t>(options.length) || rest.size() < fewest) {
    return Error{Errc::too_short, "the calibration text has " + std::to_string(ids.size()) +
                                      " tokens; without the held-out part " +
                                      std::to_string(learned.size()) + ", one sample needs " +
                                      std::to_string(options.length)};
  }
  Samples samples;
  samples.crops = detail::crop(learned, options.samples, static_cast<std::size_t>(options.length),
                               detail::sample_random(options));
  const auto [count, held_length] = detail::held_out_crops(held, options);
  samples.held_out = detail::crop(rest, count, held_length, detail::held_out_random(options));
  for (const auto& place : detail::end_to_end_places(ids.size(), options))
    samples.end_to_end.push_back(detail::part_of(ids, place.begin, place.size));
  return samples;
}

// Sequences of `length` tokens, one after another, as samples: the last `held_out` of them are held
// out. Requires one at least for each part, and nothing beside whole sequences.
[[nodiscard]] inline Samples whole_samples(std::span<const int> ids, int length, int held_out) {
  BISUP_EXPECTS(length >= 2 && held_out >= 1);
  const auto size = static_cast<std::size_t>(length);
  const std::size_t count = ids.size() / size, learned = count - static_cast<std::size_t>(held_out);
  BISUP_EXPECTS(ids.size() % size == 0 && count > static_cast<std::size_t>(held_out));
  Samples samples;
  for (std::size_t i = 0; i < count; ++i) {
    const auto part = ids.subspan(i * size, size);
    (i < learned ? samples.crops : samples.held_out).emplace_back(part.begin(), part.end());
  }
  return samples;
}

// The samples of two texts in random order, so that any part of them is of both.
[[nodiscard]] inline Samples mixed(Samples one, const Samples& other, std::uint64_t seed) {
  Random random(seed, 3);
  for (auto [to, from] : {std::pair(&one.crops, &other.crops), {&one.held_out, &other.held_out}}) {
    to->insert(to->end(), from->begin(), from->end());
    for (std::size_t i = to->size(); i-- > 1;)
      std::swap((*to)[i], (*to)[random.below(static_cast<std::uint32_t>(i + 1))]);
  }
  return one;
}

}  // namespace bisup
