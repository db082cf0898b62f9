// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// In what form does an input reach the linears that share it? As floats, as integers with scales,
// or as floats that were rounded like those integers (the simulation). Prepared once, read by each.

#include <algorithm>
#include <optional>

#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/quantize_activation.hpp>
#include <bisup/pack/activation.hpp>
#include <bisup/quant/fake_quant.hpp>

namespace bisup::llama {

// How one of a block's four inputs is prepared.
struct InputForm {
  std::optional<ActivationFormat> format;  // none: floats as they are
  bool simulate = false;                   // round, but stay float: for weights that are dense
  friend bool operator==(const InputForm&, const InputForm&) = default;
};

class Activation {
 public:
  // x: [tokens, in]; it must outlive the use of values().
  void prepare(MatrixRef<const float> x, const InputForm& form, ThreadPool& pool) {
    values_ = x;
    is_integer_ = form.format.has_value() && !form.simulate;
    if (!form.format) return;
    if (is_integer_) {
      quantize_activation(x, *form.format, integers_, pool);
      return;
    }
    rounded_.resize(x.rows(), x.cols());
    for (int t = 0; t < x.rows(); ++t) std::copy_n(x.row_data(t), x.cols(), rounded_.row(t).data());
    fake_quantize(rounded_.ref(), *form.format, pool);
    values_ = rounded_.ref();
  }

  [[nodiscard]] bool is_integer() const noexcept { return is_integer_; }
  [[nodiscard]] MatrixRef<const float> values() const {  // [tokens, in]
    return values_;
  }
  [[nodiscard]] ActivationView integers() const {
    BISUP_EXPECTS(is_integer_);
    return integers_.view();
  }

 private:
  MatrixRef<const float> values_;
  bool is_integer_ = false;
  QuantizedActivation integers_;
  Matrix<float> rounded_;
};

}  // namespace bisup::llama
