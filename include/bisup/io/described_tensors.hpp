// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do the parts of a quantized model come out of a file? DescribedTensors checks tensors against
// what the JSON description says of them and points into the mapped file. Whole models:
// artefact_reader.hpp; single blocks of an unfinished calibration: block_files.hpp.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bisup/cache/prompt_cache.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/artefact.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/json_fields.hpp>
#include <bisup/io/safetensors.hpp>
#include <bisup/llama/model.hpp>
#include <bisup/pack/narrow_panels.hpp>

namespace bisup::io {

namespace detail {

// Tensors of a file together with what a description says of them; every error names the file.
class DescribedTensors {
 public:
  DescribedTensors(std::shared_ptr<const Safetensors> file, const Json& description)
      : file_(std::move(file)), description_(description) {}

  [[nodiscard]] Error error(Errc code, std::string message) const {
    return {code, std::move(message), file_->path()};
  }

  [[nodiscard]] bool is_packed(const std::string& name) const {
    return description_["packed"].contains(name);
  }

  [[nodiscard]] Result<Tensor> tensor(const std::string& name, ElementType type,
                                      const std::vector<std::int64_t>& shape) const {
    auto found = file_->tensor(name);
    if (!found) return found.error();
    if (found->type != type || found->shape != shape) {
      return error(Errc::wrong_shape, "tensor " + in_quotes(name) + " is " +
                                          bisup::io::name(found->type) + " " +
                                          io::describe(found->shape) + ", not " +
                                          bisup::io::name(type) + " " + io::describe(shape));
    }
    if (reinterpret_cast<std::uintptr_t>(found->bytes.data()) % bytes_of(type) != 0) {
      return error(Errc::malformed,
                   "tensor " + in_quotes(name) + " is not aligned to its elements");
    }
    return found;
  }

  [[nodiscard]] std::string text(const std::string& name) const {
    const Tensor* found = file_->find(name);
    if (found == nullptr) return {};
    return {reinterpret_cast<const char*>(found->bytes.data()), found->bytes.size()};
  }

  [[nodiscard]] Result<std::vector<float>> vector(const std::string& name, int size) const {
    const auto found = tensor(name, ElementType::f32, {size});
    if (!found) return found.error();
    const auto* values = reinterpret_cast<const float*>(found->bytes.data());
    return std::vector<float>(values, values + size);
  }

  [[nodiscard]] Result<llama::DenseTensor> dense(const std::string& name, int rows,
                                                 int cols) const {
    const Tensor* any = file_->find(name);
    const auto type = any == nullptr ? std::optional(DType::f32) : dense_type(any->type);
    if (!type) return error(Errc::wrong_shape, "tensor " + in_quotes(name) + " has no float type");
    const auto found = tensor(name, any == nullptr ? ElementType::f32 : any->type, {rows, cols});
    if (!found) return found.error();
    return llama::DenseTensor{{found->bytes.data(), *type, rows, cols}, file_};
  }

  // The stored prompt, or none.
  [[nodiscard]] Result<PromptCache> prompt(const llama::Config& c) const {
    const auto entry = description_.find("prompt");
    if (entry == description_.end()) return PromptCache();
    JsonFields fields(description_, file_->path());
    const std::vector<int> ids = fields.integers("prompt");
    if (fields.error()) return *fields.error();
    if (ids.empty()) return PromptCache();
    for (const int id : ids) {
      if (id < 0 || id >= c.vocab_size)
        return error(Errc::malformed, "has a stored prompt with ids outside the vocabulary");
    }
    const int tokens = static_cast<int>(ids.size()), width = c.kv_heads * c.head_dim;
    const Tensor* first = file_->find(prompt_name(0, "keys"));
    const bool f32 = first != nullptr && first->type == ElementType::f32;
    PromptCache prompt(ids, c.layers, c.kv_heads, c.head_dim, f32 ? DType::f32 : DType::f16);
    for (int layer = 0; layer < c.layers; ++layer) {
      Matrix<float> rows[2];
      for (const int which : {0, 1}) {
        const std::string name = prompt_name(layer, which == 0 ? "keys" : "values");
        if (auto right = tensor(name, f32 ? ElementType::f32 : ElementType::f16, {tokens, width});
            !right) {
          return right.error();
        }
        const auto read = dense(name, tokens, width);
        if (!read) return read.error();
        rows[which] = llama::as_matrix(read->view);
        for (const float x : std::span(rows[which].data(), ids.size() * std::size_t(width))) {
          if (!std::isfinite(x)) return error(Errc::not_finite, "tensor " + in_quotes(name));
        }
      }
      prompt.set(layer, rows[0].ref(), rows[1].ref());
    }
    return prompt;
  }

  // Packed if the description says so, else dense.
  [[nodiscard]] Result<llama::Weights> weights(const std::string& name, int rows, int cols) const {
    const auto entry = description_["packed"].find(name);
    if (entry == description_["packed"].end()) {
      auto read = dense(name + ".weight", rows, cols);
      if (!read) return read.error();
      return llama::Weights(std::move(read).value());
    }
    auto read = packed(name, *entry, rows, cols);
    if (!read) return read.error();
    return llama::Weights(std::move(read).value());
  }

  // `keepers`: how many of the last columns are stored apart.
  [[nodiscard]] Result<llama::AnyLinear> linear(const std::string& name, int rows, int cols,
                                                bool has_bias, int keepers = 0) const {
    std::vector<float> bias;
    // Where the float model has none it may have been learned.
    if (has_bias || file_->find(name + ".bias") != nullptr) {
      auto read = vector(name + ".bias", rows);
      if (!read) return read.error();
      bias = std::move(read).value();
    }
    if (!description_["packed"].contains(name)) keepers = 0;  // dense weights hold them all
    auto body = weights(name, rows, cols - keepers);
    if (!body) return body.error();
    std::optional<AnyPackedTensor> apart;
    if (keepers > 0) {
      auto read = weights(name + ".keepers", rows, keepers);
      if (!read) return read.error();
      if (llama::packed(*read) == nullptr)
        return error(Errc::malformed, "has keepers of " + in_quotes(name) + " that are not packed");
      apart = *llama::packed(*read);
      if (!NarrowPanels::holds(apart->shape()))
        return error(Errc::unsupported, "has keepers of " + in_quotes(name) +
                                            " that are not of 8 bits with one scale a row");
    }
    llama::AnyLinear linear(std::move(body).value(), std::move(bias), std::move(apart));
    if (const auto rank = ranks().find(name); rank != ranks().end()) {
      if (!rank->is_number_integer() || *rank < 1 || *rank > std::min(rows, cols))
        return error(Errc::malformed, "gives " + in_quotes(name) + " an impossible rank");
      auto read = branch(name, rank->get<int>(), rows, cols);
      if (!read) return read.error();
      linear.set_branch(std::move(read).value());
    }
    return linear;
  }

  // Of the linear `name`, in floats or in codes with their scales.
  [[nodiscard]] Result<llama::Branch> branch(const std::string& name, int rank, int rows,
                                             int cols) const {
    const std::string scale = name + ".low_rank_scale";
    const bool coded = file_->find(scale) != nullptr;
    const auto factor = [&](const std::string& which, int size) -> Result<llama::DenseTensor> {
      if (!coded) return dense(which, rank, size);
      const auto found = tensor(which, ElementType::i8, {rank, size});
      if (!found) return found.error();
      return llama::DenseTensor{{found->bytes.data(), DType::i8, rank, size}, file_};
    };
    auto a = factor(name + ".low_rank_a.weight", cols);
    if (!a) return a.error();
    auto b = factor(name + ".low_rank_b.weight", rows);
    if (!b) return b.error();
    llama::Branch read{std::move(a).value(), std::move(b).value()};
    if (coded) {
      auto scales = vector(scale, rank);
      if (!scales) return scales.error();
      read.scale = std::move(scales).value();
      for (const float s : read.scale) {
        if (!std::isfinite(s)) return error(Errc::not_finite, "tensor " + in_quotes(scale));
        if (s < 0) return error(Errc::malformed, "has a negative scale in " + in_quotes(scale));
      }
    }
    return read;
  }

  // `name` is what its tensors are called, "model.layers.0.attention"; `size`: its channels.
  [[nodiscard]] Result<llama::InputForm> input(const std::string& name, const Json& entry, int size,
                                               bool packed_weights) const {
    const auto wrong = [&] {
      return error(Errc::malformed, "describes an input that cannot be: " + name);
    };
    llama::InputForm form;
    if (entry.is_null()) return form;
    if (!entry.is_object()) return wrong();
    const bool rounds = entry.contains("bits") || entry.contains("group") ||
                        entry.contains("token_scales") || entry.contains("clip");
    if (rounds) {
      const auto bits = integer(entry, "bits", 2, 8),
                 group = integer(entry, "group", 0, longest_group);
      const auto token_scales = entry.find("token_scales"), clip = entry.find("clip");
      if (!bits || !group || *group % 32 != 0 || token_scales == entry.end() ||
          !token_scales->is_boolean() || clip == entry.end() || !clip->is_number() ||
          !(clip->get<float>() > 0 && clip->get<float>() <= 1)) {
        return wrong();
      }
      form.format = ActivationFormat{.bits = *bits,
                                     .group = *group,
                                     .token_scales = token_scales->get<bool>(),
                                     .clip = clip->get<float>()};
      form.simulate = !packed_weights;
    }
    if (entry.contains("keepers")) {
      const auto keepers = integer(entry, "keepers", 1, size - 1);
      if (!keepers) return wrong();
      form.keepers = *keepers;
    }
    if (entry.contains("rotation")) {
      const Json& axis = entry["rotation"];
      const auto before = integer(axis, "before", 1, size), order = integer(axis, "order", 1, size),
                 after = integer(axis, "after", 1, size);
      if (!before || !order || !after ||
          std::int64_t{*before} * *order * std::int64_t{*after} != size) {
        return wrong();
      }
      auto rotation = Hadamard::make({*before, *order, *after});
      if (!rotation) return error(rotation.error().code, rotation.error().message);
      form.rotation = std::move(rotation).value();
    }
    if (file_->find(name + ".multiplier") != nullptr) {
      auto read = vector(name + ".multiplier", size);
      if (!read) return read.error();
      form.multiplier = std::move(read).value();
    }
    if (file_->find(name + ".order") != nullptr) {
      auto read = permutation(name + ".order", size);
      if (!read) return read.error();
      form.order = std::move(read).value();
    }
    if (form == llama::InputForm{}) return wrong();  // null says that nothing is done to an input
    return form;
  }

 private:
  [[nodiscard]] static std::optional<int> integer(const Json& entry, const char* key, int low,
                                                  int high) {
    const auto found = entry.is_object() ? entry.find(key) : entry.end();
    if (!entry.is_object() || found == entry.end() || !found->is_number_integer())
      return std::nullopt;
    const auto value = found->get<std::int64_t>();
    if (value < low || value > high) return std::nullopt;
    return static_cast<int>(value);
  }

  [[nodiscard]] const Json& ranks() const {
    static const Json none = Json::object();
    const auto found = description_.find("ranks");
    return found != description_.end() && found->is_object() ? *found : none;
  }

  // Every channel once: a hostile index must not reach beyond a row.
  [[nodiscard]] Result<std::vector<int>> permutation(const std::string& name, int size) const {
    const auto found = tensor(name, ElementType::i32, {size});
    if (!found) return found.error();
    const auto* values = reinterpret_cast<const std::int32_t*>(found->bytes.data());
    std::vector<int> order(values, values + size);
    std::vector<bool> seen(static_cast<std::size_t>(size));
    for (const int channel : order) {
      if (channel < 0 || channel >= size || seen[static_cast<std::size_t>(channel)])
        return error(Errc::malformed, "tensor " + in_quotes(name) + " is not a permutation");
      seen[static_cast<std::size_t>(channel)] = true;
    }
    return order;
  }

  [[nodiscard]] Result<AnyPackedTensor> packed(const std::string& name, const Json& entry, int rows,
                                               int cols) const {
    const auto wrong = [&](const std::string& what) {
      return error(Errc::malformed, "describes " + in_quotes(name) + " with " + what);
    };
    constexpr int most = std::numeric_limits<int>::max();
    const auto stored_rows = integer(entry, "rows", 1, most),
               stored_cols = integer(entry, "cols", 1, most);
    if (!stored_rows || !stored_cols) return wrong("no rows or columns");
    if (*stored_rows != rows || *stored_cols != cols) {
      return error(Errc::wrong_shape, in_quotes(name) + " is packed as [" +
                                          std::to_string(*stored_rows) + ", " +
                                          std::to_string(*stored_cols) + "], the model needs [" +
                                          std::to_string(rows) + ", " + std::to_string(cols) + "]");
    }
    const auto bits = integer(entry, "bits", 2, 8),
               group = integer(entry, "group", 0, longest_group);
    if (!bits || *bits == 7) return wrong("impossible bits");
    if (!group || *group % 32 != 0) return wrong("an impossible group");
    if (entry.value("layout", Json()) != "panel16") {
      return error(Errc::unsupported, in_quotes(name) + " has a layout other than panel16");
    }
    const auto affine = entry.find("affine");
    if (affine == entry.end() || !affine->is_boolean()) return wrong("no zero kind");
    Format format{.bits = *bits,
                  .group = *group,
                  .zero = affine->get<bool>() ? Zero::affine : Zero::symmetric};
    bool known = false;
    for (const Scale scale : {Scale::f32, Scale::f16, Scale::bf16}) {
      if (entry.value("scale", Json()) == scale_name(scale)) format.scale = scale, known = true;
    }
    if (!known) return wrong("an unknown type of scale");

    const PackedShape shape{format, rows, cols};
    const auto scale_count = static_cast<std::int64_t>(shape.scale_count());
    const auto codes =
        tensor(name + ".codes", ElementType::u8, {static_cast<std::int64_t>(shape.code_bytes())});
    if (!codes) return codes.error();
    const auto scales = tensor(name + ".scales", scale_element(format.scale), {scale_count});
    if (!scales) return scales.error();
    const std::uint8_t* zeros = nullptr;
    if (format.affine()) {
      const auto found = tensor(name + ".zeros", ElementType::u8, {scale_count});
      if (!found) return found.error();
      zeros = reinterpret_cast<const std::uint8_t*>(found->bytes.data());
    }
    return AnyPackedTensor(PackedPanels(reinterpret_cast<const std::uint8_t*>(codes->bytes.data()),
                                        scales->bytes.data(), zeros, shape),
                           file_);
  }

  std::shared_ptr<const Safetensors> file_;
  const Json& description_;
};

// Rows and columns of the linears in named_linears' order.
[[nodiscard]] inline std::pair<int, int> linear_shape(const llama::Config& c, std::size_t index) {
  const int attention = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const std::pair<int, int> shapes[] = {{attention, c.hidden_size},
                                        {kv, c.hidden_size},
                                        {kv, c.hidden_size},
                                        {c.hidden_size, attention},
                                        {c.intermediate_size, c.hidden_size},
                                        {c.intermediate_size, c.hidden_size},
                                        {c.hidden_size, c.intermediate_size}};
  return shapes[index];
}

// `inputs`: what the description says of the four inputs of this layer.
[[nodiscard]] inline Result<llama::BlockWeights<llama::AnyLinear>> read_block(
    const DescribedTensors& tensors, const Json& inputs, const llama::Config& c, int layer) {
  llama::BlockWeights<llama::AnyLinear> block;
  for (const auto& [name, form] : llama::named_inputs) {
    if (!inputs.is_object() || !inputs.contains(name))
      return tensors.error(Errc::malformed, "lacks the inputs of a layer");
    for (std::size_t i = 0; i < std::size(llama::named_linears); ++i) {
      const auto& [part, linear, input] = llama::named_linears[i];
      if (input != form) continue;
      const auto [rows, cols] = linear_shape(c, i);
      const std::string linear_name = llama::layer_name(layer, part);
      auto read_input = tensors.input(llama::layer_name(layer, name), inputs[name], cols,
                                      tensors.is_packed(linear_name));
      if (!read_input) return read_input.error();
      auto read =
          tensors.linear(linear_name, rows, cols, llama::has_bias(c, i), read_input->keepers);
      if (!read) return read.error();
      block.*linear = std::move(read).value();
      const auto* packed = (block.*linear).packed();
      if (packed != nullptr && read_input->format &&
          read_input->format->group != packed->format().group) {
        return tensors.error(Errc::malformed,
                             "gives an input other groups than the weights that read it");
      }
      block.inputs.*form = std::move(read_input).value();
    }
  }
  for (const auto& [part, norm, per_head] : llama::named_norms) {
    if (per_head && !c.qk_norm) continue;
    auto read = tensors.vector(llama::layer_name(layer, part) + ".weight",
                               per_head ? c.head_dim : c.hidden_size);
    if (!read) return read.error();
    block.norms.*norm = std::move(read).value();
  }
  return block;
}

}  // namespace detail

}  // namespace bisup::io
