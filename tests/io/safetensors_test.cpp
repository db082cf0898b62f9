// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/safetensors.hpp>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include <bisup/core/random.hpp>
#include <bisup_test.hpp>

#include "scratch_folder.hpp"

namespace {

using namespace bisup;
using namespace bisup::io;

std::string file_of(const std::string& header, std::size_t payload_bytes) {
  const std::uint64_t size = header.size();
  std::string file(sizeof size, '\0');
  std::memcpy(file.data(), &size, sizeof size);
  file += header;
  for (std::size_t i = 0; i < payload_bytes; ++i) file += static_cast<char>(i);
  return file;
}

// 24 bytes: f32 [2, 2], then f16 [4].
const std::string valid_header =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[4],"data_offsets":[16,24]},)"
    R"("a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})";

TEST_CASE("tensors are views into the mapping, sorted by name") {
  const ScratchFolder folder;
  const auto file = Safetensors::open(folder.write("m.safetensors", file_of(valid_header, 24)));
  REQUIRE(file);
  REQUIRE(file->tensors().size() == 2);
  CHECK(file->tensors()[0].name == "a");
  CHECK(file->metadata().at("format") == "pt");
  const auto b = file->tensor("b");
  REQUIRE(b);
  CHECK(b->type == ElementType::f16);
  CHECK(b->shape == std::vector<std::int64_t>{4});
  CHECK(b->bytes.size() == 8);
  CHECK(b->bytes[0] == std::byte{16});
  CHECK(file->find("c") == nullptr);
  CHECK(file->tensor("c").error().describe() == file->path() + ": missing: has no tensor 'c'");
}

TEST_CASE("every element type is read; scalars and empty tensors are legal") {
  const ScratchFolder folder;
  std::string header = "{";
  std::size_t end = 0;
  for (int i = 0; i <= static_cast<int>(ElementType::boolean); ++i) {
    const auto type = static_cast<ElementType>(i);
    header += std::string("\"") + name(type) + "\":{\"dtype\":\"" + name(type) +
              "\",\"shape\":[],\"data_offsets\":[" + std::to_string(end) + ",";
    end += bytes_of(type);
    header += std::to_string(end) + "]},";
  }
  header += R"("empty":{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]}}   )";
  const auto file = Safetensors::open(folder.write("m.safetensors", file_of(header, end)));
  REQUIRE(file);
  for (const Tensor& tensor : file->tensors()) {
    if (tensor.name == "empty") continue;
    CHECK(tensor.name == name(tensor.type));
    CHECK(tensor.bytes.size() == bytes_of(tensor.type));
  }
  CHECK(file->find("empty")->bytes.empty());
}

TEST_CASE("a file without tensors is a file") {
  const ScratchFolder folder;
  CHECK(Safetensors::open(folder.write("m.safetensors", file_of("{}", 0))));
}

struct HostileSafetensors {
  const char* what;
  std::string bytes;
  Errc code;
};

std::string entry(const std::string& tensor) {
  return "{\"t\":" + tensor + "}";
}
std::string sized(std::uint64_t size, const std::string& rest) {
  std::string file(sizeof size, '\0');
  std::memcpy(file.data(), &size, sizeof size);
  return file + rest;
}

std::vector<HostileSafetensors> hostile_safetensors() {
  const auto malformed = Errc::malformed, truncated = Errc::truncated;
  const auto f32 = [](const std::string& shape, const std::string& offsets) {
    return entry(R"({"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}");
  };
  const auto dtype = [](const std::string& text) {
    return file_of(entry(R"({"dtype":)" + text + R"(,"shape":[4],"data_offsets":[0,4]})"), 4);
  };
  const auto metadata = [](const std::string& text) {
    return file_of(R"({"__metadata__":)" + text + "}", 0);
  };
  const std::string deep(100'000, '[');
  return {
      {"an empty file", "", truncated},
      {"seven bytes", "1234567", truncated},
      {"a header size alone", sized(2, ""), truncated},
      {"a header cut off", sized(100, "{}"), truncated},
      {"a header of 2^64 - 1 bytes", sized(~0ull, "{}"), malformed},
      {"a header of 2^63 bytes", sized(1ull << 63, "{}"), malformed},
      {"a header above the limit", sized(100'000'001, "{}"), malformed},
      {"a header at the limit, absent", sized(100'000'000, "{}"), truncated},
      {"no header", sized(0, ""), malformed},
      {"a page of HTML", "<!DOCTYPE html><html><body>404</body></html>", malformed},
      {"zeros", std::string(64, '\0'), malformed},
      {"a header that is not JSON", file_of("tensors", 0), malformed},
      {"a header with a trailing comma", file_of("{\"a\":{},}", 0), malformed},
      {"a header followed by another", file_of("{}{}", 0), malformed},
      {"a header that is an array", file_of("[]", 0), malformed},
      {"a header that is a string", file_of("\"a\"", 0), malformed},
      {"a header that is null", file_of("null", 0), malformed},
      {"a header with bytes that are not UTF-8", file_of("{\"\xff\":{}}", 0), malformed},
      {"deep nesting", file_of(deep, 0), malformed},
      {"deep nesting in an entry", file_of("{\"t\":{\"shape\":" + deep, 0), malformed},
      {"a tensor twice",
       file_of(R"({"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
               R"("t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
               8),
       malformed},
      {"a property twice",
       file_of(entry(R"({"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]})"), 4),
       malformed},
      {"metadata twice", file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), malformed},
      {"metadata that is a list", metadata("[]"), malformed},
      {"metadata that is null", metadata("null"), malformed},
      {"metadata with a number", metadata(R"({"a":1})"), malformed},
      {"metadata with an object", metadata(R"({"a":{}})"), malformed},
      {"metadata with a key twice", metadata(R"({"a":"1","a":"2"})"), malformed},
      {"an entry that is a list", file_of(entry("[]"), 0), malformed},
      {"an entry that is null", file_of(entry("null"), 0), malformed},
      {"an entry without properties", file_of(entry("{}"), 0), malformed},
      {"no dtype", file_of(entry(R"({"shape":[1],"data_offsets":[0,4]})"), 4), malformed},
      {"no shape", file_of(entry(R"({"dtype":"F32","data_offsets":[0,4]})"), 4), malformed},
      {"no offsets", file_of(entry(R"({"dtype":"F32","shape":[1]})"), 4), malformed},
      {"an unknown property",
       file_of(entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"strides":[1]})"), 4),
       malformed},
      {"a dtype of 8-bit floats", dtype("\"F8_E4M3\""), Errc::unsupported},
      {"a dtype of complex numbers", dtype("\"C64\""), Errc::unsupported},
      {"a dtype in lower case", dtype("\"u8\""), Errc::unsupported},
      {"an empty dtype", dtype("\"\""), Errc::unsupported},
      {"a dtype that is a number", dtype("8"), malformed},
      {"a dtype of a megabyte", dtype("\"" + std::string(1 << 20, 'F') + "\""), Errc::unsupported},
      {"a shape that is a number", file_of(f32("1", "[0,4]"), 4), malformed},
      {"a shape with a negative extent", file_of(f32("[-1]", "[0,4]"), 4), malformed},
      {"a shape with two negative extents", file_of(f32("[-1,-1]", "[0,4]"), 4), malformed},
      {"a shape with a fraction", file_of(f32("[1.0]", "[0,4]"), 4), malformed},
      {"a shape with a string", file_of(f32("[\"1\"]", "[0,4]"), 4), malformed},
      {"a shape with null", file_of(f32("[null]", "[0,4]"), 4), malformed},
      {"a shape with NaN", file_of(f32("[NaN]", "[0,4]"), 4), malformed},
      {"a shape with 1e999", file_of(f32("[1e999]", "[0,4]"), 4), malformed},
      {"a shape with 2^64", file_of(f32("[18446744073709551616]", "[0,4]"), 4), malformed},
      {"a shape with 2^63", file_of(f32("[9223372036854775808]", "[0,4]"), 4), malformed},
      {"a shape whose product wraps to 4 bytes",
       file_of(f32("[4294967296,4294967296,1]", "[0,0]"), 0), malformed},
      {"a shape whose bytes wrap", file_of(f32("[4611686018427387905]", "[0,4]"), 4), malformed},
      {"an overflow that a zero hides", file_of(f32("[4294967296,4294967296,0]", "[0,0]"), 0),
       malformed},
      {"a shape larger than its bytes", file_of(f32("[2]", "[0,4]"), 4), malformed},
      {"a shape smaller than its bytes", file_of(f32("[1]", "[0,8]"), 8), malformed},
      {"an empty tensor with bytes", file_of(f32("[0]", "[0,4]"), 4), malformed},
      {"offsets that are a number", file_of(f32("[1]", "4"), 4), malformed},
      {"one offset", file_of(f32("[1]", "[4]"), 4), malformed},
      {"three offsets", file_of(f32("[1]", "[0,4,8]"), 4), malformed},
      {"negative offsets", file_of(f32("[1]", "[-4,0]"), 4), malformed},
      {"offsets with fractions", file_of(f32("[1]", "[0.0,4.0]"), 4), malformed},
      {"offsets in the wrong order", file_of(f32("[1]", "[4,0]"), 4), malformed},
      {"offsets of 2^63 - 1", file_of(f32("[1]", "[0,9223372036854775807]"), 4), truncated},
      {"a range that wraps around", file_of(f32("[1]", "[18446744073709551612,0]"), 4), malformed},
      {"data cut off by a byte", file_of(valid_header, 23), truncated},
      {"no data", file_of(valid_header, 0), truncated},
      {"a byte too many", file_of(valid_header, 25), malformed},
      {"bytes that belong to no tensor", file_of("{}", 4), malformed},
      {"a hole before the first", file_of(f32("[1]", "[4,8]"), 8), malformed},
      {"a hole between two",
       file_of(R"({"s":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
               R"("t":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})",
               9),
       malformed},
      {"an overlap",
       file_of(R"({"s":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
               R"("t":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
               7),
       malformed},
      {"two tensors on the same bytes",
       file_of(R"({"s":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
               R"("t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
               4),
       malformed},
      {"an empty tensor inside another",
       file_of(R"({"s":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
               R"("t":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
               4),
       malformed},
  };
}

TEST_CASE("a hostile safetensors file is an error that names it") {
  const ScratchFolder folder;
  const auto files = hostile_safetensors();
  CHECK(files.size() >= 40);
  for (const auto& [what, bytes, code] : files) {
    INFO(what);
    const auto path = folder.write("hostile.safetensors", bytes);
    const auto opened = Safetensors::open(path);
    REQUIRE_FALSE(opened);
    CHECK(name(opened.error().code) == std::string(name(code)));
    CHECK(opened.error().where == path.string());
    CHECK_FALSE(opened.error().message.empty());
    CHECK(opened.error().message.size() < 500);
  }
}

TEST_CASE("a safetensors file cut anywhere is an error") {
  const ScratchFolder folder;
  const std::string whole = file_of(valid_header, 24);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    INFO("cut to " << size << " bytes");
    CHECK_FALSE(Safetensors::open(folder.write("cut.safetensors", whole.substr(0, size))));
  }
}

TEST_CASE("flipped bytes never lead outside the safetensors file") {
  const ScratchFolder folder;
  const std::string whole = file_of(valid_header, 24);
  Random random(7);
  int refused = 0;
  for (int round = 0; round < 1500; ++round) {
    std::string bytes = whole;
    for (std::uint32_t flips = 1 + random.below(4); flips > 0; --flips) {
      bytes[random.below(static_cast<std::uint32_t>(bytes.size()))] =
          static_cast<char>(random.bits());
    }
    const auto opened = Safetensors::open(folder.write("flipped.safetensors", bytes));
    refused += !opened;
    if (!opened) continue;
    for (const Tensor& tensor : opened->tensors()) {
      unsigned sum = 0;
      for (const std::byte byte : tensor.bytes) sum += std::to_integer<unsigned>(byte);
      REQUIRE(sum <= 255 * tensor.bytes.size());
    }
  }
  CHECK(refused > 500);  // two thirds of the bytes are a header in which most changes are errors
}

}  // namespace
