// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <cstdio>
#include <memory>

#include "conversation.hpp"
#include "terminal.hpp"

namespace command {

namespace {

struct GenerateCommand : ConversationOptions {
  std::string prompt, system, save_prompt;
  bool chat = false;

  bisup::Result<void> run() const {
    auto opened = Conversation::open(*this, chat);
    if (!opened) return opened.error();
    Conversation& conversation = **opened;
    std::vector<bisup::text::ChatMessage> messages;
    if (!system.empty()) messages.push_back({"system", system});
    messages.push_back({"user", prompt});
    const auto ids = chat ? conversation.ids_of(messages) : conversation.tokenizer().encode(prompt);
    if (!ids) return about(ids.error(), common.model);
    if (ids->empty()) return bisup::Error{bisup::Errc::too_short, "the prompt has no tokens"};

    if (!save_prompt.empty()) {
      if (auto saved = conversation.save_prompt(save_prompt, *ids); !saved) return saved.error();
    }
    const auto answer = conversation.answer(*ids, [this](std::string_view piece) {
      if (common.json) return true;
      fmt::print("{}", piece);
      return std::fflush(stdout) == 0;  // nobody reads it any more
    });
    if (!answer) return answer.error();
    if (std::ferror(stdout) != 0) return {};  // main() says so
    const Speed& speed = answer->speed;
    if (common.json) {
      Json said = conversation.json();
      said["text"] = answer->text;
      said["tokens"] = answer->generation.ids;
      said["finish"] = name(answer->generation.finish);
      said["stored_prompt_tokens"] = conversation.model().prompt.tokens();
      said["prompt_tokens"] = speed.prompt_tokens;
      said["prompt_tokens_per_second"] = speed.prompt_rate();
      said["tokens_per_second"] = speed.rate();
      print(said);
    } else {
      fmt::print("\n");
      std::fflush(stdout);  // before what follows on stderr, which may be the same file
      fmt::print(stderr, "read: {}, written: {}\n", speed.read(), speed.written());
    }
    if (interrupted()) return bisup::Error{bisup::Errc::interrupted, "stopped"};
    return {};
  }
};

}  // namespace

void add_generate(CLI::App& app, Action& action) {
  const auto options = std::make_shared<GenerateCommand>();
  CLI::App* sub = add_subcommand(
      app, "generate", "Continues a text, or answers it with --chat",
      "bisup generate model.gguf --chat --prompt 'What is a prime number?'", options->common);
  sub->add_option("--prompt", options->prompt, "the text")->required();
  CLI::Option* chat = sub->add_flag("--chat", options->chat, "ask by the model's chat template");
  sub->add_option("--system", options->system, "the system message")->needs(chat);
  sub->add_option("--save-prompt", options->save_prompt,
                  "keep the prompt's keys and values in this file, for --load-prompt")
      ->option_text("FILE");
  add_conversation_options(*sub, *options);
  add_roll_option(*sub, *options);
  sub->callback([options, &action] { action = [options] { return options->run(); }; });
}

}  // namespace command
