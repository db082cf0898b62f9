// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are the seven linears of a block rounded? By the recipe's engine, on the second moments of
// what they read, gathered from the quantized stream: for all at once, or in four stages, each of
// which sees what rounding the ones before has done.

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <bisup/calibrate/block_pass.hpp>
#include <bisup/calibrate/block_report.hpp>
#include <bisup/calibrate/recipe.hpp>
#include <bisup/calibrate/statistics.hpp>
#include <bisup/calibrate/stream.hpp>
#include <bisup/core/format.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/model.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <bisup/quant/code_matrix.hpp>
#include <bisup/quant/gptq.hpp>
#include <bisup/quant/rounding.hpp>

namespace bisup {

class BlockRounder {
 public:
  BlockRounder(const Recipe& recipe, const Format& format, ThreadPool& pool)
      : recipe_(recipe), format_(format), pool_(pool) {}

  // block: dense, its inputs in the form in which moments are gathered; becomes packed. Only the
  // first `crops` samples of the stream are read. Errors: not_finite, out_of_memory.
  Result<std::vector<LinearReport>> run(Block& block, BlockPass& pass, const Stream& stream,
                                        int crops) {
    reports_.clear();
    const auto done =
        recipe_.staged ? staged(block, pass, stream, crops) : at_once(block, pass, stream, crops);
    if (!done) return done.error();
    return std::move(reports_);
  }

 private:
  Result<void> at_once(Block& block, BlockPass& pass, const Stream& stream, int crops) {
    std::vector<SecondMoments> moments;
    for (const auto& site : llama::named_inputs) moments.emplace_back(width(block, site.input));
    Matrix<float> x;
    for (int i = 0; i < crops; ++i) {
      stream.read(i, x);
      pass.inputs(block, x.ref(), [&](int site, const llama::Activation& input) {
        moments[static_cast<std::size_t>(site)].add(input.values(), pool_);
      });
    }
    for (std::size_t site = 0; site < moments.size(); ++site) {
      if (auto done = round_readers(block, site, moments[site]); !done) return done;
    }
    return {};
  }

  Result<void> staged(Block& block, BlockPass& pass, const Stream& stream, int crops) {
    // Attention's outputs, then the residual stream behind attention.
    std::vector<Matrix<float>> middle(static_cast<std::size_t>(crops));
    Matrix<float> x;
    const auto stage = [&](std::size_t site, auto&& input_of) -> Result<void> {
      SecondMoments moments(width(block, llama::named_inputs[site].input));
      for (int i = 0; i < crops; ++i) {
        if (site < 3) stream.read(i, x);
        moments.add(input_of(middle[static_cast<std::size_t>(i)]).values(), pool_);
      }
      return round_readers(block, site, moments);
    };
    auto done = stage(0, [&](Matrix<float>&) -> const llama::Activation& {
      return pass.attention_input(block, x.ref());
    });
    if (!done) return done;
    done = stage(1, [&](Matrix<float>& m) -> const llama::Activation& {
      keep(pass.attend(block, x.ref()), m);
      return pass.output_input(block, m.ref());
    });
    if (!done) return done;
    done = stage(2, [&](Matrix<float>& m) -> const llama::Activation& {
      pass.add_attention(block, m.ref(), x.ref());
      keep(x.ref(), m);
      return pass.mlp_input(block, m.ref());
    });
    if (!done) return done;
    return stage(3, [&](Matrix<float>& m) -> const llama::Activation& {
      return pass.down_input(block, m.ref());
    });
  }

  static void keep(MatrixRef<const float> from, Matrix<float>& to) {
    to.resize(from.rows(), from.cols());
    for (int t = 0; t < from.rows(); ++t)
      std::copy_n(from.row_data(t), from.cols(), to.row(t).data());
  }
  static int width(const Block& block, llama::InputForm llama::InputForms::*input) {
    for (const auto& named : llama::named_linears) {
      if (named.input == input) return (block.*named.linear).in();
    }
    return 0;
  }

  Result<void> round_readers(Block& block, std::size_t site, const SecondMoments& sums) {
    const auto input = llama::named_inputs[site].input;
    const Matrix<float> moments = sums.mean();
    for (const auto& named : llama::named_linears) {
      if (named.input != input) continue;
      auto rounded = round(block.*named.linear, moments, (block.inputs.*input).keepers);
      if (!rounded) {
        Error error = rounded.error();
        error.message = std::string(named.name) + ": " + error.message;
        return error;
      }
      block.*named.linear = std::move(rounded->linear);
      rounded->report.name = named.name;
      reports_.push_back(std::move(rounded->report));
    }
    return {};
  }

  struct Rounded {
    llama::AnyLinear linear;
    LinearReport report;
  };
  Result<Rounded> round(const llama::AnyLinear& linear, const Matrix<float>& moments, int keepers) {
    const DenseView& view = linear.dense()->view;
    const MatrixRef<const float> w(static_cast<const float*>(view.data), view.rows, view.cols);
    auto rounding = std::visit(
        [&](const auto& quantizer) {
          if (recipe_.engine == Engine::gptq) {
            return gptq(w, moments.ref(),
                        {.format = format_,
                         .static_groups = recipe_.static_groups,
                         .act_order = recipe_.act_order,
                         .damping = recipe_.damping,
                         .keepers = {.count = keepers}},
                        quantizer, pool_);
          }
          std::vector<float> power;
          for (int j = 0; j < moments.cols(); ++j) power.push_back(moments(j, j));
          return round_groups(w, format_, quantizer, power, {.count = keepers}, pool_);
        },
        recipe_.quantizer);
    if (!rounding) return rounding.error();
    auto packed = pack_codes(rounding->weights, pool_);
    if (!packed) return packed.error();
    std::optional<AnyPackedTensor> apart;
    if (keepers > 0) {
      auto kept = pack_codes(rounding->keepers, pool_);
      if (!kept) return kept.error();
      apart = std::move(kept).value();
    }
    const RoundingReport& r = rounding->report;
    const double power = output_power(w, moments);
    return Rounded{llama::AnyLinear(std::move(packed).value(), linear.bias(), std::move(apart)),
                   {.name = {},
                    .error = power > 0 ? r.error / power : 0,
                    .nearest_error = power > 0 ? r.nearest_error / power : 0,
                    .damping = r.damping,
                    .dead_columns = r.dead_columns,
                    .nearest_rows = r.nearest_rows,
                    .fell_back = r.fell_back}};
  }

  // Sum over rows of w H w^T: the power of the outputs.
  [[nodiscard]] double output_power(MatrixRef<const float> w, const Matrix<float>& h) const {
    Matrix<float> wh(w.rows(), w.cols());
    multiply_transposed(w, h.ref(), wh.ref(), Into::replace, pool_);
    double sum = 0;
    for (int r = 0; r < w.rows(); ++r) {
      for (int c = 0; c < w.cols(); ++c)
        sum += static_cast<double>(w(r, c)) * static_cast<double>(wh(r, c));
    }
    return sum;
  }

  const Recipe& recipe_;
  Format format_;
  ThreadPool& pool_;
  std::vector<LinearReport> reports_;
};

}  // namespace bisup
