// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/io/artefact_writer.hpp>
#include <bisup/llama/model_size.hpp>
#include <filesystem>
#include <memory>

#include "command.hpp"
#include "terminal.hpp"

namespace command {

namespace {

struct QuantizeCommand {
  Common common;
  std::string scheme, method = "rtn", output;

  bisup::Result<void> run() const {
    const Clock clock;
    bisup::ThreadPool pool(common.threads);
    auto file = open_model(common.model, "", pool);
    if (!file) return file.error();
    if (file->model.scheme != bisup::Scheme{}) {
      return bisup::Error{
          bisup::Errc::unsupported,
          "is quantized by " + file->model.scheme.name() + " already; begin with the float model",
          common.model};
    }
    const auto parsed = bisup::Scheme::parse(scheme);
    if (!parsed) return parsed.error();
    Meter meter("quantizing");
    const auto model = bisup::round_to_nearest(file->model, *parsed, pool, std::ref(meter));
    if (!model) return about(model.error(), common.model);
    const bisup::io::Provenance provenance{.recipe = method, .float_weights = file->weights_note};
    if (interrupted()) return bisup::Error{bisup::Errc::interrupted, "stopped"};
    if (auto saved = bisup::io::save_artefact(output, *model, file->tokenizer, provenance);
        !saved) {
      return about(saved.error(), output);
    }
    const auto size = bisup::llama::model_size(*model);
    const auto bytes = std::filesystem::file_size(output);
    if (common.json) {
      print({{"model", common.model},
             {"scheme", parsed->name()},
             {"method", method},
             {"output", output},
             {"bytes", bytes},
             {"bits_per_weight", size.bits_per_weight()},
             {"parameters", size.parameters},
             {"seconds", clock.seconds()}});
      return {};
    }
    fmt::print("{}: {}, {:.3f} bits per weight, {} in {}\n", output, parsed->name(),
               size.bits_per_weight(), command::size(static_cast<double>(bytes)),
               duration(clock.seconds()));
    return {};
  }
};

}  // namespace

void add_quantize(CLI::App& app, Action& action) {
  const auto options = std::make_shared<QuantizeCommand>();
  CLI::App* sub = add_subcommand(
      app, "quantize", "Makes a quantized model of a float one",
      "bisup quantize model.gguf --scheme W4A4KV4-g64 -o small.safetensors", options->common);
  add_scheme_option(*sub, options->scheme,
                    "bits of weights, activations, keys and values: W4A4KV4-g64");
  sub->get_option("--scheme")->required();
  sub->add_option("--method", options->method, "rtn: round to nearest")
      ->check(CLI::IsMember({"rtn"}))
      ->capture_default_str();
  sub->add_option("-o,--output", options->output, "the file to write, .safetensors")->required();
  sub->callback([options, &action] { action = [options] { return options->run(); }; });
}

}  // namespace command
