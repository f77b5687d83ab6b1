"""The peer of `overhead`: a plain timing loop around ONNX Runtime, in a process of its own. Not run by itself.

bare_loop.py MODEL ITEMS.npz INPUT — answers each line ``n first`` on stdin with n latencies as a JSON list.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime


def main(model: str, items_path: str, name: str) -> None:
    """Serve until stdin ends."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs = [one.name for one in session.get_outputs()]
    items = np.load(items_path)[name]
    feeds = [{name: items[at : at + 1]} for at in range(len(items))]
    clock, run = time.perf_counter_ns, session.run
    print("ready", flush=True)
    for line in sys.stdin:
        n, first = map(int, line.split())
        latencies = []
        for at in range(first, first + n):
            feed = feeds[at % len(feeds)]
            began = clock()
            run(outputs, feed)
            latencies.append(clock() - began)
        print(json.dumps(latencies), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
