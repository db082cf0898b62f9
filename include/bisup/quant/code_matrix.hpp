// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do rounded weights look like before they are packed? One code a byte in reading order, and
// the parameters of each group: easy to permute, compare and decode.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/ops/row_tasks.hpp>
#include <bisup/quant/pack_codes.hpp>

namespace bisup {

struct CodeMatrix {
  Format format;
  Matrix<std::uint8_t> codes;          // [rows, cols]
  Matrix<GroupParameters> parameters;  // [rows, groups]

  CodeMatrix() = default;
  CodeMatrix(const Format& f, int rows, int cols)
      : format(f), codes(rows, cols), parameters(rows, f.groups_per_row(cols)) {}

  [[nodiscard]] int rows() const noexcept { return codes.rows(); }
  [[nodiscard]] int cols() const noexcept { return codes.cols(); }
  [[nodiscard]] int group_width() const noexcept {
    return format.group == 0 ? std::max(1, cols()) : format.group;
  }
  [[nodiscard]] float value(int row, int col) const noexcept {
    return bisup::decode(codes(row, col), parameters(row, col / group_width()));
  }
  // The weights of a row, group by group. Requires as many as there are columns.
  void decode_row(int row, std::span<float> out) const {
    BISUP_EXPECTS(static_cast<int>(out.size()) == cols());
    for (int begin = 0, g = 0; begin < cols(); begin += group_width(), ++g) {
      const GroupParameters p = parameters(row, g);
      const std::uint8_t* from = codes.ref().row_data(row);
      const int end = std::min(begin + group_width(), cols());
      for (int c = begin; c < end; ++c)
        out[static_cast<std::size_t>(c)] = bisup::decode(from[c], p);
    }
  }
  void copy_row(int row, const CodeMatrix& from) {
    BISUP_EXPECTS(format == from.format && cols() == from.cols());
    std::ranges::copy(from.codes.row(row), codes.row(row).begin());
    std::ranges::copy(from.parameters.row(row), parameters.row(row).begin());
  }
};

// The weights that the codes stand for, into out [rows, cols].
inline void decode(const CodeMatrix& from, MatrixRef<float> out, ThreadPool& pool) {
  BISUP_EXPECTS(out.rows() == from.rows() && out.cols() == from.cols());
  detail::over_rows(from.rows(), from.cols(), pool, [&](int r) { from.decode_row(r, out.row(r)); });
}

[[nodiscard]] inline Result<AnyPackedTensor> pack_codes(const CodeMatrix& from,
                                                        ThreadPool& pool = ThreadPool::shared()) {
  return pack_codes(from.codes.ref(), from.parameters.ref(), from.format, pool);
}

}  // namespace bisup
