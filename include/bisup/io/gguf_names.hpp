// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do a GGUF's names and row order differ from Hugging Face's? By a table of names, and in files
// of architecture llama by the rows of the query and key projections.

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace bisup::io {

// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight"; empty if there is none.
[[nodiscard]] inline std::string gguf_name(std::string_view name) {
  constexpr std::pair<std::string_view, std::string_view> tops[] = {
      {"model.embed_tokens.", "token_embd."},
      {"model.norm.", "output_norm."},
      {"lm_head.", "output."}};
  constexpr std::pair<std::string_view, std::string_view> parts[] = {
      {"input_layernorm.", "attn_norm."},    {"self_attn.q_proj.", "attn_q."},
      {"self_attn.k_proj.", "attn_k."},      {"self_attn.v_proj.", "attn_v."},
      {"self_attn.o_proj.", "attn_output."}, {"self_attn.q_norm.", "attn_q_norm."},
      {"self_attn.k_norm.", "attn_k_norm."}, {"post_attention_layernorm.", "ffn_norm."},
      {"mlp.gate_proj.", "ffn_gate."},       {"mlp.up_proj.", "ffn_up."},
      {"mlp.down_proj.", "ffn_down."}};
  for (const auto& [here, there] : tops) {
    if (name.starts_with(here)) return std::string(there) + std::string(name.substr(here.size()));
  }
  constexpr std::string_view layers = "model.layers.";
  if (!name.starts_with(layers)) return {};
  name.remove_prefix(layers.size());
  const std::size_t dot = name.find('.');
  if (dot == std::string_view::npos) return {};
  const std::string layer(name.substr(0, dot + 1));
  name.remove_prefix(dot + 1);
  for (const auto& [here, there] : parts) {
    if (!name.starts_with(here)) continue;
    return "blk." + layer + std::string(there) + std::string(name.substr(here.size()));
  }
  return {};
}

// A llama GGUF rotates neighbouring rows of a head where Hugging Face (and this library) rotates
// its halves: row i of half h of each head lies at 2 i + h. Returns the file's row of our row.
[[nodiscard]] constexpr int interleaved_row(int row, int head_dim) {
  const int head = row / head_dim, inside = row % head_dim, half = head_dim / 2;
  return head * head_dim + 2 * (inside % half) + inside / half;
}

// Whether the rows of this tensor (by its Hugging Face name) are interleaved in a llama GGUF.
[[nodiscard]] inline bool is_interleaved(std::string_view name) {
  return name.find(".q_proj.") != std::string_view::npos ||
         name.find(".k_proj.") != std::string_view::npos;
}

}  // namespace bisup::io
