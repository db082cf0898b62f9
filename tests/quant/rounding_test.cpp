// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/quant/clip_search.hpp>
#include <bisup/quant/error_report.hpp>
#include <bisup/quant/nearest.hpp>
#include <bisup/quant/rounding.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

Matrix<float> normals(int rows, int cols) {
  Matrix<float> w(rows, cols);
  Random random(static_cast<std::uint64_t>(cols));
  for (int i = 0; i < rows * cols; ++i) w.data()[i] = static_cast<float>(random.normal());
  return w;
}

TEST_CASE("packing the codes gives what quantizing would have given, to the bit") {
  const auto w = normals(21, 172);
  ThreadPool pool(2);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {0, 32, 64, 128}) {
      for (const Zero zero : {Zero::symmetric, Zero::affine}) {
        for (const Scale scale : {Scale::f16, Scale::bf16, Scale::f32}) {
          const Format format{.bits = bits, .group = group, .zero = zero, .scale = scale};
          const auto rounded = round_groups(w.ref(), format, Nearest{}, {}, {}, pool);
          REQUIRE(rounded);
          const auto packed = pack_codes(rounded->weights, pool);
          const auto direct = quantize(w.ref(), format, Nearest{}, pool);
          REQUIRE((packed && direct));
          const auto bytes = [&](const AnyPackedTensor& t) {
            const auto* s = static_cast<const std::uint8_t*>(t.panels().scales);
            std::vector<std::uint8_t> all(t.panels().codes,
                                          t.panels().codes + t.shape().code_bytes());
            all.insert(all.end(), s,
                       s + t.shape().scale_count() * static_cast<std::size_t>(bytes_of(scale)));
            if (format.affine()) {
              all.insert(all.end(), t.panels().zeros, t.panels().zeros + t.shape().scale_count());
            }
            return all;
          };
          REQUIRE(bytes(*packed) == bytes(*direct));
          const PackedPanels& p = packed->panels();
          with_bits(bits, [&]<int Bits>() {
            for (int r = 0; r < 21; ++r) {
              for (int c = 0; c < 172; ++c) {
                const int g = c / p.shape.group_codes();
                REQUIRE(load_code<Bits, panel16>(p.codes + p.shape.tile_offset(r, c), r % 16,
                                                 c % 32) == rounded->weights.codes(r, c));
                REQUIRE(GroupParameters{p.scale(r, g), p.zero(r, g)} ==
                        rounded->weights.parameters(r, g));
              }
            }
          });
        }
      }
    }
  }
}

TEST_CASE("keepers are rounded in their own format, whole row by whole row") {
  auto w = normals(5, 100);
  for (int r = 0; r < 5; ++r) w(r, 99) = 100;  // an outlier that must not touch the others' scales
  const Format format{.bits = 3, .group = 64};
  const auto rounded = round_groups(w.ref(), format, Nearest{}, {}, {.count = 20});
  REQUIRE(rounded);
  CHECK(rounded->weights.cols() == 80);
  CHECK(rounded->keepers.cols() == 20);
  CHECK(rounded->keepers.format == Format{.bits = 8, .group = 0});
  const auto back = decoded(*rounded);
  for (int r = 0; r < 5; ++r) {
    for (int c = 0; c < 100; ++c) {
      const CodeMatrix& part = c < 80 ? rounded->weights : rounded->keepers;
      const GroupParameters& p = part.parameters(r, c < 80 ? c / 64 : 0);
      REQUIRE(std::fabs(w(r, c) - back(r, c)) <= rounding_bound(part.format, p));
      const auto group = c < 64   ? w.row(r).first(64)
                         : c < 80 ? w.row(r).subspan(64, 16)
                                  : w.row(r).last(20);
      REQUIRE(p.scale == fit(part.format, group).scale);
    }
  }
}

TEST_CASE("the report weighs each column's error") {
  const auto w = normals(7, 96);
  std::vector<float> weights;
  for (int c = 0; c < 96; ++c) weights.push_back(static_cast<float>(c % 5));
  const auto rounded = round_groups(w.ref(), Format{.group = 32}, ClipSearch{}, weights);
  REQUIRE(rounded);
  double sum = 0;
  const auto back = decoded(*rounded);
  for (int r = 0; r < 7; ++r) {
    for (int c = 0; c < 96; ++c) {
      const double d = w(r, c) - back(r, c);
      sum += weights[static_cast<std::size_t>(c)] * d * d;
    }
  }
  CHECK(rounded->report.error == Approx(sum).epsilon(1e-12));  // the same terms, summed by rows
  CHECK(rounded->report.nearest_error == rounded->report.error);
  const auto plain = round_groups(w.ref(), Format{.group = 32}, Nearest{}, weights);
  REQUIRE(plain);
  CHECK(rounded->report.error < plain->report.error);  // the weights reach the quantizer
}

TEST_CASE("weights that are not finite, or too large for the scale, are refused with their row") {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30f}) {
    for (const int column : {3, 60}) {
      auto w = normals(9, 64);
      w(7, column) = bad;
      const auto rounded = round_groups(w.ref(), Format{.group = 32}, Nearest{}, {}, {.count = 8});
      REQUIRE_FALSE(rounded);
      CHECK(rounded.error().code == Errc::not_finite);
      CHECK(rounded.error().message.find("row 7") != std::string::npos);
    }
  }
}

TEST_CASE("weights and keepers that do not fit are refused") {
  const auto w = normals(2, 64);
  const std::vector<float> short_weights(63);
  CHECK_THROWS_AS(round_groups(w.ref(), Format{}, Nearest{}, short_weights), ContractViolation);
  CHECK_THROWS_AS(round_groups(w.ref(), Format{}, Nearest{}, {}, {.count = 65}), ContractViolation);
  CHECK_THROWS_AS(round_groups(w.ref(), Format{.bits = 9}), ContractViolation);
  const Matrix<std::uint8_t> codes(2, 64);
  const Matrix<GroupParameters> parameters(2, 2);
  CHECK_THROWS_AS(pack_codes(codes.ref(), parameters.ref(), Format{}), ContractViolation);
  CHECK_FALSE(pack_codes(CodeMatrix(Format{}, 0, 0)));
}

}  // namespace
