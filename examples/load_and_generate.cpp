// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// Opens a model, quantizes it, and lets it go on with a text: load_and_generate MODEL [TEXT]
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/io/model_file.hpp>
#include <bisup/text/generate.hpp>
#include <bisup/text/model_files.hpp>
#include <cstdio>

static int fail(const bisup::Error& error) {
  std::fprintf(stderr, "%s\n", error.describe().c_str());
  return 1;
}

int main(int argc, char** argv) {
  const auto file = bisup::io::open_model(argc > 1 ? argv[1] : "examples/tiny_llama");
  if (!file) return fail(file.error());
  const auto tokenizer = bisup::text::load_tokenizer(file->tokenizer);
  if (!tokenizer) return fail(tokenizer.error());
  const auto model = bisup::round_to_nearest(file->model, bisup::Scheme::parse("W8A8-g64").value());
  if (!model) return fail(model.error());
  auto session = bisup::llama::Session::make(*model, 128, {});
  if (!session) return fail(session.error());

  const auto prompt = tokenizer->encode(argc > 2 ? argv[2] : "Once upon a time");
  if (!prompt) return fail(prompt.error());
  const bisup::text::GenerateOptions options{.tokens = 40, .eos = model->config.eos_ids};
  const auto answer =
      bisup::text::generate(*session, *prompt, *tokenizer, options, [](std::string_view piece) {
        return std::fwrite(piece.data(), 1, piece.size(), stdout) == piece.size();
      });
  if (!answer) return fail(answer.error());
  std::printf("\n");
  return answer->ids.empty() ? 1 : 0;
}
