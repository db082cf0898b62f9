// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// The trained model that the project ships, and crops of the text that it was not trained on.

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <bisup/calibrate/samples.hpp>
#include <bisup/io/checkpoint.hpp>
#include <bisup/text/tokenizer_json.hpp>

namespace bisup::test {

inline const std::string tiny_llama = BISUP_SOURCE_DIR "/examples/tiny_llama";

inline io::Checkpoint tiny_source() { return io::Checkpoint::open(tiny_llama).value(); }

inline std::vector<int> tiny_text() {
  std::ifstream file(tiny_llama + "/eval.txt", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto tokenizer = text::Tokenizer::from_json(tiny_llama + "/tokenizer.json").value();
  return tokenizer.encode(text).value();
}

// From the first half of the text; tests are judged on the second.
inline Samples tiny_samples(int samples, int length) {
  const auto ids = tiny_text();
  const auto half = std::span(ids).first(ids.size() / 2);
  return cut_samples(half, tiny_source().config().vocab_size, {.samples = samples, .length = length}).value();
}
inline std::vector<int> tiny_judge() {
  const auto ids = tiny_text();
  return {ids.begin() + static_cast<std::ptrdiff_t>(ids.size() / 2), ids.end()};
}

}  // namespace bisup::test
