// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// Formats, layouts and views as CUDA C++: a named format is a kernel's template argument, a device view
// goes into it by value, and device code reads the same weights as host code. Without a device only
// the host half runs, and the exit status 77 says so.

#include <cstdio>
#include <vector>

#include <bisup/core/float16.hpp>
#include <bisup/core/format.hpp>
#include <bisup/pack/layout.hpp>
#include <bisup/pack/packed_view.hpp>

namespace {

using namespace bisup;

template <AnyFormat F, class L>
using DeviceView = PackedView<F, L, Space::device>;

template <class F, class L>
__global__ void read_all(DeviceView<F, L> view, float* out) {
  for (int i = static_cast<int>(threadIdx.x); i < view.rows * view.cols; i += 32) {
    out[i] = view(i / view.cols, i % view.cols);
  }
}

template <class T>
T* on_device(const std::vector<T>& host) {
  void* memory = nullptr;
  cudaMalloc(&memory, host.size() * sizeof(T) + 1);
  cudaMemcpy(memory, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
  return static_cast<T*>(memory);
}

// Returns how many weights differ between device and host; host: between the view and the codes.
template <class F, class L>
int differences(bool device) {
  constexpr int rows = 19, cols = 70;  // no multiple of any tile
  const PackedShape shape{F::value, rows, cols, L::tile_rows, L::tile_codes};
  std::vector<std::uint8_t> codes(shape.code_bytes()), zeros(shape.scale_count());
  std::vector<scale_t<F>> scales(shape.scale_count());
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i * 37 + i / 7);
  for (std::size_t i = 0; i < scales.size(); ++i) {
    scales[i] = scale_t<F>{to_half(0.01f * static_cast<float>(i + 1))};
    zeros[i] = static_cast<std::uint8_t>(i % 8);
  }
  const PackedView<F, L> view{codes.data(), scales.data(), zeros.data(), rows, cols};
  std::vector<float> read(static_cast<std::size_t>(rows * cols));
  int wrong = 0;
  if (device) {
    float* out = on_device(read);
    read_all<F, L><<<1, 32>>>({on_device(codes), on_device(scales), on_device(zeros), rows, cols}, out);
    if (cudaMemcpy(read.data(), out, read.size() * sizeof(float), cudaMemcpyDeviceToHost) != cudaSuccess) {
      std::printf("device: %s\n", cudaGetErrorString(cudaGetLastError()));
      return 1;
    }
    for (int i = 0; i < rows * cols; ++i) {
      wrong += read[static_cast<std::size_t>(i)] != view(i / cols, i % cols);
    }
    return wrong;
  }
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c) {
      store_code<F::bits, L>(codes.data() + shape.tile_offset(r, c), r % L::tile_rows, c % L::tile_codes,
                             (r + c) % (1 << F::bits));
      wrong += view.code(r, c) != (r + c) % (1 << F::bits);
    }
  }
  return wrong;
}

int all_differences(bool device) {
  return differences<int4_g64, panel16>(device) + differences<int3_g64, sequential>(device) +
         differences<int8_channel, planar>(device) + differences<uint4_g64, panel16>(device);
}

}  // namespace

int main() {
  int wrong = all_differences(false), devices = 0;
  const bool device = cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
  if (device) wrong += all_differences(true);
  std::printf("%d differences, %s\n", wrong, device ? "host and device" : "skipped: no device, host only");
  return wrong != 0 ? 1 : device ? 0 : 77;
}
