// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who provides the parts of attention? kernel/scalar_attention.hpp says what each computes;
// ops/attend.hpp and cache/ put them together.

#include <array>
#include <cstdint>

#include <bisup/kernel/avx512/code_attention.hpp>
#include <bisup/kernel/avx512/kv_bytes.hpp>
#include <bisup/kernel/dispatch.hpp>
#include <bisup/kernel/float_attention.hpp>
#include <bisup/kernel/scalar_attention.hpp>

#define BISUP_LOOPS <bisup/kernel/lanes/kv_codes.hpp>
#include <bisup/kernel/each_target.hpp>

namespace bisup {

struct AttentionKernels {
  using ReadKeys = void (*)(const std::uint8_t* codes, const Half* scales,
                            const std::uint8_t* zeros, const float* center, const KvPanel& panel,
                            float* out) noexcept;
  using ReadValues = void (*)(const std::uint8_t* codes, const Half* scales,
                              const std::uint8_t* zeros, const KvPanel& panel, float* out) noexcept;

  void (*attend)(const AttentionTile& tile) noexcept;
  void (*join)(const float* out, const float* maximum, const float* sum, int rows, int dim,
               float* total, float* total_maximum, float* total_sum) noexcept;
  void (*scale)(const float* x, int count, float factor, float* y) noexcept;
  Extremes (*extremes)(const float* x, int count) noexcept;
  void (*round_group)(const float* x, int count, const KvRounding& r, std::uint8_t* codes) noexcept;
  RoundingSums (*rounding_sums)(const float* x, int count, float scale,
                                const KvRounding& r) noexcept;
  using Widen = void (*)(const void* from, int count, float* out) noexcept;
  std::array<Widen, 3> widen;                  // by DType
  std::array<ReadKeys, 9> keys, channel_keys;  // by bits
  std::array<ReadValues, 9> values;

  // Of targets whose attend() multiplies integers where a tile has codes; null where it does not,
  // and for codes that lie in the cache as they are read.
  using ReadBytes = void (*)(const std::uint8_t* codes, const KvPanel& panel,
                             std::uint8_t* out) noexcept;
  using QueryBytes = void (*)(const float* row, const float* center, int dim, int group,
                              const QueryRow& to) noexcept;
  std::array<ReadBytes, 9> key_bytes = {}, value_bytes = {};  // by bits
  QueryBytes query_bytes = nullptr;
};

#if BISUP_X86
namespace detail {

inline constexpr AttentionKernels avx512_attention{
    avx512::attend,
    avx512::join,
    avx512::scale,
    avx512::extremes,
    avx512::round_group,
    avx512::rounding_sums,
    {avx512::widen<DType::f32>, avx512::widen<DType::f16>, avx512::widen<DType::bf16>},
    {nullptr, nullptr, avx512::dequantize_keys<2>, avx512::dequantize_keys<3>,
     avx512::dequantize_keys<4>, nullptr, nullptr, nullptr, avx512::dequantize_keys<8>},
    {nullptr, nullptr, avx512::dequantize_channel_keys<2>, avx512::dequantize_channel_keys<3>,
     avx512::dequantize_channel_keys<4>, nullptr, nullptr, nullptr,
     avx512::dequantize_channel_keys<8>},
    {nullptr, nullptr, avx512::dequantize_values<2>, avx512::dequantize_values<3>,
     avx512::dequantize_values<4>, nullptr, nullptr, nullptr, avx512::dequantize_values<8>}};

constexpr AttentionKernels avx512_vnni_attention() {
  AttentionKernels kernels = avx512_attention;
  kernels.attend = avx512_vnni::attend;
  kernels.key_bytes = {nullptr, nullptr, avx512::key_bytes<2>, avx512::key_bytes<3>,
                       avx512::key_bytes<4>};
  kernels.value_bytes = {nullptr,
                         nullptr,
                         avx512::value_bytes<2>,
                         avx512::value_bytes<3>,
                         avx512::value_bytes<4>,
                         nullptr,
                         nullptr,
                         nullptr,
                         avx512::value_bytes<8>};
  kernels.query_bytes = avx512::query_bytes;
  return kernels;
}

}  // namespace detail
#endif

template <class T = float>
inline constexpr std::array attention_kernel_table = {
#if BISUP_X86
    Entry<AttentionKernels>{Target::avx512_vnni, detail::avx512_vnni_attention()},
    Entry<AttentionKernels>{Target::avx512, detail::avx512_attention},
    Entry<AttentionKernels>{
        Target::avx2,
        {avx2::attend,
         avx2::join,
         avx2::scale,
         avx2::extremes,
         avx2::round_group,
         avx2::rounding_sums,
         {avx2::widen<DType::f32>, avx2::widen<DType::f16>, avx2::widen<DType::bf16>},
         {nullptr, nullptr, avx2::dequantize_keys<2>, avx2::dequantize_keys<3>,
          avx2::dequantize_keys<4>, nullptr, nullptr, nullptr, avx2::dequantize_keys<8>},
         {nullptr, nullptr, avx2::dequantize_channel_keys<2>, avx2::dequantize_channel_keys<3>,
          avx2::dequantize_channel_keys<4>, nullptr, nullptr, nullptr,
          avx2::dequantize_channel_keys<8>},
         {nullptr, nullptr, avx2::dequantize_values<2>, avx2::dequantize_values<3>,
          avx2::dequantize_values<4>, nullptr, nullptr, nullptr, avx2::dequantize_values<8>}}},
#endif
#if BISUP_ARM64
    Entry<AttentionKernels>{
        Target::neon,
        {neon::attend,
         neon::join,
         neon::scale,
         neon::extremes,
         neon::round_group,
         neon::rounding_sums,
         {neon::widen<DType::f32>, neon::widen<DType::f16>, neon::widen<DType::bf16>},
         {nullptr, nullptr, neon::dequantize_keys<2>, neon::dequantize_keys<3>,
          neon::dequantize_keys<4>, nullptr, nullptr, nullptr, neon::dequantize_keys<8>},
         {nullptr, nullptr, neon::dequantize_channel_keys<2>, neon::dequantize_channel_keys<3>,
          neon::dequantize_channel_keys<4>, nullptr, nullptr, nullptr,
          neon::dequantize_channel_keys<8>},
         {nullptr, nullptr, neon::dequantize_values<2>, neon::dequantize_values<3>,
          neon::dequantize_values<4>, nullptr, nullptr, nullptr, neon::dequantize_values<8>}}},
#endif
    Entry<AttentionKernels>{
        Target::scalar,
        {scalar::attend,
         scalar::join,
         scalar::scale,
         scalar::extremes,
         scalar::round_group,
         scalar::rounding_sums,
         {scalar::widen<DType::f32>, scalar::widen<DType::f16>, scalar::widen<DType::bf16>},
         {nullptr, nullptr, scalar::dequantize_keys<2>, scalar::dequantize_keys<3>,
          scalar::dequantize_keys<4>, nullptr, nullptr, nullptr, scalar::dequantize_keys<8>},
         {nullptr, nullptr, scalar::dequantize_channel_keys<2>, scalar::dequantize_channel_keys<3>,
          scalar::dequantize_channel_keys<4>, nullptr, nullptr, nullptr,
          scalar::dequantize_channel_keys<8>},
         {nullptr, nullptr, scalar::dequantize_values<2>, scalar::dequantize_values<3>,
          scalar::dequantize_values<4>, nullptr, nullptr, nullptr, scalar::dequantize_values<8>}}},
};

template <class T = float>
const AttentionKernels& attention_kernels() {
  static const AttentionKernels kernels =
      choose(attention_kernel_table<T>, active_target()).function;
  return kernels;
}

#if defined(BISUP_COMPILED)
extern template const AttentionKernels& attention_kernels<float>();
#endif

}  // namespace bisup
