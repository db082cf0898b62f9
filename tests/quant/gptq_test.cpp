// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bisup/core/random.hpp>
#include <bisup/quant/clip_search.hpp>
#include <bisup/quant/gptq.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <bisup_test.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

// X^T X for inputs that share a few directions and differ in size, as activations do.
Matrix<float> moments(int n, int tokens, std::uint64_t seed) {
  const auto own = test::normals(tokens, n, seed), shared = test::normals(tokens, 4, seed + 1),
             mix = test::normals(4, n, seed + 2), size = test::normals(1, n, seed + 3);
  Matrix<float> x(tokens, n), h(n, n);
  for (int t = 0; t < tokens; ++t) {
    for (int c = 0; c < n; ++c) {
      float sum = own(t, c);
      for (int k = 0; k < 4; ++k) sum += shared(t, k) * mix(k, c);
      x(t, c) = sum * std::exp(0.5f * size(0, c));
    }
  }
  for (int r = 0; r < n; ++r) {
    for (int c = 0; c < n; ++c) {
      double sum = 0;
      for (int t = 0; t < tokens; ++t) sum += double{x(t, std::min(r, c))} * x(t, std::max(r, c));
      h(r, c) = static_cast<float>(sum);
    }
  }
  return h;
}

// e H e^T, and the sum of the magnitudes of its terms.
struct RowError {
  double value = 0, magnitude = 0;
};
RowError row_error(const Matrix<float>& w, const Matrix<float>& back, const Matrix<float>& h,
                   int r) {
  RowError sum;
  for (int i = 0; i < w.cols(); ++i) {
    for (int j = 0; j < w.cols(); ++j) {
      const double term = (double{w(r, i)} - back(r, i)) * h(i, j) * (double{w(r, j)} - back(r, j));
      sum.value += term, sum.magnitude += std::fabs(term);
    }
  }
  return sum;
}

// The textbook in double, without blocks: invert the damped H, factor the inverse, and walk.
struct Textbook {
  Matrix<double> u;
  explicit Textbook(const Matrix<float>& h, double damping = 0.01) : u(h.rows(), h.rows()) {
    const int n = h.rows();
    Matrix<double> a(n, n), inverse(n, n);
    double mean = 0;
    for (int i = 0; i < n; ++i) mean += double{h(i, i)} / n;
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) a(i, j) = h(i, j) + (i == j ? damping * mean : 0);
      inverse(i, i) = 1;
    }
    for (int p = 0; p < n; ++p) {  // Gauss and Jordan
      const double pivot = a(p, p);
      for (int j = 0; j < n; ++j) a(p, j) /= pivot, inverse(p, j) /= pivot;
      for (int i = 0; i < n; ++i) {
        const double factor = a(i, p);
        if (i == p || factor == 0) continue;
        for (int j = 0; j < n; ++j) {
          a(i, j) -= factor * a(p, j), inverse(i, j) -= factor * inverse(p, j);
        }
      }
    }
    for (int i = 0; i < n; ++i) {  // inverse = U^T U by rows
      for (int j = i; j < n; ++j) {
        double sum = inverse(i, j);
        for (int k = 0; k < i; ++k) sum -= u(k, i) * u(k, j);
        u(i, j) = i == j ? std::sqrt(sum) : sum / u(i, i);
      }
    }
  }

  struct Row {
    std::vector<int> codes;
    double margin = 0.5;  // the smallest distance, in steps, of a value from where its code changes
  };
  // groups: parameters of each column if they are fixed, else found on the way.
  template <class Q>
  Row round(std::vector<double> w, const Format& format, int cols, const Q& quantizer,
            std::vector<GroupParameters> fixed, const std::vector<float>& importance) const {
    Row row;
    const int width = format.group == 0 ? cols : format.group;
    GroupParameters p;
    for (int i = 0; i < cols; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (!fixed.empty()) {
        p = fixed[at];
      } else if (i % width == 0) {
        const auto count = static_cast<std::size_t>(std::min(width, cols - i));
        const std::vector<float> x(w.begin() + i, w.begin() + i + static_cast<int>(count));
        std::vector<std::uint8_t> codes(count);
        p = quantize_group(quantizer, format, x, std::span(importance).subspan(at, count), codes);
      }
      const double level = w[at] / p.scale;
      row.codes.push_back(encode(format, static_cast<float>(w[at]), 1.0f / p.scale, p.zero));
      row.margin = std::min(row.margin, std::fabs(level - std::floor(level) - 0.5));
      const double error = (w[at] - decode(row.codes.back(), p)) / u(i, i);
      for (int j = i; j < u.cols(); ++j) w[static_cast<std::size_t>(j)] -= error * u(i, j);
    }
    return row;
  }
};

// Which rows can be compared: a value near the place where codes change may fall to either side in
// floats, and from there on the row goes its own way. A filter, not a tolerance: a hundred
// roundings of 2^-24 on numbers of tens of steps come to 2e-4 of one, and ten times that is set
// aside.
constexpr double clear_of_ties = 2e-3;

TEST_CASE("two columns by hand") {
  ThreadPool pool(1);
  Matrix<float> h(2, 2), w(1, 2);
  h(0, 0) = h(1, 1) = 2, h(0, 1) = h(1, 0) = 1;
  w(0, 0) = 0.4f, w(0, 1) = 1.4f;
  Matrix<GroupParameters> one(1, 1);
  one(0, 0) = {1.0f, 8};
  // 0.4 becomes 0; its error moves the other by 0.4 h01 / h11 = 0.2 to 1.6, which becomes 2.
  const GptqOptions options{.format = {.group = 0}, .damping = 0, .parameters = one.ref()};
  const auto rounded = gptq(w.ref(), h.ref(), options, Nearest{}, pool);
  REQUIRE(rounded);
  CHECK(rounded->weights.codes(0, 0) == 8);
  CHECK(rounded->weights.codes(0, 1) == 10);
  // e = (0.4, -0.6): 2 .16 + 2 .36 - 2 .24; plainly e = (0.4, 0.4): 3 times 0.32. Eight roundings.
  CHECK(rounded->report.error == Approx(0.56).epsilon(8 * 0x1p-22));
  CHECK(rounded->report.nearest_error == Approx(0.96).epsilon(8 * 0x1p-22));
  CHECK(rounded->report.nearest_rows == 0);
  // Keep the second column: it takes up the error and is off by its own rounding alone.
  auto keep = options;
  keep.keepers.count = 1;
  const auto kept = gptq(w.ref(), h.ref(), keep, Nearest{}, pool);
  REQUIRE(kept);
  CHECK(kept->keepers.value(0, 0) == Approx(1.6).margin(0.5 * 1.6 / 127));
}

TEST_CASE("codes are those of the textbook, in double and without blocks") {
  ThreadPool pool(2);
  constexpr int rows = 24;
  for (const int n : {50, 96, 120}) {
    for (const int group : {0, 32, 64}) {
      for (const bool fixed : {false, true}) {
        for (const bool act_order : {false, true}) {
          for (const int keepers : {0, 10}) {
            for (const int block : {32, 40, 128}) {
              if (act_order && !fixed && group != 0) continue;
              CAPTURE(n, group, fixed, act_order, keepers, block);
              const Format format{.bits = 3, .group = group, .scale = Scale::f32};
              const auto h = moments(n, 4 * n, 1), w = test::normals(rows, n, 5);
              const int cols = n - keepers;
              std::vector<int> order(static_cast<std::size_t>(n));
              std::iota(order.begin(), order.end(), 0);
              if (act_order) {
                std::sort(order.begin(), order.begin() + cols,
                          [&](int a, int b) { return h(a, a) > h(b, b); });
              }
              Matrix<float> sorted(n, n);
              std::vector<float> importance;
              for (int i = 0; i < n; ++i) {
                importance.push_back(h(i, i));
                for (int j = 0; j < n; ++j) {
                  sorted(i, j) =
                      h(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(j)]);
                }
              }
              const Textbook textbook(sorted);
              const auto rounded = gptq(w.ref(), h.ref(),
                                        {.format = format,
                                         .static_groups = fixed,
                                         .act_order = act_order,
                                         .block = block,
                                         .keepers = {.count = keepers}},
                                        ClipSearch{}, pool);
              const auto plain =
                  round_groups(w.ref(), format, ClipSearch{}, importance, {.count = keepers}, pool);
              REQUIRE((rounded && plain));
              const auto back = decoded(*rounded), plain_back = decoded(*plain);
              int compared = 0;
              for (int r = 0; r < rows; ++r) {
                std::vector<double> x;
                std::vector<GroupParameters> parameters;
                for (int i = 0; i < n; ++i) {
                  const int c = order[static_cast<std::size_t>(i)];
                  x.push_back(w(r, c));
                  if ((fixed || group == 0) && i < cols) {
                    parameters.push_back(
                        plain->weights.parameters(r, c / plain->weights.group_width()));
                  }
                }
                const auto row =
                    textbook.round(x, format, cols, ClipSearch{}, parameters, importance);
                if (row.margin < clear_of_ties) continue;
                if (row_error(w, back, h, r).value >= row_error(w, plain_back, h, r).value)
                  continue;
                ++compared;
                for (int i = 0; i < cols; ++i) {
                  REQUIRE(rounded->weights.codes(r, order[static_cast<std::size_t>(i)]) ==
                          row.codes[static_cast<std::size_t>(i)]);
                }
              }
              REQUIRE(compared > rows / 4);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a law: no row is further from its weights in the H-norm than plain rounding") {
  ThreadPool pool(2);
  const int n = 100, rows = 40;
  const auto h = moments(n, 300, 7), w = test::normals(rows, n, 8);
  std::vector<float> importance;
  for (int j = 0; j < n; ++j) importance.push_back(h(j, j));
  for (const int bits : {2, 3, 4, 8}) {
    for (const Zero zero : {Zero::symmetric, Zero::affine}) {
      for (const int keepers : {0, 16}) {
        CAPTURE(bits, zero == Zero::affine, keepers);
        const Format format{.bits = bits, .group = 32, .zero = zero};
        const auto made = gptq(w.ref(), h.ref(), {.format = format, .keepers = {.count = keepers}},
                               ClipSearch{}, pool);
        const auto plain =
            round_groups(w.ref(), format, ClipSearch{}, importance, {.count = keepers}, pool);
        REQUIRE((made && plain));
        const auto back = decoded(*made), plain_back = decoded(*plain);
        double error = 0, plain_error = 0, error_bound = 0, plain_bound = 0;
        for (int r = 0; r < rows; ++r) {
          // The engine compares sums in floats: two roundings of e and n of the product with H.
          const double roundings = (n + 2) * 0x1p-24 * 1.001;
          const auto [e, e_terms] = row_error(w, back, h, r);
          const auto [p, p_terms] = row_error(w, plain_back, h, r);
          REQUIRE(e - roundings * e_terms <= p + roundings * p_terms);
          error += e, plain_error += p;
          error_bound += roundings * e_terms, plain_bound += roundings * p_terms;
        }
        CHECK(std::fabs(made->report.error - error) <= error_bound);
        CHECK(std::fabs(made->report.nearest_error - plain_error) <= plain_bound);
        CHECK(made->report.nearest_rows < rows);
        CHECK(error < 0.9 * plain_error);  // inputs that share directions: worth the walk
        CHECK_FALSE(made->report.fell_back);
      }
    }
  }
}

TEST_CASE("with a diagonal H there is nothing to make up for") {
  ThreadPool pool(1);
  const auto w = test::normals(9, 150, 3);
  Matrix<float> h(150, 150);
  std::vector<float> importance;
  for (int j = 0; j < 150; ++j) importance.push_back(h(j, j) = 0.5f + static_cast<float>(j % 7));
  for (const bool act_order : {false, true}) {
    const Format format{.bits = 3, .group = 64};
    const auto made = gptq(w.ref(), h.ref(),
                           {.format = format, .static_groups = act_order, .act_order = act_order},
                           ClipSearch{}, pool);
    const auto plain = round_groups(w.ref(), format, ClipSearch{}, importance, {}, pool);
    REQUIRE((made && plain));
    CHECK(made->report.nearest_rows == 0);
    for (int r = 0; r < 9; ++r) {
      for (int c = 0; c < 150; ++c) {
        REQUIRE(made->weights.codes(r, c) == plain->weights.codes(r, c));
        REQUIRE(made->weights.value(r, c) == plain->weights.value(r, c));
      }
    }
  }
}

TEST_CASE("act-order is permuting rows of H and columns by hand") {
  ThreadPool pool(1);
  const int n = 70;
  const auto h = moments(n, 200, 4), w = test::normals(11, n, 9);
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return h(a, a) > h(b, b); });
  Matrix<float> sorted_h(n, n), sorted_w(11, n);
  for (int i = 0; i < n; ++i) {
    const int from = order[static_cast<std::size_t>(i)];
    for (int j = 0; j < n; ++j) sorted_h(i, j) = h(from, order[static_cast<std::size_t>(j)]);
    for (int r = 0; r < 11; ++r) sorted_w(r, i) = w(r, from);
  }
  GptqOptions options{.format = {.bits = 3, .group = 0}};
  const auto by_hand = gptq(sorted_w.ref(), sorted_h.ref(), options, Nearest{}, pool);
  options.act_order = true;
  const auto ordered = gptq(w.ref(), h.ref(), options, Nearest{}, pool);
  REQUIRE((by_hand && ordered));
  for (int r = 0; r < 11; ++r) {
    for (int i = 0; i < n; ++i) {
      REQUIRE(ordered->weights.codes(r, order[static_cast<std::size_t>(i)]) ==
              by_hand->weights.codes(r, i));
    }
  }
}

TEST_CASE("dead columns become zero and disturb nobody") {
  ThreadPool pool(1);
  const int n = 60, live = n / 2;  // every other column is dead
  auto h = moments(n, 300, 2), w = test::normals(6, n, 3);
  Matrix<float> rest_h(live, live), rest_w(6, live);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      if (i % 2 == 1 || j % 2 == 1) {
        h(i, j) = 0;
      } else {
        rest_h(i / 2, j / 2) = h(i, j);
      }
    }
    for (int r = 0; r < 6; ++r) {
      if (i % 2 == 1) {
        w(r, i) = 50;
      } else {
        rest_w(r, i / 2) = w(r, i);
      }
    }
  }
  // The mean diagonal that damps the live columns is theirs alone.
  const GptqOptions options{.format = {.group = 0}, .damping = 0.3};
  const auto among = gptq(w.ref(), h.ref(), options, Nearest{}, pool);
  const auto alone = gptq(rest_w.ref(), rest_h.ref(), options, Nearest{}, pool);
  REQUIRE((among && alone));
  CHECK(among->report.dead_columns == live);
  CHECK(alone->report.dead_columns == 0);
  CHECK(among->report.damping == Approx(0.3));
  for (int r = 0; r < 6; ++r) {
    REQUIRE(among->weights.parameters(r, 0) == alone->weights.parameters(r, 0));
    for (int i = 0; i < live; ++i) {
      REQUIRE(among->weights.codes(r, 2 * i) == alone->weights.codes(r, i));
      REQUIRE(among->weights.value(r, 2 * i + 1) == 0);
    }
  }
}

TEST_CASE("damping grows until H can be factored, and without success all is rounded plainly") {
  ThreadPool pool(1);
  const int n = 80;
  const auto w = test::normals(5, n, 3);
  const GptqOptions options{.format = {.group = 32}};
  const auto h = moments(n, 10, 6);  // rank 10
  const auto made = gptq(w.ref(), h.ref(), options, Nearest{}, pool);
  REQUIRE(made);
  CHECK_FALSE(made->report.fell_back);
  CHECK(made->report.error < made->report.nearest_error);
  // Not even damping of 0.1 outweighs an eigenvalue of -0.5.
  Matrix<float> bad(n, n);
  for (int j = 0; j < n; ++j) bad(j, j) = 1;
  bad(0, 1) = bad(1, 0) = 1.5f;
  const auto grown = gptq(w.ref(), bad.ref(), options, Nearest{}, pool);
  REQUIRE(grown);
  CHECK(grown->report.damping == 1);
  CHECK_FALSE(grown->report.fell_back);
  bad(0, 1) = bad(1, 0) = 4;  // -3
  const auto plain = gptq(w.ref(), bad.ref(), options, Nearest{}, pool);
  REQUIRE(plain);
  CHECK(plain->report.fell_back);
  CHECK(plain->report.nearest_rows == 5);
  const auto nearest = round_groups(w.ref(), options.format);
  REQUIRE(nearest);
  for (int i = 0; i < 5 * n; ++i) {
    REQUIRE(plain->weights.codes.data()[i] == nearest->weights.codes.data()[i]);
  }
  const Matrix<float> nothing(n, n);
  const auto dead = gptq(w.ref(), nothing.ref(), options, Nearest{}, pool);
  REQUIRE(dead);
  CHECK(dead->report.dead_columns == n);
  CHECK(dead->weights.value(4, 7) == 0);
}

TEST_CASE("the number of threads does not change a bit") {
  const int n = 330, rows = 70;
  const auto h = moments(n, 400, 1), w = test::normals(rows, n, 2);
  std::vector<Rounding> all;
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    auto made = gptq(w.ref(), h.ref(), {.format = {.bits = 3}, .keepers = {.count = 20}},
                     ClipSearch{}, pool);
    REQUIRE(made);
    all.push_back(std::move(made).value());
  }
  for (std::size_t t = 1; t < 3; ++t) {
    REQUIRE(all[t].report.error == all[0].report.error);
    for (int r = 0; r < rows; ++r) {
      REQUIRE(std::ranges::equal(all[t].weights.codes.row(r), all[0].weights.codes.row(r)));
      REQUIRE(
          std::ranges::equal(all[t].weights.parameters.row(r), all[0].weights.parameters.row(r)));
      REQUIRE(std::ranges::equal(all[t].keepers.codes.row(r), all[0].keepers.codes.row(r)));
    }
  }
}

TEST_CASE("what GPTQ cannot work with is refused") {
  ThreadPool pool(1);
  const auto w = test::normals(3, 64, 1), h = moments(64, 100, 1);
  const GptqOptions options{.format = {.group = 32}};
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto broken_w = w.clone(), broken_h = h.clone();
    broken_w(2, 9) = bad, broken_h(50, 3) = bad;
    const auto by_weights = gptq(broken_w.ref(), h.ref(), options, Nearest{}, pool);
    const auto by_moments = gptq(w.ref(), broken_h.ref(), options, Nearest{}, pool);
    REQUIRE_FALSE(by_weights);
    REQUIRE_FALSE(by_moments);
    CHECK(by_weights.error().code == Errc::not_finite);
    CHECK(by_moments.error().message.find("row 50 of the second moments") != std::string::npos);
  }
  auto large = w.clone();
  large(1, 1) = 1e30f;
  CHECK_FALSE(gptq(large.ref(), h.ref(), options, Nearest{}, pool));
  auto wrong = options;
  wrong.act_order = true;  // groups found on the way need the columns' own order
  CHECK_THROWS_AS(gptq(w.ref(), h.ref(), wrong, Nearest{}, pool), ContractViolation);
  wrong = options, wrong.keepers.count = 65;
  CHECK_THROWS_AS(gptq(w.ref(), h.ref(), wrong, Nearest{}, pool), ContractViolation);
  const Matrix<GroupParameters> parameters(3, 1);
  wrong = options, wrong.parameters = parameters.ref();
  CHECK_THROWS_AS(gptq(w.ref(), h.ref(), wrong, Nearest{}, pool), ContractViolation);
  CHECK_THROWS_AS(gptq(w.ref(), h.ref().rows(0, 63), options, Nearest{}, pool), ContractViolation);
}

}  // namespace
