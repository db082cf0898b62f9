// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/gguf_blocks.hpp>

#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;
using namespace bisup::io;

struct BlockSample {
  GgmlTypeFacts type;
  std::vector<std::byte> blocks;
  std::vector<float> values;
};

// Made by tests/oracle/gguf_blocks.py.
std::vector<BlockSample> block_samples() {
  std::ifstream file(BISUP_SOURCE_DIR "/tests/oracle/gguf_blocks.bin", std::ios::binary);
  std::vector<BlockSample> read;
  for (std::uint32_t head[3]; file.read(reinterpret_cast<char*>(head), sizeof head);) {
    BlockSample sample{facts(head[0]).value(), std::vector<std::byte>(head[2]),
                       std::vector<float>(head[1])};
    file.read(reinterpret_cast<char*>(sample.blocks.data()), head[2]);
    file.read(reinterpret_cast<char*>(sample.values.data()), head[1] * 4);
    read.push_back(std::move(sample));
  }
  return read;
}

TEST_CASE("every readable type has the values that the gguf package gives") {
  std::set<std::string> seen;
  for (const BlockSample& sample : block_samples()) {
    INFO(sample.type.name);
    seen.insert(sample.type.name);
    REQUIRE(is_readable(sample.type));
    std::vector<float> out(sample.values.size(), -1.0f);
    dequantize(sample.type, sample.blocks, out);
    // Bit for bit: one rounding at most (see the header), so no order of operations can differ.
    CHECK(std::memcmp(out.data(), sample.values.data(), out.size() * sizeof(float)) == 0);
  }
  CHECK(seen == std::set<std::string>{"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
                                      "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"});
}

TEST_CASE("a range of blocks is read as part of the whole") {
  for (const BlockSample& sample : block_samples()) {
    INFO(sample.type.name);
    const auto length = static_cast<std::size_t>(sample.type.block);
    const auto bytes = static_cast<std::size_t>(sample.type.block_bytes);
    std::vector<float> out(length);
    dequantize(sample.type, std::span(sample.blocks).subspan(bytes, bytes), out);
    CHECK(std::memcmp(out.data(), sample.values.data() + length, length * 4) == 0);
  }
}

TEST_CASE("types that are only named are not readable") {
  int named = 0;
  for (const GgmlTypeFacts& type : ggml_types) named += !is_readable(type);
  CHECK(named == static_cast<int>(std::size(ggml_types)) - 13);
  const auto iq4 = facts(20).value();
  CHECK(std::string(iq4.name) == "IQ4_NL");
  std::vector<std::byte> block(18);
  std::vector<float> out(32);
  CHECK_THROWS_AS(dequantize(iq4, block, out), ContractViolation);
  CHECK_THROWS_AS(dequantize(facts(GgmlType::q4_1), block, out), ContractViolation);
}

}  // namespace
