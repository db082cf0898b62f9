// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do the parts of a quantized model go into a file? TensorDescriber collects tensors with the
// JSON description and the checksums that described_tensors.hpp reads them by.

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/checksum.hpp>
#include <bisup/io/artefact.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/tensor.hpp>
#include <bisup/llama/model.hpp>

namespace bisup::io {

namespace detail {

inline ElementType element_of(DType type) {
  constexpr ElementType elements[] = {ElementType::f32, ElementType::f16, ElementType::bf16,
                                      ElementType::i8};
  return elements[static_cast<int>(type)];
}

// Collects tensors and their descriptions before anything is written. What it is given must live
// until then.
class TensorDescriber {
 public:
  void dense(const std::string& name, const DenseView& view) {
    add({.name = name,
         .type = element_of(view.type),
         .shape = {view.rows, view.cols},
         .bytes = {static_cast<const std::byte*>(view.data), view.bytes()}});
  }
  void vector(const std::string& name, std::span<const float> values) {
    if (values.empty()) return;
    add({.name = name,
         .type = ElementType::f32,
         .shape = {static_cast<std::int64_t>(values.size())},
         .bytes = std::as_bytes(values)});
  }
  void text(const std::string& name, const std::string& bytes) {
    if (bytes.empty()) return;
    add({.name = name,
         .type = ElementType::u8,
         .shape = {static_cast<std::int64_t>(bytes.size())},
         .bytes = std::as_bytes(std::span(bytes))});
  }
  void weights(const std::string& name, const llama::Weights& weights) {
    if (llama::dense(weights) != nullptr) {
      dense(name + ".weight", llama::dense(weights)->view);
    } else {
      packed(name, llama::packed(weights)->panels());
    }
  }
  void linear(const std::string& name, const llama::AnyLinear& linear) {
    weights(name, linear.weights());
    if (linear.keepers() != nullptr) packed(name + ".keepers", linear.keepers()->panels());
    if (const llama::Branch* branch = linear.branch()) {
      dense(name + ".low_rank_a.weight", branch->a.view);
      dense(name + ".low_rank_b.weight", branch->b.view);
      vector(name + ".low_rank_scale", branch->scale);
      ranks_[name] = branch->rank();
    }
    vector(name + ".bias", linear.bias());
  }
  // The description of the input whose tensors are called `name`.
  [[nodiscard]] Json input(const std::string& name, const llama::InputForm& form) {
    Json entry;
    if (form.format) {
      entry = {{"bits", form.format->bits},
               {"group", form.format->group},
               {"token_scales", form.format->token_scales},
               {"clip", form.format->clip}};
    }
    if (form.keepers > 0) entry["keepers"] = form.keepers;
    if (form.rotates()) {
      const HadamardAxis& axis = form.rotation.axis();
      entry["rotation"] = {{"before", axis.before}, {"order", axis.order}, {"after", axis.after}};
    }
    vector(name + ".multiplier", form.multiplier);
    if (!form.order.empty()) {
      add({.name = name + ".order",
           .type = ElementType::i32,
           .shape = {static_cast<std::int64_t>(form.order.size())},
           .bytes = std::as_bytes(std::span(form.order))});
      if (entry.is_null()) entry = Json::object();
    }
    if (!form.multiplier.empty() && entry.is_null()) entry = Json::object();
    return entry;
  }
  // All of one layer; returns the description of its inputs.
  [[nodiscard]] Json block(int layer, const llama::BlockWeights<llama::AnyLinear>& block) {
    for (const auto& [name, member, input] : llama::named_linears) {
      linear(llama::layer_name(layer, name), block.*member);
    }
    for (const auto& [name, norm, per_head] : llama::named_norms) {
      vector(llama::layer_name(layer, name) + ".weight", block.norms.*norm);
    }
    Json inputs = Json::object();
    for (const auto& [name, form] : llama::named_inputs) {
      inputs[name] = input(llama::layer_name(layer, name), block.inputs.*form);
    }
    return inputs;
  }

  [[nodiscard]] const std::vector<Tensor>& tensors() const { return tensors_; }
  [[nodiscard]] const Json& packed_formats() const { return packed_; }
  [[nodiscard]] const Json& ranks() const { return ranks_; }
  [[nodiscard]] const Json& checksums() const { return checksums_; }

 private:
  void packed(const std::string& name, const PackedPanels& p) {
    const PackedShape& s = p.shape;
    const auto scales = static_cast<std::int64_t>(s.scale_count());
    const auto bytes = [](const void* data, std::size_t size) {
      return std::span(static_cast<const std::byte*>(data), size);
    };
    add({.name = name + ".codes",
         .type = ElementType::u8,
         .shape = {static_cast<std::int64_t>(s.code_bytes())},
         .bytes = bytes(p.codes, s.code_bytes())});
    add({.name = name + ".scales",
         .type = scale_element(s.format.scale),
         .shape = {scales},
         .bytes = bytes(p.scales, s.scale_count() *
                                      static_cast<std::size_t>(bisup::bytes_of(s.format.scale)))});
    if (s.format.affine()) {
      add({.name = name + ".zeros",
           .type = ElementType::u8,
           .shape = {scales},
           .bytes = bytes(p.zeros, s.scale_count())});
    }
    packed_[name] = {{"rows", s.rows},
                     {"cols", s.cols},
                     {"bits", s.format.bits},
                     {"group", s.format.group},
                     {"affine", s.format.affine()},
                     {"scale", scale_name(s.format.scale)},
                     {"layout", "panel16"}};
  }
  void add(Tensor tensor) {
    checksums_[tensor.name] = crc32c(tensor.bytes);
    tensors_.push_back(std::move(tensor));
  }

  std::vector<Tensor> tensors_;
  Json packed_ = Json::object(), ranks_ = Json::object(), checksums_ = Json::object();
};

}  // namespace detail

}  // namespace bisup::io
