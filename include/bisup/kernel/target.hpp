// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which instructions may run here? A Target is a set of instructions that kernels are compiled for;
// the best one of this processor is used unless BISUP_TARGET names a weaker one.

#include <array>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include <bisup/core/platform.hpp>
#include <bisup/core/result.hpp>

#if BISUP_X86 && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#endif
#if BISUP_ARM64 && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace bisup {

enum class Target : std::uint8_t { scalar, neon, avx2, avx_vnni, avx512, avx512_vnni };

// Of two targets that one processor has, the later is the stronger.
inline constexpr std::array all_targets = {Target::scalar,   Target::neon,   Target::avx2,
                                           Target::avx_vnni, Target::avx512, Target::avx512_vnni};

[[nodiscard]] constexpr std::string_view name(Target target) {
  switch (target) {
    case Target::scalar: return "scalar";
    case Target::neon: return "neon";
    case Target::avx2: return "avx2";
    case Target::avx_vnni: return "avx_vnni";
    case Target::avx512: return "avx512";
    case Target::avx512_vnni: return "avx512_vnni";
  }
  return "?";
}

// Instruction sets for BISUP_COMPILED_FOR. scalar excludes AVX, so its code is the same whatever
// the user's flags are.
#define BISUP_ISA_AVX2 "avx2,fma,f16c"
#define BISUP_ISA_AVX_VNNI "avxvnni,avx2,fma,f16c"
#define BISUP_ISA_AVX512 "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"
#define BISUP_ISA_AVX512_VNNI "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"
// Pinned, so that no user's flag widens it; clang knows only extensions here.
#if defined(__clang__)
#define BISUP_ISA_NEON "dotprod"
#else
#define BISUP_ISA_NEON "arch=armv8.2-a+dotprod"
#endif
#if BISUP_X86
#define BISUP_SCALAR BISUP_COMPILED_FOR("no-avx")
#else
#define BISUP_SCALAR
#endif

// Whether whatever runs `strong` also runs `weak`. avx512_vnni does not include avx_vnni: Zen 4 and
// Ice Lake have no VEX form of vpdpbusd.
[[nodiscard]] constexpr bool includes(Target strong, Target weak) {
  if (weak == Target::scalar || strong == weak) return true;
  switch (strong) {
    case Target::avx512_vnni: return weak == Target::avx512 || weak == Target::avx2;
    case Target::avx512:
    case Target::avx_vnni: return weak == Target::avx2;
    default: return false;
  }
}

namespace detail {

// clang 14's __builtin_cpu_supports does not know it: leaf 7, subleaf 1, EAX, bit 4.
[[nodiscard]] inline bool cpu_has_avx_vnni() {
#if BISUP_X86 && (defined(__GNUC__) || defined(__clang__))
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || a < 1) return false;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
#else
  return false;
#endif
}

// Every Apple processor of 64 bits that macOS runs on has it.
[[nodiscard]] inline bool cpu_has_dot_product() {
#if BISUP_ARM64 && defined(__linux__)
  constexpr unsigned long asimd_dot_product = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & asimd_dot_product) != 0;
#elif BISUP_ARM64 && defined(__APPLE__)
  return true;
#else
  return false;
#endif
}

}  // namespace detail

[[nodiscard]] inline bool runs_here(Target target) {
  switch (target) {
    case Target::scalar: return true;
    case Target::neon: return detail::cpu_has_dot_product();
#if BISUP_X86
    case Target::avx2:  // every processor with AVX2 has F16C, which clang 14 cannot ask for
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Target::avx_vnni: return runs_here(Target::avx2) && detail::cpu_has_avx_vnni();
    case Target::avx512:
      return runs_here(Target::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq");
    case Target::avx512_vnni:
      return runs_here(Target::avx512) && __builtin_cpu_supports("avx512vnni");
#endif
    default: return false;
  }
}

// Whether every 512-bit instruction takes one of the two ports that multiply: so it is on Intel.
// AMD has four, of which two multiply.
[[nodiscard]] inline bool wide_vectors_share_ports() {
#if BISUP_X86
  return __builtin_cpu_is("intel") != 0;
#else
  return false;
#endif
}

[[nodiscard]] inline std::optional<Target> target_named(std::string_view text) {
  for (const Target target : all_targets) {
    if (name(target) == text) return target;
  }
  return std::nullopt;
}

// The target in force: BISUP_TARGET's if set, else the strongest that runs here. An unknown name,
// or one this processor lacks, is an error that names both.
[[nodiscard]] inline Result<Target> find_target() {
  Target best = Target::scalar;
  for (const Target target : all_targets) {  // a later one is stronger
    if (runs_here(target)) best = target;
  }
  const char* forced = std::getenv("BISUP_TARGET");
  if (forced == nullptr || *forced == '\0') return best;
  const auto wanted = target_named(forced);
  if (!wanted)
    return Error{Errc::unknown_target, "BISUP_TARGET=" + std::string(forced) + " is not a target"};
  if (!runs_here(*wanted)) {
    return Error{Errc::unknown_target, "BISUP_TARGET=" + std::string(forced) +
                                           " does not run on this processor, which has " +
                                           std::string(name(best))};
  }
  return *wanted;
}

// The target that kernels are chosen for, decided once. With a BISUP_TARGET that find_target()
// refuses this is scalar: everything that loads a model checks find_target() first.
[[nodiscard]] inline Target active_target() {
  static const Target target = [] {
    const auto found = find_target();
    return found ? *found : Target::scalar;
  }();
  return target;
}

}  // namespace bisup
