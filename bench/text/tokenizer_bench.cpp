// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How fast is a text tokenized on one thread? Prints one JSON object for peers/tokenizer.py to put
// beside the tokenizers library: bench_text_tokenizer MODEL FILE [REPEATS].

#include <bisup/io/file.hpp>
#include <bisup/io/gguf.hpp>
#include <bisup/text/tokenizer_gguf.hpp>
#include <bisup/text/tokenizer_json.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "../probe.hpp"

namespace {

bisup::Result<bisup::text::Tokenizer> open(const std::string& model) {
  if (!std::string_view(model).ends_with(".gguf")) return bisup::text::Tokenizer::from_json(model);
  const auto file = bisup::io::Gguf::open(model);
  if (!file) return file.error();
  return bisup::text::Tokenizer::from_gguf(file.value());
}

int fail(const bisup::Error& error) {
  std::fprintf(stderr, "%s\n", error.describe().c_str());
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: %s MODEL FILE [REPEATS]\n", arguments[0]);
    return 2;
  }
  const int repeats = count > 3 ? std::atoi(arguments[3]) : 5;
  const auto text = bisup::io::read_text_file(arguments[2]);
  if (!text) return fail(text.error());
  // The first time fills the cache of words, so each repeat is a new tokenizer's first text.
  std::vector<double> first, again;
  std::size_t tokens = 0;
  for (int i = 0; i < repeats || first.empty(); ++i) {
    const auto tokenizer = open(arguments[1]);
    if (!tokenizer) return fail(tokenizer.error());
    for (auto* times : {&first, &again}) {
      times->push_back(bisup::bench::seconds_of([&] {
        const auto ids = tokenizer->encode(text.value());
        tokens = ids ? ids->size() : 0;
      }));
    }
  }
  std::printf(
      "{\"tokens\": %zu, \"bytes\": %zu, \"first_seconds\": %.6f, \"again_seconds\": %.6f}\n",
      tokens, text->size(), bisup::bench::median(first), bisup::bench::median(again));
}
