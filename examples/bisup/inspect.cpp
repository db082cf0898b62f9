// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <bisup/cache/kv_pool.hpp>
#include <bisup/io/artefact_reader.hpp>
#include <bisup/llama/model_size.hpp>
#include <bisup/llama/session.hpp>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "command.hpp"
#include "statistics.hpp"
#include "terminal.hpp"
#include "windows.hpp"

namespace command {

namespace {

namespace llama = bisup::llama;

struct InspectCommand {
  Common common;
  KvOptions kv;
  double memory = 0;  // GiB
  bool verify = false, statistics = false;
  std::string text;

  // What the cache costs: a token more in the middle, all of the model's context, and how long a
  // context fits in the given memory (null without).
  static Json cache(const llama::Model& model, const bisup::KvPolicy& policy, double memory) {
    const auto bytes = [&](int capacity) {
      return bisup::KvPool::bytes_for(llama::cache_shape(model, capacity), policy,
                                      model.prompt.tokens());
    };
    const int longest = model.config.max_positions + model.prompt.tokens();
    const auto& c = model.config;
    std::size_t token = 0, exact = 0;
    for (int layer = 0; layer < c.layers; ++layer) {
      for (int head = 0; head < c.kv_heads; ++head) {
        const auto entry = policy.entry(layer, head, c.kv_heads);
        for (const bisup::KvFormat& format : {entry.keys, entry.values}) {
          const bisup::KvPanel panel{format, c.head_dim};
          exact += static_cast<std::size_t>(
              panel.floats() *
              bisup::bytes_of(format.exact() ? bisup::DType::f32 : policy.exact_type));
          token += static_cast<std::size_t>(
              format.exact() ? panel.floats() * static_cast<int>(sizeof(float))
                             : panel.code_bytes() + 2 * panel.parameters() + panel.zero_bytes());
        }
      }
    }
    Json fits = nullptr;
    if (memory > 0) {
      int low = 0, high = longest;
      while (low < high) {
        const int middle = high - (high - low) / 2;
        if (static_cast<double>(bytes(middle)) <= memory * 0x1p30) {
          low = middle;
        } else {
          high = middle - 1;
        }
      }
      fits = low;
    }
    Json json = kv_json(policy);
    json["kv_bytes_per_token"] = static_cast<double>(token) / bisup::kv_panel;
    json["kv_exact_bytes_per_token"] = static_cast<double>(exact) / bisup::kv_panel;
    json["kv_allocated_bytes"] = bytes(longest);
    json["kv_context_in_memory"] = fits;
    return json;
  }

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

  // What is stored and, with a text, what is read, layer by layer.
  bisup::Result<std::vector<LayerStatistics>> layers(const bisup::io::ModelFile& file,
                                                     bisup::ThreadPool& pool) const {
    auto layers = layer_statistics(file.model, pool);
    if (text.empty()) return layers;
    const auto tokenizer = open_tokenizer(file.tokenizer);
    if (!tokenizer) return tokenizer.error();
    const auto ids = read_ids(text, *tokenizer);
    if (!ids) return ids.error();
    Meter meter("windows");
    const auto seen = see_activations(file.model, *ids, layers, pool, std::ref(meter));
    if (!seen) return about(seen.error(), blamed(seen.error(), text, common.model));
    return layers;
  }

  static Json as_json(const std::vector<LayerStatistics>& layers) {
    Json list = Json::array();
    for (const LayerStatistics& layer : layers) {
      Json linears = Json::array(), inputs = Json::array(), heads = Json::array();
      for (const LinearStatistics& l : layer.linears) {
        linears.push_back({{"name", l.name},
                           {"format", l.format},
                           {"bits_per_weight", l.bits_per_weight},
                           {"smallest_scale", l.smallest_scale},
                           {"median_scale", l.median_scale},
                           {"largest_scale", l.largest_scale},
                           {"end_codes", l.end_codes},
                           {"keepers", l.keepers},
                           {"branch_rank", l.branch_rank}});
      }
      for (const InputStatistics& i : layer.inputs) {
        const auto seen = [&](double ActivationStatistics::*number) {
          return i.seen ? Json((*i.seen).*number) : Json(nullptr);
        };
        inputs.push_back({{"name", i.name},
                          {"bits", i.bits},
                          {"clip", i.clip},
                          {"keepers", i.keepers},
                          {"rotation", i.rotation},
                          {"reordered", i.reordered},
                          {"scaled", i.scaled},
                          {"largest", seen(&ActivationStatistics::largest)},
                          {"rms", seen(&ActivationStatistics::rms)},
                          {"kurtosis", seen(&ActivationStatistics::kurtosis)}});
      }
      for (const bisup::KvEntry& head : layer.heads) {
        heads.push_back({{"key_bits", head.keys.bits},
                         {"value_bits", head.values.bits},
                         {"key_clip", head.key_clip.high},
                         {"value_clip", head.value_clip.high}});
      }
      list.push_back(
          {{"layer", layer.layer}, {"linears", linears}, {"inputs", inputs}, {"heads", heads}});
    }
    return list;
  }

  static std::string transform_of(const InputStatistics& input) {
    std::string text = input.rotation.empty() ? "" : "rotated " + input.rotation;
    if (input.reordered) text += text.empty() ? "reordered" : ", reordered";
    if (input.scaled) text += text.empty() ? "scaled" : ", scaled";
    return text.empty() ? "-" : text;
  }

  static void print_layer(const LayerStatistics& layer) {
    fmt::print("\nlayer {}\n{:<18} {:<14} {:>7} {:>10} {:>10} {:>10} {:>8} {:>7}\n", layer.layer,
               "linear", "format", "bits", "least", "median", "largest", "at ends", "keepers");
    for (const LinearStatistics& l : layer.linears) {
      fmt::print("{:<18} {:<14} {:>7.3f} {:>10.3g} {:>10.3g} {:>10.3g} {:>6.2f} % {:>7}\n", l.name,
                 l.format, l.bits_per_weight, l.smallest_scale, l.median_scale, l.largest_scale,
                 100 * l.end_codes, l.keepers);
    }
    const bool seen = layer.inputs.front().seen.has_value();
    fmt::print("{:<18} {:>4} {:>5} {:>7} {:<20}{}\n", "input", "bits", "clip", "keepers",
               "transform", seen ? "    largest        rms   kurtosis" : "");
    for (const InputStatistics& i : layer.inputs) {
      fmt::print("{:<18} {:>4} {:>5.2f} {:>7} {:<20}", i.name, i.bits, i.clip, i.keepers,
                 transform_of(i));
      if (i.seen)
        fmt::print(" {:>10.4g} {:>10.4g} {:>10.4g}", i.seen->largest, i.seen->rms,
                   i.seen->kurtosis);
      fmt::print("\n");
    }
    for (std::size_t head = 0; head < layer.heads.size(); ++head) {
      const bisup::KvEntry& entry = layer.heads[head];
      if (head > 0 && entry == layer.heads[head - 1]) continue;
      fmt::print("cache, from head {}: keys {} bits, clip {:.2f}; values {} bits, clip {:.2f}\n",
                 head, entry.keys.bits, entry.key_clip.high, entry.values.bits,
                 entry.value_clip.high);
    }
  }

  bisup::Result<void> run() const {
    bisup::ThreadPool pool(common.threads);
    const auto file = open_model(common.model, "", pool);
    if (!file) return file.error();
    const auto is_right = verified(*file);
    if (!is_right) return is_right.error();
    std::vector<LayerStatistics> layers;
    if (statistics) {
      auto found = this->layers(*file, pool);
      if (!found) return found.error();
      layers = std::move(found).value();
    }
    const llama::Model& model = file->model;
    const llama::Config& config = model.config;
    const auto size = llama::model_size(model);
    const auto bytes = file_bytes(common.model);
    const double file_bits =
        8.0 * static_cast<double>(bytes) / static_cast<double>(size.parameters);
    const auto policy = kv_policy(model, kv);
    if (!policy) return about(policy.error(), common.model);
    const Json cached = cache(model, *policy, memory);
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
             {"prompt_tokens", model.prompt.tokens()},
             {"prompt_bytes", model.prompt.bytes()},
             {"kv", cached["kv"]},
             {"kv_sinks", cached["kv_sinks"]},
             {"kv_recent", cached["kv_recent"]},
             {"kv_bytes_per_token", cached["kv_bytes_per_token"]},
             {"kv_exact_bytes_per_token", cached["kv_exact_bytes_per_token"]},
             {"kv_allocated_bytes", cached["kv_allocated_bytes"]},
             {"kv_context_in_memory", cached["kv_context_in_memory"]},
             {"verified", *is_right},
             {"tensors", list},
             {"rotates_keys", model.kv.rotate_keys},
             {"rotates_values", model.kv.rotate_values},
             {"statistics", statistics ? as_json(layers) : Json(nullptr)}});
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
    fmt::print("cache: {}, {} sinks, {} recent, {:.0f} bytes a token; {} for {} positions\n",
               cached["kv"].get<std::string>(), policy->sinks, policy->recent,
               cached["kv_bytes_per_token"].get<double>(),
               command::size(cached["kv_allocated_bytes"].get<double>()),
               config.max_positions + model.prompt.tokens());
    if (!model.prompt.empty()) {
      fmt::print("stored prompt: {} tokens, {}\n", model.prompt.tokens(),
                 command::size(static_cast<double>(model.prompt.bytes())));
    }
    if (memory > 0) {
      fmt::print("{:g} GiB hold a context of {} tokens\n", memory,
                 cached["kv_context_in_memory"].get<int>());
    }
    if (verify) fmt::print("all checksums are right\n");
    for (const LayerStatistics& layer : layers) print_layer(layer);
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
  add_kv_options(*sub, options->kv);
  sub->add_option("--memory", options->memory, "GiB: how long a context do they hold?")
      ->check(CLI::PositiveNumber);
  auto* statistics = sub->add_flag("--statistics", options->statistics,
                                   "scales, codes, clips and transforms of every layer");
  sub->add_option("--text", options->text, "also what the linears read in this text")
      ->needs(statistics);
  sub->callback([options, &action] { action = [options] { return options->run(); }; });
}

}  // namespace command
