// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who provides each operation at each width for each target? Read from the tables that dispatch reads,
// so the answer cannot be older than the code.

#include <array>
#include <string>
#include <vector>

#include <bisup/kernel/attention.hpp>
#include <bisup/kernel/dense_gemm.hpp>
#include <bisup/kernel/gradient.hpp>
#include <bisup/kernel/rounding_error.hpp>
#include <bisup/kernel/vector.hpp>
#include <bisup/ops/dequantize.hpp>
#include <bisup/ops/few_rows.hpp>
#include <bisup/ops/gemm.hpp>
#include <bisup/ops/quantize_activation.hpp>

struct Provider {
  std::string operation, weights;
  bisup::Target asked, provides;
};

inline std::vector<Provider> providers() {
  using namespace bisup;
  std::vector<Provider> all;
  for (const Target target : all_targets) {
    for (const int bits : {2, 3, 4, 5, 6, 8}) {
      for (const Zero zero : {Zero::symmetric, Zero::affine}) {
        const Format format{.bits = bits, .zero = zero};
        const std::string weights = std::to_string(bits) + (format.affine() ? " bits affine" : " bits");
        all.push_back({"gemm, gemv", weights, target, gemm_kernel(format, target).target});
        all.push_back({"multiply, activations in float", weights, target, weight_only_kernel(format, target).target});
        all.push_back({"dequantize", weights, target, dequantize_kernel(format, target).target});
      }
    }
    all.push_back({"few columns beside", "8 bits", target, choose(narrow_gemm_kernels, target).target});
    all.push_back({"few rows beside", "8 bits", target, choose(word_rows_kernels, target).target});
    all.push_back({"quantize_activation", "", target, choose(quantize_activation_kernels, target).target});
    all.push_back({"attention", "2, 3, 4, 8 bits, f32", target, choose(attention_kernel_table<float>, target).target});
    all.push_back({"dense product", "f32, f16, bf16", target, choose(dense_gemm_kernels<float>, target).target});
    all.push_back({"dense product in words", "f32", target, choose(word_gemm_kernels<float>, target).target});
    all.push_back({"dense product, few tokens", "f32, f16, bf16", target, choose(dense_gemv_kernels<float>, target).target});
    all.push_back({"combination of a few rows", "f32, f16, bf16", target, choose(dense_combine_kernels<float>, target).target});
    all.push_back({"norm, rope, swiglu, softmax, Hadamard", "f32", target, choose(vector_kernel_table<float>, target).target});
    all.push_back({"backward passes of rows", "f32", target, choose(gradient_kernel_table<float>, target).target});
    all.push_back({"clip search", "f32", target, choose(rounding_error_table<float>, target).target});
  }
  return all;
}

// The targets of the architecture that this is compiled for.
#if BISUP_ARM64
inline constexpr const char* architecture = "ARM64";
inline constexpr std::array compiled_targets = {bisup::Target::scalar, bisup::Target::neon};
#else
inline constexpr const char* architecture = "x86-64";
inline constexpr std::array compiled_targets = {bisup::Target::scalar, bisup::Target::avx2, bisup::Target::avx_vnni,
                                                bisup::Target::avx512, bisup::Target::avx512_vnni};
#endif

// This architecture's part of docs/kernels.md.
inline std::string providers_table() {
  using namespace bisup;
  std::string page = "## " + std::string(architecture) + "\n\n| operation | weights |";
  for (const Target target : compiled_targets) page += " " + std::string(name(target)) + " |";
  page += "\n|---|---|";
  for ([[maybe_unused]] const Target target : compiled_targets) page += "---|";
  const std::vector<Provider> all = providers();
  for (const Provider& row : all) {
    if (row.asked != all_targets[0]) continue;
    page += "\n| " + row.operation + " | " + row.weights + " |";
    for (const Target target : compiled_targets) {
      for (const Provider& p : all) {
        if (p.operation == row.operation && p.weights == row.weights && p.asked == target) {
          page += " " + std::string(name(p.provides)) + " |";
        }
      }
    }
  }
  return page + "\n";
}
