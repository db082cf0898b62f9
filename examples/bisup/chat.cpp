// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <utility>

#include "conversation.hpp"
#include "terminal.hpp"

namespace command {

namespace {

// A line of standard input; nothing at its end. Ctrl-C ends the program while it waits here.
std::optional<std::string> read_line() {
  const bool is_terminal = ::isatty(STDIN_FILENO) != 0;
  if (is_terminal) fmt::print(stderr, "> ");
  let_interrupts_end();
  std::string line;
  const bool read = static_cast<bool>(std::getline(std::cin, line));
  catch_interrupts();
  if (is_terminal && !read) fmt::print(stderr, "\n");
  return read ? std::optional(line) : std::nullopt;
}

struct ChatCommand : ConversationOptions {
  std::string system;

  bisup::Result<void> run() const {
    auto opened = Conversation::open(*this, true);
    if (!opened) return opened.error();
    Conversation& conversation = **opened;
    if (::isatty(STDIN_FILENO) != 0) {
      fmt::print(stderr, "/reset begins anew, /quit ends; Ctrl-C stops an answer\n");
    }
    std::vector<bisup::text::ChatMessage> messages;
    const auto reset = [&] {
      messages.clear();
      if (!system.empty()) messages.push_back({"system", system});
    };
    reset();
    Json turns = Json::array();
    while (const auto line = read_line()) {
      if (*line == "/quit") break;
      if (*line == "/reset") {
        reset();
        continue;
      }
      if (line->empty()) continue;
      messages.push_back({"user", *line});
      const auto ids = conversation.ids_of(messages);
      if (!ids) return ids.error();
      const auto answer = conversation.answer(*ids, [this](std::string_view piece) {
        if (common.json) return true;
        fmt::print("{}", piece);
        return std::fflush(stdout) == 0;  // nobody reads it any more
      });
      if (!answer) return answer.error();
      if (std::ferror(stdout) != 0) return {};  // main() says so
      messages.push_back({"assistant", answer->text});
      const Speed& speed = answer->speed;
      if (common.json) {
        turns.push_back({{"user", *line},
                         {"assistant", answer->text},
                         {"finish", name(answer->generation.finish)},
                         {"prompt_tokens", speed.prompt_tokens},
                         {"tokens_per_second", speed.rate()}});
      } else {
        fmt::print("\n");
        std::fflush(stdout);  // before what follows on stderr, which may be the same file
        fmt::print(stderr, "[{}]\n", speed.written());
      }
    }
    if (common.json) {
      Json said = conversation.json();
      said["turns"] = std::move(turns);
      print(said);
    }
    return {};
  }
};

}  // namespace

void add_chat(CLI::App& app, Action& action) {
  const auto options = std::make_shared<ChatCommand>();
  CLI::App* sub = add_subcommand(app, "chat", "Talks with a model, line by line",
                                 "bisup chat model.gguf --system 'You answer in one sentence.'",
                                 options->common);
  sub->add_option("--system", options->system, "the system message");
  options->generate.sampling.temperature = 0.7f;
  options->generate.sampling.top_p = 0.95f;
  options->generate.tokens = 1024;
  add_conversation_options(*sub, *options);
  add_roll_option(*sub, *options);
  sub->callback([options, &action] { action = [options] { return options->run(); }; });
}

}  // namespace command
