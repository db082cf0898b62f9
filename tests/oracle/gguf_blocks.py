# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""Writes gguf_blocks.bin: blocks of every GGUF type that bisup reads, and their values.

Needs `gguf` and `numpy` from PyPI. Layout, little-endian: per type u32 number, u32 count of elements,
u32 count of bytes, the bytes, the values as f32. --out FOLDER writes there instead of beside itself.
"""
import argparse
import pathlib
import struct

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

# Where the f16 scales lie in a block of the types that gguf can read and not write.
SCALES = {T.Q2_K: (80, 82), T.Q3_K: (108,), T.Q4_K: (0, 2), T.Q5_K: (0, 2), T.Q6_K: (208,)}


def blocks_of(kind, random):
    length, size = gguf.GGML_QUANT_SIZES[kind]
    count = 2 if length == 256 else 4
    if kind not in SCALES:
        values = random.standard_normal(max(length * count, 64)).astype(np.float32)
        values[:3] = 0, -7.5, 7.5
        return gguf.quants.quantize(values.reshape(1, -1), kind).view(np.uint8).reshape(-1)
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for offset in SCALES[kind]:
        scales = random.uniform(-0.1, 0.1, (count, 1)).astype(np.float16)
        blocks[:, offset : offset + 2] = scales.view(np.uint8)
    return blocks.reshape(-1)


def main():
    random = np.random.default_rng(20)
    out = b""
    for kind in (T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, *SCALES):
        data = blocks_of(kind, random)
        values = np.ascontiguousarray(gguf.quants.dequantize(data, kind), dtype=np.float32).reshape(-1)
        assert np.isfinite(values).all()
        out += struct.pack("<III", kind, values.size, data.size) + data.tobytes() + values.tobytes()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    (parser.parse_args().out / "gguf_blocks.bin").write_bytes(out)


main()
