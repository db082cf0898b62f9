# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""How fast does the tokenizers library tokenize, beside ours, on one thread in the same run?

    python bench/peers/tokenizer.py build/release/bin/bench_text_tokenizer MODEL...

MODEL as in tests/oracle/tokenizer.py. CPU seconds of one thread; both sides read a text that they
have not seen, the peer's best of three against our median. Prints one JSON object a line.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "oracle"))

import tokenizer as oracle  # noqa: E402: the variables must be set first
from tokenizer_text import mixed_text  # noqa: E402


def main():
    program = sys.argv[1]
    mixed = mixed_text(1_500_000, 1, oracle.both_know)
    for model in map(Path, sys.argv[2:]):
        if model.is_dir():
            model /= "tokenizer.json"
        with tempfile.NamedTemporaryFile() as file:
            file.write(mixed)
            file.flush()
            times = []
            for _ in range(3):
                peer = oracle.reference(model)
                start = time.process_time()
                ids = peer.encode(mixed.decode("utf-8", "replace")).ids
                times.append(time.process_time() - start)
            ours = json.loads(subprocess.run([program, str(model), file.name], check=True,
                                             capture_output=True).stdout)
        assert ours["tokens"] == len(ids), "not the same tokens"
        print(json.dumps({"model": str(model), "bytes": len(mixed), "tokenizers_seconds": min(times),
                          "bisup_seconds": ours["first_seconds"],
                          "ratio": round(min(times) / ours["first_seconds"], 1)}))


if __name__ == "__main__":
    main()
