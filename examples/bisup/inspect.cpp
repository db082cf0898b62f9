// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <bisup/io/artefact_reader.hpp>
#include <bisup/llama/model_size.hpp>
#include <filesystem>
#include <memory>

#include "command.hpp"
#include "terminal.hpp"

namespace command {

namespace {

namespace llama = bisup::llama;

// "int4 g64 f16", "f32"
std::string format_of(const llama::AnyLinear& linear) {
  if (linear.dense() != nullptr) return bisup::name(linear.dense()->view.type);
  const bisup::Format& format = linear.packed()->format();
  return fmt::format("{}{} {} {}", format.affine() ? "uint" : "int", format.bits,
                     format.group == 0 ? "channel" : fmt::format("g{}", format.group),
                     format.scale == bisup::Scale::f32   ? "f32"
                     : format.scale == bisup::Scale::f16 ? "f16"
                                                         : "bf16");
}

struct InspectCommand {
  Common common;
  bool verify = false;

  static Json tensor(const std::string& name, const llama::AnyLinear& linear) {
    const double weights = static_cast<double>(linear.in()) * linear.out();
    return {{"name", name},
            {"shape", {linear.out(), linear.in()}},
            {"format", format_of(linear)},
            {"bytes", linear.bytes()},
            {"bits_per_weight", 8.0 * static_cast<double>(linear.bytes()) / weights}};
  }
  static Json tensor(const std::string& name, const std::vector<float>& values) {
    return {{"name", name},
            {"shape", {values.size()}},
            {"format", "f32"},
            {"bytes", values.size() * sizeof(float)},
            {"bits_per_weight", 32.0}};
  }

  static Json tensors(const llama::Model& model) {
    Json list = Json::array();
    list.push_back(tensor("model.embed_tokens.weight", llama::AnyLinear(model.embedding)));
    for (std::size_t layer = 0; layer < model.blocks.size(); ++layer) {
      const auto& block = model.blocks[layer];
      const auto name = [layer](const char* part) {
        return llama::layer_name(static_cast<int>(layer), part);
      };
      for (const auto& named : llama::named_linears)
        list.push_back(tensor(name(named.name), block.*named.linear));
      for (const auto& named : llama::named_norms) {
        const auto& norm = block.norms.*named.norm;
        if (!norm.empty()) list.push_back(tensor(name(named.name), norm));
      }
    }
    list.push_back(tensor("model.norm.weight", model.final_norm));
    if (!llama::shares_embedding(model)) list.push_back(tensor("lm_head", model.head));
    return list;
  }

  static std::uintmax_t file_bytes(const std::string& path) {
    if (!std::filesystem::is_directory(path)) return std::filesystem::file_size(path);
    std::uintmax_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      if (entry.path().extension() == ".safetensors") bytes += entry.file_size();
    }
    return bytes;
  }

  // Whether every tensor is as its checksum says; null where the file has none.
  bisup::Result<Json> verified(const bisup::io::ModelFile& file) const {
    if (!verify) return Json(nullptr);
    if (file.kind != "artefact") {
      return bisup::Error{bisup::Errc::unsupported,
                          "has no checksums: only what `bisup quantize` writes has", common.model};
    }
    const auto artefact = bisup::io::load_artefact(common.model);
    if (!artefact) return artefact.error();
    if (auto right = bisup::io::verify_artefact(*artefact); !right)
      return about(right.error(), common.model);
    return Json(true);
  }

  bisup::Result<void> run() const {
    bisup::ThreadPool pool(common.threads);
    const auto file = open_model(common.model, "", pool);
    if (!file) return file.error();
    const auto is_right = verified(*file);
    if (!is_right) return is_right.error();
    const llama::Model& model = file->model;
    const llama::Config& config = model.config;
    const auto size = llama::model_size(model);
    const auto bytes = file_bytes(common.model);
    const double file_bits =
        8.0 * static_cast<double>(bytes) / static_cast<double>(size.parameters);
    const Json list = tensors(model);
    if (common.json) {
      print({{"model", common.model},
             {"kind", file->kind},
             {"architecture", config.architecture},
             {"scheme", model.scheme.name()},
             {"float_weights", file->weights_note},
             {"parameters", size.parameters},
             {"file_bytes", bytes},
             {"model_bytes", size.bytes},
             {"bits_per_weight", size.bits_per_weight()},
             {"file_bits_per_parameter", file_bits},
             {"layers", config.layers},
             {"hidden_size", config.hidden_size},
             {"intermediate_size", config.intermediate_size},
             {"heads", config.heads},
             {"kv_heads", config.kv_heads},
             {"head_dim", config.head_dim},
             {"vocab_size", config.vocab_size},
             {"max_positions", config.max_positions},
             {"verified", *is_right},
             {"tensors", list}});
      return {};
    }
    fmt::print("{}: {}, {}, {:.2f} M parameters, {}\n", common.model, file->kind,
               config.architecture, static_cast<double>(size.parameters) / 1e6,
               model.scheme.name());
    if (!file->weights_note.empty()) fmt::print("float weights: {}\n", file->weights_note);
    fmt::print(
        "{} layers, hidden {}, intermediate {}, {} heads, {} kv heads of {}, vocabulary {}, {} "
        "positions\n",
        config.layers, config.hidden_size, config.intermediate_size, config.heads, config.kv_heads,
        config.head_dim, config.vocab_size, config.max_positions);
    fmt::print("{:<44} {:>14} {:<14} {:>12} {:>7}\n", "tensor", "shape", "format", "bytes", "bits");
    for (const Json& one : list) {
      fmt::print("{:<44} {:>14} {:<14} {:>12} {:>7.3f}\n", one["name"].get<std::string>(),
                 one["shape"].dump(), one["format"].get<std::string>(),
                 one["bytes"].get<std::size_t>(), one["bits_per_weight"].get<double>());
    }
    fmt::print("{:.3f} bits per quantized weight; file: {}, {:.3f} bits per parameter\n",
               size.bits_per_weight(), command::size(static_cast<double>(bytes)), file_bits);
    if (verify) fmt::print("all checksums are right\n");
    return {};
  }
};

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  const auto options = std::make_shared<InspectCommand>();
  CLI::App* sub =
      add_subcommand(app, "inspect", "Lists tensors, formats, bytes and bits per weight",
                     "bisup inspect small.safetensors --verify", options->common);
  sub->add_flag("--verify", options->verify,
                "compare every tensor of an artefact with its checksum");
  sub->callback([options, &action] { action = [options] { return options->run(); }; });
}

}  // namespace command
