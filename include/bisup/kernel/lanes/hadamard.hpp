// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How is the Walsh-Hadamard matrix applied? Its first steps inside registers, then two steps at a
// time between them. Every butterfly rounds as in the scalar kernel: the same bits.
// Included by each_target.hpp.
// Limit: load and store ports, one pass over the row for two steps.
// Registers: four operands. Not tried: three steps at a time.

namespace bisup::BISUP_LANES {

template <bool Whole>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE Floats load_run(const float* from, int left) noexcept {
  return load_floats<DType::f32>(from, 0, Whole ? lane_count : left);
}

template <bool Whole>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void store_run(float* to, Floats v, int left) noexcept {
  store_first(to, v, Whole ? lane_count : left);
}

// The steps whose partners are half, 2 half, ... n / 2 apart, then the scale. Whole: half is a
// multiple of the lanes, or the last registers of a run are partly used.
template <bool Whole>
BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_ALWAYS_INLINE void steps_between(float* x, int n, int half, float scale) noexcept {
  for (; 4 * half <= n; half *= 4) {
    for (int block = 0; block < n; block += 4 * half) {
      for (int i = 0; i < half; i += lane_count) {
        float* p = x + block + i;
        const int left = half - i;
        const Floats a = load_run<Whole>(p, left), b = load_run<Whole>(p + half, left);
        const Floats c = load_run<Whole>(p + 2 * half, left);
        const Floats d = load_run<Whole>(p + 3 * half, left);
        const Floats ab = add(a, b), a_b = subtract(a, b);
        const Floats cd = add(c, d), c_d = subtract(c, d);
        store_run<Whole>(p, add(ab, cd), left);
        store_run<Whole>(p + half, add(a_b, c_d), left);
        store_run<Whole>(p + 2 * half, subtract(ab, cd), left);
        store_run<Whole>(p + 3 * half, subtract(a_b, c_d), left);
      }
    }
  }
  const Floats factor = splat(scale);
  if (half < n) {  // one step is left: n = 2 half
    for (int i = 0; i < half; i += lane_count) {
      float* p = x + i;
      const int left = half - i;
      const Floats a = load_run<Whole>(p, left), b = load_run<Whole>(p + half, left);
      store_run<Whole>(p, multiply(add(a, b), factor), left);
      store_run<Whole>(p + half, multiply(subtract(a, b), factor), left);
    }
    return;
  }
  for (int i = 0; i < n; i += lane_count) {
    store_run<Whole>(x + i, multiply(load_run<Whole>(x + i, n - i), factor), n - i);
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void hadamard_runs(float* x, int n, int run, float scale) noexcept {
  if (run % lane_count == 0) {
    steps_between<true>(x, n * run, run, scale);
  } else {
    steps_between<false>(x, n * run, run, scale);
  }
}

BISUP_COMPILED_FOR(BISUP_LANES_ISA)
BISUP_OPTIMIZED inline void hadamard(float* x, int n, float scale) noexcept {
  if (n < lane_count) return steps_between<false>(x, n, 1, scale);
  for (int i = 0; i < n; i += lane_count) {
    store(x + i, hadamard_of_lanes(load(x + i)));
  }
  steps_between<true>(x, n, lane_count, scale);
}

}  // namespace bisup::BISUP_LANES
