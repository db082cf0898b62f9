// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/gguf.hpp>

#include <string>
#include <vector>

#include <bisup/core/random.hpp>
#include <bisup_test.hpp>

#include "gguf_builder.hpp"
#include "scratch_folder.hpp"

namespace {

using namespace bisup;
using namespace bisup::io;
using Build = GgufBuilder;

GgufBuilder valid() {
  GgufBuilder file;
  file.text("general.architecture", "llama").u32("llama.block_count", 2);
  file.array("tokens", 8, 3, Build::string("a") + Build::string("") + Build::string("\xff\0z"));
  file.tensor("w", {4, 3}, 0, std::string(48, 'w'));
  file.tensor("q", {64, 2}, 2, std::string(72, 'q'));
  return file;
}

Result<Gguf> opened(const ScratchFolder& folder, const std::string& bytes) {
  return Gguf::open(folder.write("m.gguf", bytes));
}

TEST_CASE("every metadata type is read") {
  const ScratchFolder folder;
  GgufBuilder file;
  file.value("u8", 0, Build::raw<std::uint8_t>(200)).value("i8", 1, Build::raw<std::int8_t>(-100));
  file.value("u16", 2, Build::raw<std::uint16_t>(60000));
  file.value("i16", 3, Build::raw<std::int16_t>(-30000));
  file.value("u32", 4, Build::raw(4000000000u)).value("i32", 5, Build::raw(-2000000000));
  file.value("f32", 6, Build::raw(0.5f)).value("bool", 7, Build::raw<std::uint8_t>(1));
  file.value("string", 8, Build::string("text"));
  file.value("u64", 10, Build::raw<std::uint64_t>(1ull << 40));
  file.value("i64", 11, Build::raw<std::int64_t>(-(1ll << 40))).value("f64", 12, Build::raw(0.25));
  file.value("large", 10, Build::raw<std::uint64_t>(1ull << 63));
  file.array("strings", 8, 2, Build::string("one") + Build::string(""));
  file.array("integers", 5, 2, Build::raw(-1) + Build::raw(7));
  file.array("numbers", 6, 2, Build::raw(1.5f) + Build::raw(-2.5f));
  file.array("nothing", 8, 0, "");
  const auto gguf = opened(folder, file.bytes());
  REQUIRE(gguf);
  CHECK(gguf->integer("u8").value() == 200);
  CHECK(gguf->integer("i8").value() == -100);
  CHECK(gguf->integer("u16").value() == 60000);
  CHECK(gguf->integer("i16").value() == -30000);
  CHECK(gguf->integer("u32").value() == 4000000000);
  CHECK(gguf->integer("i32").value() == -2000000000);
  CHECK(gguf->number("f32").value() == 0.5);
  CHECK(gguf->boolean("bool").value());
  CHECK(gguf->string("string").value() == "text");
  CHECK(gguf->integer("u64").value() == 1ll << 40);
  CHECK(gguf->integer("i64").value() == -(1ll << 40));
  CHECK(gguf->number("f64").value() == 0.25);
  CHECK(gguf->number("u8").value() == 200.0);
  CHECK_FALSE(gguf->integer("large"));
  CHECK(gguf->strings("strings").value() == std::vector<std::string_view>{"one", ""});
  CHECK(gguf->integers("integers").value() == std::vector<std::int64_t>{-1, 7});
  CHECK(gguf->numbers("numbers").value() == std::vector<float>{1.5f, -2.5f});
  CHECK(gguf->strings("nothing").value().empty());
  CHECK(gguf->metadata().size() == 17);
}

TEST_CASE("a missing key and a wrong type are different errors, both by name") {
  const ScratchFolder folder;
  const auto gguf = opened(folder, valid().bytes());
  REQUIRE(gguf);
  CHECK(gguf->find("none") == nullptr);
  const auto missing = gguf->string("none");
  REQUIRE_FALSE(missing);
  CHECK(missing.error().describe() == gguf->path() + ": missing: has no metadata 'none'");
  for (const auto& error :
       {gguf->string("llama.block_count").error(), gguf->integer("general.architecture").error(),
        gguf->boolean("llama.block_count").error(), gguf->strings("general.architecture").error(),
        gguf->string("tokens").error(), gguf->numbers("tokens").error(),
        gguf->integers("llama.block_count").error(), gguf->integer("tokens").error()}) {
    CHECK(error.code == Errc::malformed);
    CHECK(error.where == gguf->path());
    CHECK(error.message.find(" is not a") != std::string::npos);
  }
}

TEST_CASE("tensors have their shape turned round and their bytes in place") {
  const ScratchFolder folder;
  const auto gguf = opened(folder, valid().bytes());
  REQUIRE(gguf);
  REQUIRE(gguf->tensors().size() == 2);
  const GgufTensor* w = gguf->find_tensor("w");
  REQUIRE(w != nullptr);
  CHECK(w->shape == std::vector<std::int64_t>{3, 4});
  CHECK((w->rows() == 3 && w->cols() == 4 && w->row_bytes() == 16 && w->bytes.size() == 48));
  const GgufTensor* q = gguf->find_tensor("q");
  REQUIRE(q != nullptr);
  CHECK((q->rows() == 2 && q->cols() == 64 && q->row_bytes() == 36 && q->bytes.size() == 72));
  CHECK(q->bytes[0] == std::byte{'q'});
  CHECK(q->bytes[71] == std::byte{'q'});
  CHECK(gguf->find_tensor("none") == nullptr);
}

TEST_CASE("version 2, other alignments and a file without tensors are read") {
  const ScratchFolder folder;
  auto second = valid();
  second.version = 2;
  CHECK(opened(folder, second.bytes()));
  GgufBuilder wide;
  wide.alignment = 4096;
  wide.u32("general.alignment", 4096).tensor("w", {1}, 0, "1234");
  const auto gguf = opened(folder, wide.bytes());
  REQUIRE(gguf);
  CHECK(gguf->find_tensor("w")->bytes[0] == std::byte{'1'});
  CHECK(opened(folder, GgufBuilder().bytes()));
}

struct HostileGguf {
  const char* what;
  std::string bytes;
  Errc code;
};

std::vector<HostileGguf> hostile_ggufs() {
  const auto malformed = Errc::malformed, truncated = Errc::truncated,
             unsupported = Errc::unsupported;
  const std::uint64_t huge = ~0ull;
  const auto versioned = [](std::uint32_t version) {
    auto file = valid();
    return file.version = version, file.bytes();
  };
  const auto value = [](std::uint32_t type, const std::string& bytes) {
    return GgufBuilder().value("key", type, bytes).bytes();
  };
  const auto array = [](std::uint32_t type, std::uint64_t count, const std::string& bytes) {
    return GgufBuilder().array("key", type, count, bytes).bytes();
  };
  const auto aligned = [](std::uint32_t alignment) {
    return GgufBuilder().u32("general.alignment", alignment).bytes();
  };
  const auto entry = [](const std::string& dims, std::uint32_t type, std::uint64_t offset,
                        std::size_t data = 4096) {
    return GgufBuilder().entry("w", dims, type, offset).data(data).bytes();
  };
  const auto dims = [](std::vector<std::uint64_t> extents) { return Build::dims(extents); };
  auto many_values = valid(), many_tensors = valid();
  many_values.extra_values = huge / 2;
  many_tensors.extra_tensors = huge / 2;
  GgufBuilder twice, tensor_twice, overlap, reordered;
  twice.u32("key", 1).u32("key", 1);
  tensor_twice.tensor("w", {4}, 0, std::string(16, 'w')).tensor("w", {4}, 0, std::string(16, 'w'));
  overlap.entry("a", dims({16}), 0, 0).entry("b", dims({16}), 0, 32).data(128);
  reordered.entry("a", dims({16}), 0, 32).entry("b", dims({9}), 0, 0).data(128);
  return {
      {"an empty file", "", truncated},
      {"three bytes", "GGU", truncated},
      {"the magic alone", "GGUF", truncated},
      {"a version alone", "GGUF" + Build::raw(3u), truncated},
      {"one count of two", "GGUF" + Build::raw(3u) + Build::raw<std::uint64_t>(0), truncated},
      {"the older magic", "ggjt" + versioned(3).substr(4), malformed},
      {"lower case", "gguf" + versioned(3).substr(4), malformed},
      {"a safetensors file", Build::raw<std::uint64_t>(2) + "{}", malformed},
      {"version 0", versioned(0), Errc::unknown_version},
      {"version 1", versioned(1), unsupported},
      {"version 4", versioned(4), Errc::unknown_version},
      {"big-endian", versioned(0x03000000u), unsupported},
      {"more values than the file", many_values.bytes(), truncated},
      {"more tensors than the file", many_tensors.bytes(), malformed},
      {"a value twice", twice.bytes(), malformed},
      {"a tensor twice", tensor_twice.bytes(), malformed},
      {"type 13", value(13, "12345678"), malformed},
      {"type 2^32 - 1", value(~0u, "12345678"), malformed},
      {"a number cut off", value(10, "1234"), truncated},
      {"a string longer than the file", value(8, Build::raw(huge) + "text"), truncated},
      {"a string one byte too long", value(8, Build::raw<std::uint64_t>(5) + "text"), truncated},
      {"a string of 2^63 bytes", value(8, Build::raw(1ull << 63)), truncated},
      {"a boolean that is 2", value(7, "\2"), malformed},
      {"a boolean array with a 7", array(7, 2, std::string("\1\7", 2)), malformed},
      {"an array without a size", value(9, Build::raw(4u)), truncated},
      {"an array of type 13", array(13, 1, "1234"), malformed},
      {"an array of arrays", array(9, 1, Build::raw(4u) + Build::raw<std::uint64_t>(0)),
       unsupported},
      {"2^64 - 1 numbers", array(10, huge, "12345678"), truncated},
      {"2^61 + 1 numbers, whose bytes wrap to 8", array(10, (1ull << 61) + 1, "12345678"),
       truncated},
      {"2^64 - 1 strings", array(8, huge, Build::string("")), truncated},
      {"2^40 booleans", array(7, 1ull << 40, "\1"), truncated},
      {"strings cut off", array(8, 2, Build::string("one")), truncated},
      {"a key longer than the file",
       "GGUF" + Build::raw(3u) + Build::raw<std::uint64_t>(0) + Build::raw<std::uint64_t>(1) +
           Build::raw(huge),
       truncated},
      {"alignment 0", aligned(0), malformed},
      {"alignment 24", aligned(24), malformed},
      {"alignment 2^31", aligned(1u << 31), malformed},
      {"an alignment that is text", GgufBuilder().text("general.alignment", "32").bytes(),
       malformed},
      {"no dimensions", entry(dims({}), 0, 0), malformed},
      {"five dimensions", entry(dims({1, 1, 1, 1, 1}), 0, 0), malformed},
      {"2^32 - 1 dimensions", entry(Build::raw(~0u), 0, 0), malformed},
      {"an extent of 0", entry(dims({4, 0}), 0, 0), malformed},
      {"an extent of 2^64 - 1", entry(dims({huge}), 0, 0), malformed},
      {"an extent of 2^63", entry(dims({1ull << 63}), 0, 0), malformed},
      {"a product that wraps to 0", entry(dims({1ull << 32, 1ull << 32}), 0, 0), malformed},
      {"bytes that wrap to 4", entry(dims({(1ull << 62) + 1}), 0, 0), malformed},
      {"four extents that wrap", entry(dims({65536, 65536, 65536, 65536}), 0, 0), malformed},
      {"type 4, removed long ago", entry(dims({32}), 4, 0), unsupported},
      {"type 1000", entry(dims({32}), 1000, 0), unsupported},
      {"type 2^32 - 1", entry(dims({32}), ~0u, 0), unsupported},
      {"half a block a row", entry(dims({48, 2}), 2, 0), malformed},
      {"half a block of 256", entry(dims({128}), 12, 0), malformed},
      {"an offset between alignments", entry(dims({4}), 0, 16), malformed},
      {"an offset at the end", entry(dims({4}), 0, 4096), truncated},
      {"an offset beyond the end", entry(dims({4}), 0, 1 << 20), truncated},
      {"an offset of 2^64 - 32", entry(dims({16}), 0, huge - 31), truncated},
      {"a tensor larger than the file", entry(dims({1025}), 0, 0), truncated},
      {"a tensor without data", entry(dims({4}), 0, 0, 0), truncated},
      {"a tensor one byte too long", entry(dims({32}), 2, 0, 17), truncated},
      {"an overlap", overlap.bytes(), malformed},
      {"an overlap in reverse order", reordered.bytes(), malformed},
      {"an entry cut off", valid().bytes().substr(0, 180), truncated},
  };
}

TEST_CASE("a hostile gguf file is an error that names it") {
  const ScratchFolder folder;
  const auto files = hostile_ggufs();
  CHECK(files.size() >= 40);
  for (const auto& [what, bytes, code] : files) {
    INFO(what);
    const auto path = folder.write("hostile.gguf", bytes);
    const auto gguf = Gguf::open(path);
    REQUIRE_FALSE(gguf);
    CHECK(name(gguf.error().code) == std::string(name(code)));
    CHECK(gguf.error().where == path.string());
    CHECK_FALSE(gguf.error().message.empty());
    CHECK(gguf.error().message.size() < 500);
  }
}

TEST_CASE("a gguf file cut anywhere is an error") {
  const ScratchFolder folder;
  const std::string whole = valid().bytes();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    INFO("cut to " << size << " of " << whole.size() << " bytes");
    CHECK_FALSE(opened(folder, whole.substr(0, size)));
  }
}

TEST_CASE("flipped bytes never lead outside the gguf file") {
  const ScratchFolder folder;
  const std::string whole = valid().bytes();
  Random random(11);
  int refused = 0;
  for (int round = 0; round < 1500; ++round) {
    std::string bytes = whole;
    for (std::uint32_t flips = 1 + random.below(4); flips > 0; --flips) {
      bytes[random.below(static_cast<std::uint32_t>(bytes.size()))] =
          static_cast<char>(random.bits());
    }
    const auto gguf = opened(folder, bytes);
    refused += !gguf;
    if (!gguf) continue;
    unsigned sum = 0;
    for (const auto& [key, value] : gguf->metadata()) {
      if (const auto strings = value.strings()) {
        for (const auto text : *strings) sum += static_cast<unsigned>(text.size());
      }
      (void)value.string(), (void)value.number(), (void)value.integers();
    }
    for (const auto& [name, tensor] : gguf->tensors()) {
      for (const std::byte byte : tensor.bytes) sum += std::to_integer<unsigned>(byte);
    }
    REQUIRE(sum < 256 * whole.size());
  }
  CHECK(refused > 500);  // over half of the bytes are tables in which most changes are errors
}

}  // namespace
