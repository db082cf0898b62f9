// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// In what form does an input reach the linears that share it? Rotated, scaled and reordered as the
// weights were, then as floats, as integers with scales, or as floats that were rounded like those
// integers (the simulation). Prepared once, read by each.

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/few_rows.hpp>
#include <bisup/ops/quantize_activation.hpp>
#include <bisup/ops/row_tasks.hpp>
#include <bisup/pack/activation.hpp>
#include <bisup/pack/word_rows.hpp>
#include <bisup/quant/fake_quant.hpp>
#include <bisup/transform/hadamard.hpp>

namespace bisup::llama {

// How one of a block's four inputs is prepared, in this order. The weights that read it are
// transformed alike, so the first three change no result.
struct InputForm {
  std::optional<ActivationFormat> format;  // none: floats as they are
  bool simulate = false;                   // round, but stay float: for weights that are dense
  Hadamard rotation{};                     // of [in]; the identity unless it was made
  std::vector<int> order{};         // [in]: prepared channel j is channel order[j]; empty: as is
  std::vector<float> multiplier{};  // [in]: of prepared channels; empty: ones
  int keepers = 0;                  // the last channels are rounded to 8 bits, one scale a token
  friend bool operator==(const InputForm&, const InputForm&) = default;

  [[nodiscard]] bool transforms() const {
    return rotates() || !multiplier.empty() || !order.empty();
  }
  [[nodiscard]] bool rotates() const { return rotation.axis().order > 1; }
  // What is stored for it.
  [[nodiscard]] std::size_t bytes() const {
    return multiplier.size() * sizeof(float) + order.size() * sizeof(int);
  }
};

class Activation {
 public:
  // x: [tokens, in]; it must outlive the use of values() and exact().
  void prepare(MatrixRef<const float> x, const InputForm& form, ThreadPool& pool) {
    BISUP_EXPECTS(form.keepers >= 0 && form.keepers < x.cols());
    exact_ = form.transforms() ? transform(x, form, pool) : x;
    values_ = exact_;
    is_integer_ = form.format.has_value() && !form.simulate;
    keepers_ = form.keepers, has_exact_words_ = false;
    if (!form.format) return;
    const int body = x.cols() - form.keepers;
    if (is_integer_) {
      quantize_activation(exact_.cols(0, body), *form.format, integers_, pool);
      if (keepers_ > 0) prepare_keepers(exact_.cols(body, keepers_), pool);
      return;
    }
    copy(exact_, rounded_);
    fake_quantize(rounded_.ref().cols(0, body), *form.format, pool);
    if (keepers_ > 0) fake_quantize(rounded_.ref().cols(body, keepers_), int8_token, pool);
    values_ = rounded_.ref();
  }

  [[nodiscard]] bool is_integer() const noexcept { return is_integer_; }
  // What the weights multiply when the input is not integer, [tokens, in].
  [[nodiscard]] MatrixRef<const float> values() const { return values_; }
  // The transformed input before it was rounded, [tokens, in]: what a low-rank branch reads.
  [[nodiscard]] MatrixRef<const float> exact() const { return exact_; }
  // The same in words, rounded when the first branch asks. Those that read one input do so in turn.
  [[nodiscard]] WordsView exact_words(ThreadPool& pool) const {
    if (!std::exchange(has_exact_words_, true)) round_words(exact_, exact_words_, pool);
    return exact_words_.view();
  }
  [[nodiscard]] int keepers() const noexcept { return keepers_; }
  [[nodiscard]] ActivationView integers() const {
    BISUP_EXPECTS(is_integer_);
    return integers_.view();
  }
  [[nodiscard]] WordsView keeper_words() const {
    BISUP_EXPECTS(is_integer_ && keepers_ > 0);
    return keeper_words_.view();
  }

 private:
  void prepare_keepers(MatrixRef<const float> x, ThreadPool& pool) {
    quantize_activation(x, int8_token, keeper_integers_, pool);
    keeper_words_.widen(keeper_integers_.codes(), keeper_integers_.scales(), x.cols());
  }
  MatrixRef<const float> transform(MatrixRef<const float> x, const InputForm& form,
                                   ThreadPool& pool) {
    const auto cols = static_cast<std::size_t>(x.cols());
    BISUP_EXPECTS(!form.rotates() || form.rotation.size() == x.cols());
    BISUP_EXPECTS(form.multiplier.empty() || form.multiplier.size() == cols);
    BISUP_EXPECTS(form.order.empty() || form.order.size() == cols);
    MatrixRef<const float> from = x;
    if (form.rotates()) {
      copy(x, rotated_);
      form.rotation.apply(rotated_.ref(), pool);
      from = rotated_.ref();
      if (form.multiplier.empty() && form.order.empty()) return from;
    }
    transformed_.resize(x.rows(), x.cols());
    const MatrixRef<float> to = transformed_.ref();
    bisup::detail::over_rows(x.rows(), x.cols(), pool, [&](int t) {
      const float* in = from.row_data(t);
      float* out = to.row_data(t);
      if (!form.order.empty()) {
        const int* order = form.order.data();
#pragma GCC unroll 8
        for (std::size_t j = 0; j < cols; ++j) out[j] = in[order[j]];
        in = out;
      }
      if (form.multiplier.empty()) return;
      for (std::size_t j = 0; j < cols; ++j) out[j] = form.multiplier[j] * in[j];
    });
    return to;
  }

  static void copy(MatrixRef<const float> from, Matrix<float>& to) {
    to.resize(from.rows(), from.cols());
    for (int t = 0; t < from.rows(); ++t)
      std::copy_n(from.row_data(t), from.cols(), to.row(t).data());
  }

  MatrixRef<const float> values_, exact_;
  bool is_integer_ = false;
  int keepers_ = 0;
  QuantizedActivation integers_, keeper_integers_;
  WordRows keeper_words_;
  mutable WordRows exact_words_;
  mutable bool has_exact_words_ = false;
  Matrix<float> rotated_, transformed_, rounded_;
};

}  // namespace bisup::llama
