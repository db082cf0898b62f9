// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// The small random models of tests/oracle/models.json, built again from the formula that models.py
// states, with the logits that transformers computed for them.

#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <bisup/io/hf_config_text.hpp>
#include <bisup/llama/model.hpp>
#include <nlohmann/json.hpp>

namespace bisup::test {

inline nlohmann::json read_json(const std::string& path) {
  std::ifstream file(BISUP_SOURCE_DIR "/" + path);
  return nlohmann::json::parse(file);
}

// splitmix64's finalizer (Vigna, "xorshift*/splitmix", public domain algorithm).
inline std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

class GoldenModel {
 public:
  explicit GoldenModel(const nlohmann::json& golden) {
    const auto config = io::parse_hf_config(golden.at("config").dump(), "models.json");
    if (!config) throw std::runtime_error(config.error().describe());
    config_ = *config;
    const std::uint64_t seed = golden.at("seed");
    std::uint64_t index = 0;
    for (const auto& entry : golden.at("tensors")) {
      const auto shape = entry.at("shape").get<std::vector<int>>();
      Matrix<float> values(shape.size() == 1 ? 1 : shape[0], shape.back());
      const float offset = entry.at("offset"), scale = entry.at("scale");
      std::uint64_t i = 0;
      for (int r = 0; r < values.rows(); ++r) {
        for (int c = 0; c < values.cols(); ++c, ++i) {
          const std::uint64_t h = mix((seed << 48) + (index << 32) + i + 0x9e3779b97f4a7c15ull);
          values(r, c) =
              offset +
              scale * static_cast<float>(static_cast<std::int64_t>(h >> 48) - 32768) / 32768;
        }
      }
      tensors_[entry.at("name")] = llama::dense_tensor(std::move(values));
      ++index;
    }
  }

  [[nodiscard]] const llama::Config& config() const { return config_; }
  [[nodiscard]] bool has(const std::string& name) const { return tensors_.contains(name); }
  [[nodiscard]] Result<llama::DenseTensor> tensor(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return Error{Errc::missing, name};
    return found->second;
  }

 private:
  llama::Config config_;
  std::map<std::string, llama::DenseTensor> tensors_;
};
static_assert(llama::TensorSource<GoldenModel>);

inline llama::Model small_model(const std::string& name = "llama") {
  const auto golden = read_json("tests/oracle/models.json");
  return llama::read_model(GoldenModel(golden.at("models").at(name))).value();
}
// Token ids of its vocabulary, 128, without a pattern that repeats soon.
inline std::vector<int> some_ids(int count) {
  std::vector<int> ids;
  for (int i = 0; i < count; ++i) ids.push_back((i * i + 5 * i) % 128);
  return ids;
}

}  // namespace bisup::test
