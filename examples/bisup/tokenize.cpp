// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <memory>

#include "command.hpp"

namespace command {

namespace {

struct TokenizeCommand {
  Common common;
  std::string file, text;
  bool no_parse_special = false, no_bos = false, given = false;

  bisup::Result<void> run() const {
    const auto files = bisup::io::open_tokenizer_files(common.model);
    if (!files) return files.error();
    const auto tokenizer = open_tokenizer(*files);
    if (!tokenizer) return tokenizer.error();
    const auto input = given ? bisup::Result<std::string>(text) : read_text(file);
    if (!input) return input.error();
    const auto ids =
        tokenizer->encode(*input, {.parse_special = !no_parse_special, .add_special = !no_bos});
    if (!ids) return about(ids.error(), text_name(file));
    if (common.json) {
      Json tokens = Json::array();
      for (const int id : *ids) tokens.push_back(tokenizer->token(id));
      print({{"ids", *ids}, {"tokens", std::move(tokens)}});
      return {};
    }
    for (const int id : *ids) fmt::print("{}\t{}\n", id, tokenizer->token(id));
    return {};
  }
};

}  // namespace

void add_tokenize(CLI::App& app, Action& action) {
  const auto options = std::make_shared<TokenizeCommand>();
  CLI::App* sub = add_subcommand(app, "tokenize", "Shows the tokens of a text",
                                 "bisup tokenize model.gguf --text 'one two 345'", options->common);
  CLI::Option* file =
      sub->add_option("--file", options->file, "the text; - or nothing: standard input");
  CLI::Option* text = sub->add_option("--text", options->text, "the text itself")->excludes(file);
  sub->add_flag("--no-parse-special", options->no_parse_special,
                "read special tokens as plain text");
  sub->add_flag("--no-bos", options->no_bos, "do not add what the tokenizer puts around a text");
  sub->callback([options, text, &action] {
    options->given = text->count() > 0;
    action = [options] { return options->run(); };
  });
}

}  // namespace command
