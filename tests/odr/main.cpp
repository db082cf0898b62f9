// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// Two units of one program, compiled for different processors, must compute the same: kernels carry
// their own instruction set, so whichever copy the linker keeps holds the same instructions.

#include <cstdio>
#include <vector>

std::vector<float> plain();
std::vector<float> wide();

int main() {
  const auto a = plain(), b = wide();
  int different = a.size() != b.size();
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) different += a[i] != b[i];
  std::printf("%zu values, %d differ\n", a.size(), different);
  return different == 0 && !a.empty() ? 0 : 1;
}
