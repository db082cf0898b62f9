// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How fast are dense and 8-bit products beside oneDNN's (Debian: libdnnl-dev)? Both sides of each
// shape in turns, one thread, CPU time, weights packed beforehand where a side packs them, 64 MiB of
// them so that they come from memory; the result is the median of the turns' ratios.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <dnnl.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include <bisup/ops/gemm_dense.hpp>
#include <bisup/ops/rank_update.hpp>

#include "../ops/packed_weights.hpp"
#include "../probe.hpp"

namespace {

using namespace bisup;
using dnnl::memory;

struct Shape {
  int tokens, rows, cols;
};
constexpr std::size_t enough = std::size_t{64} << 20;  // bytes of weights

dnnl::engine& engine() {
  static dnnl::engine made(dnnl::engine::kind::cpu, 0);
  return made;
}

// y [tokens, rows] = x [tokens, cols] w^T, w in the layout that oneDNN likes best.
class Peer {
 public:
  Peer(Shape s, memory::data_type x_type, memory::data_type w_type, const std::vector<memory>& plain,
       const dnnl::primitive_attr& attributes = {})
      : stream_(engine()),
        x_({{s.tokens, s.cols}, x_type, memory::format_tag::ab}, engine()),
        y_({{s.tokens, s.rows}, memory::data_type::f32, memory::format_tag::ab}, engine()) {
    const memory::desc any({s.cols, s.rows}, w_type, memory::format_tag::any);
    const dnnl::matmul::primitive_desc described(
        dnnl::matmul::desc(x_.get_desc(), any, y_.get_desc()), attributes, engine());
    product_ = dnnl::matmul(described);
    for (memory source : plain) {
      memory packed(described.weights_desc(), engine());
      dnnl::reorder(source, packed).execute(stream_, source, packed);
      w_.push_back(packed);
    }
    stream_.wait();
  }
  [[nodiscard]] void* x() const { return x_.get_data_handle(); }
  [[nodiscard]] MatrixRef<const float> y() const {
    const auto dims = y_.get_desc().dims();
    return {static_cast<const float*>(y_.get_data_handle()), static_cast<int>(dims[0]),
            static_cast<int>(dims[1]), static_cast<int>(dims[1])};
  }
  void multiply(std::size_t copy) {
    product_.execute(stream_, {{DNNL_ARG_SRC, x_},
                               {DNNL_ARG_WEIGHTS, w_[copy % w_.size()]},
                               {DNNL_ARG_DST, y_}});
    stream_.wait();
  }

 private:
  dnnl::stream stream_;
  memory x_, y_;
  std::vector<memory> w_;
  dnnl::matmul product_;
};

// Runs both in turns and states the rates and their ratio.
template <class Ours>
void in_turns(benchmark::State& state, Shape s, double peak_operations, Ours&& ours, Peer& peer) {
  const double operations = 2e-9 * s.tokens * s.rows * s.cols;
  const int repeats = std::max(1, static_cast<int>(0.05 * peak_operations / operations / 4));
  std::vector<double> rates, peers, ratios;
  std::size_t copy = 0;
  for (auto _ : state) {
    const double here = bench::seconds_of([&] {
      for (int i = 0; i < repeats; ++i) ours(++copy);
    });
    const double there = bench::seconds_of([&] {
      for (int i = 0; i < repeats; ++i) peer.multiply(++copy);
    });
    rates.push_back(operations * repeats / here), peers.push_back(operations * repeats / there);
    ratios.push_back(there / here);
    state.SetIterationTime(here / repeats);
  }
  state.counters["GOPS"] = bench::median(rates);
  state.counters["of_peak"] = bench::median(rates) / peak_operations;
  state.counters["oneDNN_of_peak"] = bench::median(peers) / peak_operations;
  state.counters["of_oneDNN"] = bench::median(ratios);
}

// Two different orders of a sum of n products, each of at most `largest`.
bool close(MatrixRef<const float> a, MatrixRef<const float> b, int n, double largest) {
  for (int t : {0, a.rows() - 1}) {
    for (int r : {0, a.cols() / 2, a.cols() - 1}) {
      if (!(std::fabs(static_cast<double>(a(t, r)) - b(t, r)) <= 2.0 * n * 0x1p-24 * n * largest)) return false;
    }
  }
  return true;
}

void dense(benchmark::State& state, DType type, Shape s) {
  const memory::data_type peer_type = type == DType::f32 ? memory::data_type::f32 : memory::data_type::bf16;
  const auto count = static_cast<std::size_t>(s.rows) * static_cast<std::size_t>(s.cols);
  const std::size_t bytes = count * static_cast<std::size_t>(bytes_of(type)), copies = enough / bytes + 1;
  AlignedBuffer<std::uint8_t> weights(copies * bytes);
  Random random(1);
  for (std::size_t i = 0; i < copies * count; ++i) {
    const float v = static_cast<float>(random.uniform()) - 0.5f;
    if (type == DType::f32) reinterpret_cast<float*>(weights.data())[i] = v;
    else reinterpret_cast<BFloat16*>(weights.data())[i] = to_bfloat16(v);
  }
  std::vector<memory> plain;
  for (std::size_t c = 0; c < copies; ++c) {
    plain.emplace_back(memory::desc({s.cols, s.rows}, peer_type, memory::format_tag::ba), engine(),
                       weights.data() + c * bytes);
  }
  Peer peer(s, peer_type, peer_type, plain);
  // Numbers that bf16 holds, so that both sides multiply the same ones.
  Matrix<float> x(s.tokens, s.cols), y(s.tokens, s.rows);
  for (int i = 0; i < s.tokens * s.cols; ++i) {
    const BFloat16 v = to_bfloat16(static_cast<float>(random.uniform()) - 0.5f);
    x.data()[i] = to_float(v);
    if (type == DType::f32) static_cast<float*>(peer.x())[i] = to_float(v);
    else static_cast<BFloat16*>(peer.x())[i] = v;
  }
  ThreadPool pool(1);
  const auto ours = [&](std::size_t c) {
    multiply({weights.data() + c % copies * bytes, type, s.rows, s.cols}, x.ref(), y.ref(), pool);
  };
  ours(0), peer.multiply(0);
  if (!close(y.ref(), peer.y(), s.cols, .25)) return state.SkipWithError("differs from oneDNN");
  in_turns(state, s, bench::multiply_add_peak(), ours, peer);
}

void eight_bits(benchmark::State& state, Format format, Shape s) {
  const bench::PackedCopies w(format, s.rows, s.cols, enough);
  const QuantizedActivation rounded =
      bench::normal_activation({.group = format.group, .token_scales = true}, s.tokens, s.cols);
  const ActivationView x = rounded.view();
  const Target target = active_target();
  const GemmFn kernel = gemm_kernel(format, target).function;
  const GemmTasks tasks(w[0].shape, s.tokens);
  Matrix<float> y(s.tokens, s.rows);
  const auto ours = [&](std::size_t copy) {
    const PackedPanels& weights = w[copy];
    for (int i = 0; i < tasks.count(); ++i) kernel(weights, x, y.ref(), tasks.range(i, weights.shape, s.tokens));
  };
  ours(0);
  if (!bench::agrees(w[0], x, y.ref())) return state.SkipWithError("differs from scalar");
  // The peer has one scale a row, whatever our groups are, and needs its activations unsigned.
  const std::size_t bytes = static_cast<std::size_t>(s.rows) * static_cast<std::size_t>(s.cols);
  AlignedBuffer<std::int8_t> codes(bytes);
  Random random(1);
  for (std::size_t i = 0; i < bytes; ++i) codes[i] = static_cast<std::int8_t>(random.bits());
  std::vector<memory> plain(w.count(), memory({{s.cols, s.rows}, memory::data_type::s8, memory::format_tag::ba},
                                              engine(), codes.data()));
  dnnl::primitive_attr attributes;
  attributes.set_output_scales(2, std::vector<float>(static_cast<std::size_t>(s.rows), 0.01f));
  Peer peer(s, memory::data_type::u8, memory::data_type::s8, plain, attributes);
  for (int i = 0; i < s.tokens * s.cols; ++i) static_cast<std::uint8_t*>(peer.x())[i] = static_cast<std::uint8_t>(i);
  in_turns(state, s, target == Target::avx2 ? bench::multiply_add_peak() * 2 : bench::dot_peak(target), ours, peer);
}

// C += A^T A of [count, n] against the full product, which is all that oneDNN has: of_oneDNN above
// one is what symmetry saves.
void rank_update(benchmark::State& state, int count, int n) {
  Matrix<float> a(count, n), c(n, n);
  Random random(1);
  for (int i = 0; i < count * n; ++i) a.data()[i] = static_cast<float>(random.uniform()) - 0.5f;
  const Shape s{n, n, count};
  Peer peer(s, memory::data_type::f32, memory::data_type::f32,
            {memory({{count, n}, memory::data_type::f32, memory::format_tag::ab}, engine(), a.data())});
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < n; ++j) static_cast<float*>(peer.x())[j * count + i] = a(i, j);
  ThreadPool pool(1);
  const auto ours = [&](std::size_t) { add_gram(a.ref(), c.ref(), pool); };
  ours(0), peer.multiply(0);
  mirror_lower(c.ref());
  if (!close(c.ref(), peer.y(), count, .25)) return state.SkipWithError("differs from oneDNN");
  in_turns(state, s, bench::multiply_add_peak(), ours, peer);
}

}  // namespace

int main(int argc, char** argv) {
  if (std::getenv("OMP_NUM_THREADS") == nullptr) {  // which is read before main
    setenv("OMP_NUM_THREADS", "1", 1);
    execv("/proc/self/exe", argv);
  }
  benchmark::Initialize(&argc, argv);
  const dnnl_version_t& v = *dnnl_version();
  benchmark::AddCustomContext("oneDNN", std::to_string(v.major) + "." + std::to_string(v.minor) + "." +
                                            std::to_string(v.patch));
  const Shape shapes[] = {{512, 576, 576},   {512, 1536, 576},  {512, 576, 1536},
                          {512, 2048, 2048}, {512, 5632, 2048}, {512, 2048, 5632}};
  const auto registered = [](const std::string& name, Shape s, auto run) {
    benchmark::RegisterBenchmark((name + "/" + std::to_string(s.tokens) + "x" + std::to_string(s.rows) + "x" +
                                  std::to_string(s.cols)).c_str(), run)
        ->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(11);
  };
  for (const Shape s : shapes) {
    for (const DType type : {DType::f32, DType::bf16})
      registered(std::string(name(type)), s, [=](benchmark::State& state) { dense(state, type, s); });
    for (const int group : {0, 128})
      if (s.cols % 128 == 0)
        registered("int8_" + std::string(group == 0 ? "channel" : "g128"), s, [=](benchmark::State& state) {
          eight_bits(state, {.bits = 8, .group = group}, s);
        });
  }
  for (const int n : {576, 1536, 2048})
    registered("rank_update", {n, n, 512}, [=](benchmark::State& state) { rank_update(state, 512, n); });
  benchmark::RunSpecifiedBenchmarks();
}
