// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a dense product cut up? x is packed into tiles of tokens once, by all threads; then each
// task packs a few panels of w and multiplies them by every tile, some tiles at a time, which stay
// in the second cache while the panels pass. How it is cut leaves no trace in the result
// (kernel/dense_operand.hpp), so it may depend on the number of threads.
// Against tile after tile with every k in blocks of 768, in turns on Zen 3 (AVX2, one thread): 10
// to 35 % faster. Lost: panels of 288 k, which fit the first cache (y is read and written more
// often), more panels a task, and asking for all of the next weights between tiles, where the
// requests wait for each other: 0.85 to 0.95 of oneDNN instead of 0.87 to 1.0 (Xeon, one thread).

#include <algorithm>
#include <cstddef>

#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/dense_operand.hpp>
#include <bisup/kernel/word_gemm.hpp>

namespace bisup::detail {

struct GemmBlocks {
  DenseOperand x, w;
  int count = 0;       // of the summed index
  MatrixRef<float> y;  // [lines of x, lines of w]
  bool accumulate = false;
  bool lower_triangle = false;  // leave tiles alone that lie wholly above the diagonal
};

// A panel of this many k stays in the second cache beside the tiles of x that meet it.
inline constexpr int gemm_block_k = 1536;
static_assert(gemm_block_k % word_block == 0);
// Those tiles: 192 KiB.
inline constexpr int gemm_near_x = 48 << 10;
// Packed x of one block of tokens: what a share of the third cache holds (8 MiB).
inline constexpr int gemm_block_x = 2 << 20;

inline float* scratch(AlignedBuffer<float>& buffer, std::size_t size) {
  if (buffer.size() < size) buffer = AlignedBuffer<float>(size);
  return buffer.data();
}

// A tile of y that the next product begins with: it would wait for it otherwise.
inline void prefetch_tile(MatrixRef<float> y, int row, int rows, int col, int cols) {
  for (int r = row; r < row + rows; ++r) {
    for (int c = col; c < col + cols; c += 16) __builtin_prefetch(y.row_data(r) + c, 1, 3);
  }
}

// Floats of a packed line: one word and its scale take two.
constexpr int packed_k(int count) {
  return count + count % 2;
}

inline void multiply_block(const DenseGemmKernel& kernel, const GemmBlocks& job, int first_token,
                           int tokens, ThreadPool& pool) {
  static thread_local AlignedBuffer<float> packed_x_buffer;
  const int tile = kernel.tile_tokens, panel = kernel.panel_rows, count = job.count;
  const int tiles = (tokens + tile - 1) / tile, panels = (job.y.cols() + panel - 1) / panel;
  const auto tile_size = static_cast<std::ptrdiff_t>(tile) * packed_k(count);
  float* packed_x = scratch(packed_x_buffer, static_cast<std::size_t>(tiles * tile_size));
  const auto present_in = [&](int t) { return std::min(tile, tokens - t * tile); };
  const auto width = [&](int t) {
    return (present_in(t) + kernel.tile_step - 1) / kernel.tile_step * kernel.tile_step;
  };
  pool.parallel_for(tiles, [&](int t, int) {
    kernel.pack(job.x, first_token + t * tile, present_in(t), 0, count, width(t),
                packed_x + t * tile_size);
  });

  // Enough tasks that a slow core holds nobody up, few enough that a tile of x is read seldom.
  const int group = std::clamp(panels / (8 * pool.threads()), 1, 2);
  const int token_parts = std::clamp(4 * pool.threads() / panels, 1, std::max(1, tiles / 16));
  const int tiles_per_part = (tiles + token_parts - 1) / token_parts;
  const int blocks_k = (count + gemm_block_k - 1) / gemm_block_k;
  // x was packed in one piece: blocks of words must begin where they did there.
  const int even_k = blocks_k == 0 ? 0 : (count + blocks_k - 1) / blocks_k;
  const int block_k =
      std::min((even_k + word_block - 1) / word_block * word_block, packed_k(count));
  pool.parallel_for((panels + group - 1) / group * token_parts, [&](int task, int) {
    static thread_local AlignedBuffer<float> packed_w_buffer;
    float* packed_w = scratch(packed_w_buffer, static_cast<std::size_t>(group * panel) *
                                                   static_cast<std::size_t>(block_k));
    const int first_panel = task / token_parts * group,
              last_panel = std::min(panels, first_panel + group);
    const int first_tile = task % token_parts * tiles_per_part;
    const int last_tile = std::min(tiles, first_tile + tiles_per_part);
    // Each tile asks for its share of the weights that this thread will probably pack next.
    const int next_panel = first_panel + group * pool.threads();
    const int next_last = std::min((next_panel + group) * panel, job.y.cols());
    const bool contiguous = !job.w.lines_are_columns && job.w.stride == count;
    const std::ptrdiff_t row_bytes = static_cast<std::ptrdiff_t>(count) * bytes_of(job.w.type);
    const std::ptrdiff_t next_bytes =
        contiguous ? std::max(0, next_last - next_panel * panel) * row_bytes : 0;
    const char* next_rows = static_cast<const char*>(job.w.data) +
                            (next_bytes > 0 ? next_panel * panel * row_bytes : 0);
    const int shares = (last_tile - first_tile) * (last_panel - first_panel);
    const auto ahead = [&](int share) {
      const auto until = [&](int n) { return n * next_bytes / shares / 64 * 64; };
      return Ahead{next_rows + until(share), until(share + 1) - until(share)};
    };
    int share = 0;
    const auto rows = [&](int p) { return std::min(panel, job.y.cols() - p * panel); };
    for (int k = 0; k < count; k += block_k) {
      const int here = std::min(block_k, count - k);
      for (int p = first_panel; p < last_panel; ++p) {
        kernel.pack(job.w, p * panel, rows(p), k, here, panel,
                    packed_w + (p - first_panel) * panel * block_k);
      }
      const int near_tiles = std::max(1, gemm_near_x / (tile * here));
      for (int near = first_tile; near < last_tile; near += near_tiles) {
        const int near_end = std::min(last_tile, near + near_tiles);
        for (int p = first_panel; p < last_panel; ++p) {
          for (int t = near; t < near_end; ++t) {
            const int token = first_token + t * tile, present = present_in(t);
            if (job.lower_triangle && p * panel >= token + present) continue;
            if (t + 1 < near_end)
              prefetch_tile(job.y, token + tile, present_in(t + 1), p * panel, rows(p));
            kernel.multiply(packed_x + t * tile_size + static_cast<std::ptrdiff_t>(k) * width(t),
                            width(t), packed_w + (p - first_panel) * panel * block_k, here,
                            job.y.row_data(token) + p * panel, job.y.stride(), present, rows(p),
                            job.accumulate || k > 0, k == 0 ? ahead(share++) : Ahead());
          }
        }
      }
    }
  });
}

// y = x w^T over lines, or y + x w^T.
inline void multiply_blocks(const DenseGemmKernel& kernel, const GemmBlocks& job,
                            ThreadPool& pool) {
  if (job.y.empty()) return;
  if (job.count == 0) {
    for (int t = 0; t < job.y.rows() && !job.accumulate; ++t)
      std::fill_n(job.y.row_data(t), job.y.cols(), 0.0f);
    return;
  }
  const int tile = kernel.tile_tokens, least = 16 * tile;
  // Where even so few tokens do not fit (the gradient through a head sums over the vocabulary), k
  // is cut first, into parts of x that the second cache holds: 1.4 times as fast.
  const int together = std::min(job.y.rows(), least);
  int part = job.count;
  if (together > gemm_block_x / job.count)
    part = std::max(1, gemm_block_x / 4 / together / gemm_block_k) * gemm_block_k;
  for (int k = 0; k < job.count; k += part) {
    GemmBlocks here = job;
    here.x = job.x.from(k), here.w = job.w.from(k), here.count = std::min(part, job.count - k);
    here.accumulate = job.accumulate || k > 0;
    const int block = std::max(gemm_block_x / here.count / tile * tile, least);
    for (int t = 0; t < job.y.rows(); t += block) {
      multiply_block(kernel, here, t, std::min(block, job.y.rows() - t), pool);
    }
  }
}

}  // namespace bisup::detail
