// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// The bisup command: quantizes language models, measures them, and lets them talk. docs/command.md
// describes it. Exit status: 0, 1 if something failed, 2 if the command line cannot be understood.

#include <bisup/core/version.hpp>
#include <bisup/kernel/target.hpp>
#include <exception>
#include <string>

#include "command.hpp"
#include "terminal.hpp"

namespace {

constexpr int failed = 1, bad_usage = 2;

int report(const bisup::Error& error) {
  const bool nothing_to_explain = error.code == bisup::Errc::interrupted;
  command::complain(nothing_to_explain ? "stopped" : error.describe());
  const bool usage =
      error.code == bisup::Errc::bad_scheme || error.code == bisup::Errc::unknown_target;
  return usage ? bad_usage : failed;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Quantizes language models of the Llama family, measures them, and lets them talk.\n"
      "MODEL is a Hugging Face folder, a .gguf file, or what `bisup quantize` wrote.",
      "bisup");
  app.set_version_flag("--version", "bisup " BISUP_VERSION_STRING);
  app.require_subcommand(1);
  command::Action action;
  command::add_quantize(app, action);
  command::add_perplexity(app, action);
  command::add_compare(app, action);
  command::add_generate(app, action);
  command::add_chat(app, action);
  command::add_serve(app, action);
  command::add_tokenize(app, action);
  command::add_inspect(app, action);
  command::add_bench(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    command::complain(std::string(error.what()) + " (see bisup --help)");
    return bad_usage;
  }
  if (const auto target = bisup::find_target(); !target) return report(target.error());
  command::catch_interrupts();
  const auto done = action();
  return done ? 0 : report(done.error());
}

}  // namespace

int main(int argc, char** argv) {
  command::settle_streams();
  try {
    const int status = run(argc, argv);
    // A full disk or a closed pipe shows only when the last bytes leave.
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      command::complain("standard output: cannot write");
      return failed;
    }
    return status;
  } catch (const std::bad_alloc&) {
    command::complain("out of memory");
  } catch (const std::exception& error) {
    command::complain(error.what());
  }
  return failed;
}
