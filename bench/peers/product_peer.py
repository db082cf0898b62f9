# SPDX-License-Identifier: Apache-2.0
"""Times a product of few-bit weights by ONNX Runtime or OpenVINO on one thread: [tokens, 2048] times [2048, 5632].

    python product_peer.py onnxruntime|openvino [--bits 4] [--group 128] [--tokens 512]

The graph holds so many such products of one input that their weights (128 MiB) come from memory. Activations
are float at the door and rounded to 8 bits inside. Prints JSON: billions of operations a second.
"""

import argparse
import json
import os
import tempfile
import time

import numpy

COLS, ROWS, ENOUGH = 2048, 5632, 128 << 20


def onnxruntime_runner(options, copies, draw):
    """MatMulNBits with accuracy_level 4: activations in 8 bits."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
    blocks = COLS // options.group
    nodes, initializers, outputs = [], [], []
    for n in range(copies):
        codes = draw.integers(0, 256, (ROWS, blocks, options.group * options.bits // 8), dtype=numpy.uint8)
        scales = numpy.full(ROWS * blocks, 0.01, numpy.float32)
        initializers += [onnx.numpy_helper.from_array(codes, f"w{n}"), onnx.numpy_helper.from_array(scales, f"s{n}")]
        nodes.append(helper.make_node("MatMulNBits", ["x", f"w{n}", f"s{n}"], [f"y{n}"], domain="com.microsoft", K=COLS,
                                      N=ROWS, bits=options.bits, block_size=options.group, accuracy_level=4))
        outputs.append(helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, [options.tokens, ROWS]))
    graph = helper.make_graph(nodes, "products", [helper.make_tensor_value_info("x", TensorProto.FLOAT,
                                                                                [options.tokens, COLS])],
                              outputs, initializers)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=versions)
    model.ir_version = 10
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "products.onnx")
        onnx.save(model, path)
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x}), f"ONNX Runtime {onnxruntime.__version__}"


def openvino_runner(options, copies, draw):
    """Compressed weights, rounded activations in groups as long as the weights'."""
    import openvino
    from openvino import opset13 as ops
    kind = {4: openvino.Type.u4, 8: openvino.Type.u8}[options.bits]
    x = ops.parameter([options.tokens, COLS], openvino.Type.f32, "x")
    blocks, results, kept = COLS // options.group, [], []
    for _ in range(copies):
        codes = draw.integers(0, 256, ROWS * COLS * options.bits // 8, dtype=numpy.uint8)
        middle = numpy.full(ROWS * blocks * options.bits // 8, 0x88 if options.bits == 4 else 0x80, numpy.uint8)
        kept += [codes, middle]  # a constant only points to them
        constant = lambda data, shape: ops.convert(
            openvino.op.Constant(openvino.Tensor(data, shape, kind)), "f32")
        scale = ops.constant(numpy.full((ROWS, blocks, 1), 0.01, numpy.float32))
        centred = ops.subtract(constant(codes, [ROWS, blocks, options.group]), constant(middle, [ROWS, blocks, 1]))
        weights = ops.reshape(ops.multiply(centred, scale), ops.constant(numpy.array([ROWS, COLS])), False)
        results.append(ops.matmul(x, weights, False, True))
    core = openvino.Core()
    model = openvino.Model([ops.result(r) for r in results], [x])
    compiled = core.compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "DYNAMIC_QUANTIZATION_GROUP_SIZE": options.group,
        "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    return lambda value: request.infer({0: value}, share_outputs=True), f"OpenVINO {openvino.__version__.split('-')[0]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("peer", choices=["onnxruntime", "openvino"])
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args()
    draw = numpy.random.default_rng(0)
    copies = ENOUGH // (ROWS * COLS * options.bits // 8) + 1
    make = onnxruntime_runner if options.peer == "onnxruntime" else openvino_runner
    run, build = make(options, copies, draw)
    x = draw.standard_normal((options.tokens, COLS)).astype(numpy.float32)
    for _ in range(2):
        run(x)
    times = []
    for _ in range(5 if options.tokens > 64 else 15):
        start = time.process_time()  # of all its threads, of which one works
        run(x)
        times.append(time.process_time() - start)
    print(json.dumps({"gops": 2e-9 * options.tokens * ROWS * COLS * copies / sorted(times)[len(times) // 2],
                      "build": build}))


if __name__ == "__main__":
    main()
