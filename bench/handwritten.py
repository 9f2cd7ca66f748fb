"""Generated PyTorch against the same operator written by hand, in one process, interleaved.

    python -m bench.handwritten [--out bench/results]

Prints, and writes as JSON with the machine's description: the ratio of medians for the default operator
over a range of lengths, the overhead of a call, the time to compile from text and to look a compiled
operator up again. No figure is taken before the outputs were compared with the dense interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.benchmark import Timer

import dtn_torch
from dtn_core.demo.atomic import replaced
from dtn_core.interpret import interpret
from dtn_core.operators import tensor_attention
from dtn_core.passes import pipeline

from . import machine

HEADS, FEATURES = 8, 64
LENGTHS = (128, 1024, 8192, 65536)
ROUNDS = 9


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Trace-normalised Tensor Attention as one would write it."""
    kk = k.mT @ k
    trace = (kk * (q.mT @ q)).sum((-2, -1), keepdim=True)
    return (q @ kk) @ (q.mT @ v) / trace


def by_hand_reassociated(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same with the products in the order the compiler found."""
    kk = k.mT @ k
    trace = (kk * (q.mT @ q)).sum((-2, -1), keepdim=True)
    return q @ (kk @ (q.mT @ v) / trace)


def interleaved(functions: dict[str, Callable[..., Any]], arguments: tuple[Any, ...]) -> dict[str, float]:
    """Median seconds of each function, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    threads = torch.get_num_threads()
    timers = {
        name: Timer("f(*args)", globals={"f": function, "args": arguments}, num_threads=threads)
        for name, function in functions.items()
    }
    loops = {name: max(1, int(0.05 / timer.timeit(2).mean)) for name, timer in timers.items()}
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            times[name].append(timer.timeit(loops[name]).mean)
    return {name: statistics.median(values) for name, values in times.items()}


def check() -> float:
    """Largest error of the generated function against the dense interpreter, relative."""
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 33, FEATURES))
    expected = interpret(tensor_attention().program, q, k, v)
    got = dtn_torch.tensor_attention(*map(torch.from_numpy, (q, k, v))).numpy()
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not error < 1e-9:
        raise SystemExit(f"the output is wrong ({error:.1e}); no timing")
    return error


def compile_seconds() -> float:
    """Median seconds from index notation to a callable, nothing remembered."""
    text = tensor_attention().notation
    seconds = []
    for number in range(9):
        fresh = text.replace("tensor_attention", f"attention_{number}_{os.getpid()}")
        pipeline.candidates.cache_clear()
        start = time.perf_counter()
        dtn_torch.compile(fresh)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    out: Path = parser.parse_args().out
    report: dict[str, Any] = {
        **machine.describe(),
        "threads": torch.get_num_threads(),
        "relative_error": check(),
        "shape": {"batch": 1, "heads": HEADS, "d": FEATURES, "e": FEATURES, "dtype": "float32"},
        "lengths": [],
    }
    text = tensor_attention().notation
    compiled = dtn_torch.compile(text)
    peers = {"by hand": by_hand, "by hand, reassociated": by_hand_reassociated, "generated": compiled}
    for length in LENGTHS:
        arguments = tuple(torch.randn(3, 1, HEADS, length, FEATURES))
        medians = interleaved(peers, arguments)
        ratios = {name: medians["generated"] / medians[name] for name in peers if name != "generated"}
        report["lengths"].append({"n": length, "seconds": medians, "generated / peer": ratios})
        print(f"n = {length:6d}: generated {medians['generated'] * 1e3:9.3f} ms,", end=" ")
        print(", ".join(f"{ratio:.2f} x {name}" for name, ratio in ratios.items()))
    tiny = tuple(torch.randn(3, 4, 4))
    medians = interleaved({"by hand": by_hand, "generated": compiled}, tiny)
    report["call_overhead_us"] = (medians["generated"] - medians["by hand"]) * 1e6
    report["compile_ms"] = compile_seconds() * 1e3
    lookup = Timer("compile(text)", globals={"compile": dtn_torch.compile, "text": text}).timeit(2000).mean
    report["lookup_us"] = lookup * 1e6
    for name in ("call_overhead_us", "compile_ms", "lookup_us"):
        print(f"{name}: {report[name]:.1f}")
    out.mkdir(parents=True, exist_ok=True)
    target = out / "handwritten.json"
    with replaced(target) as beside:
        beside.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {target}")


if __name__ == "__main__":
    main()
