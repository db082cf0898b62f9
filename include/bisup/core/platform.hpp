// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which processor and which compiler is this? The only header that asks the preprocessor.

#if defined(__x86_64__) || defined(_M_X64)
#define BISUP_X86 1
#else
#define BISUP_X86 0
#endif

#if defined(__aarch64__) || defined(_M_ARM64)
#define BISUP_ARM64 1
#else
#define BISUP_ARM64 0
#endif

#if defined(__CUDACC__)
#define BISUP_CUDA 1
#define BISUP_HOST_DEVICE __host__ __device__
#else
#define BISUP_CUDA 0
#define BISUP_HOST_DEVICE
#endif

// Every kernel names the instruction set it is compiled for, so the same symbol holds the same
// instructions in every translation unit whatever -m flags the user chose (docs/decisions/005).
#if defined(__GNUC__) || defined(__clang__)
#define BISUP_COMPILED_FOR(isa) __attribute__((target(isa)))
#define BISUP_ALWAYS_INLINE inline __attribute__((always_inline))
#define BISUP_NOINLINE __attribute__((noinline))
#define BISUP_RESTRICT __restrict__
#elif defined(_MSC_VER)
#define BISUP_COMPILED_FOR(isa)
#define BISUP_ALWAYS_INLINE __forceinline
#define BISUP_NOINLINE __declspec(noinline)
#define BISUP_RESTRICT __restrict
#else
#define BISUP_COMPILED_FOR(isa)
#define BISUP_ALWAYS_INLINE inline
#define BISUP_NOINLINE
#define BISUP_RESTRICT
#endif

// Kernels are debugged through the scalar target; with optimisation off the others are too slow to
// test, so debug and sanitizer builds still optimise them.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__OPTIMIZE__)
#define BISUP_OPTIMIZED __attribute__((optimize("O2")))
#else
#define BISUP_OPTIMIZED
#endif

#if defined(__cpp_exceptions) || defined(__EXCEPTIONS) || defined(_CPPUNWIND)
#define BISUP_EXCEPTIONS 1
#else
#define BISUP_EXCEPTIONS 0
#endif

// The intrinsics of g++ 12 start from a value that they leave uninitialised on purpose, and then
// warn of it wherever they are inlined. Brackets around the kernels that use them.
#if defined(__GNUC__) && !defined(__clang__)
#define BISUP_INTRINSICS_BEGIN                                                               \
  _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"") \
      _Pragma("GCC diagnostic ignored \"-Wuninitialized\"")
#define BISUP_INTRINSICS_END _Pragma("GCC diagnostic pop")
#else
#define BISUP_INTRINSICS_BEGIN
#define BISUP_INTRINSICS_END
#endif
