"""Pictures of the results: time against n, memory against n, and the roofline; each can be read without the text."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtn_core.demo.atomic import replaced

from . import kernels
from .case import SECOND_ORDER, SOFTMAX, USUAL, Figures, Shape
from .measure import median
from .problems import ATTENTION, PROBLEMS
from .report import machine_name
from .results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS = {"torch": "#0b62a4", "jax": "#1f9e89", "tensorflow": "#6a51a3", "numpy": "#7f7f7f"}
KERNEL = "#17becf"
OTHERS = ("#d95f02", "#a6761d", "#e7298a", "#333333", "#e6ab02", "#e41a1c")
TITLES = {SECOND_ORDER: "Causal attention", ATTENTION: "Tensor Attention, unmasked"}
SHOWN = {
    "scaled_dot_product_attention": "softmax attention of PyTorch",
    "dtn": "this library",
    "dtn tvm": "this library, TVM",
}


def draw(results: Sequence[Result], folder: Path) -> list[tuple[str, Path]]:
    """Draw what can be drawn.

    Parameters
    ----------
    results : sequence of Result
        Of one machine.
    folder : Path
        Where the PNG files go.

    Returns
    -------
    list of (str, Path)
        A title and a file each; none without matplotlib.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    found = []
    for device in ("cpu", "cuda"):
        figures = [f for result in results for f in result.figures if f.device == device and f.rounds]
        where = "" if device == "cpu" else "-gpu"
        if not figures:
            continue
        about = next(r.about for r in reversed(results) if any(f.device == device for f in r.figures))
        found += [
            (
                "Time against the length of the sequence",
                _lines(figures, folder / f"time{where}.png", about, memory=False),
            ),
            (
                "Memory against the length of the sequence",
                _lines(figures, folder / f"memory{where}.png", about, memory=True),
            ),
            ("Roofline", _roofline(figures, folder / f"roofline{where}.png", about)),
        ]
    return [(title, path) for title, path in found if path is not None]


def whole(f: Figures) -> bool:
    """Whether a call was forward on a whole sequence, in a process like any other."""
    return not any(word in f.case for word in ("gradients", "token", "kept"))


def label(f: Figures) -> str:
    """What a line is called: one for each framework of ours, one for each of the others."""
    name = SHOWN.get(f.implementation, f.implementation)
    return f"{name}, {f.framework}" if f.ours else name


def series(figures: Iterable[Figures], problem: str, *, memory: bool) -> dict[str, list[tuple[int, float, bool]]]:
    """``(n, value, ours)`` by label, at the usual shape: of several modes and settings the best at each n.

    The races of kernels are at lengths of their own, minutes apart from the others.
    """
    found: dict[str, dict[int, tuple[float, bool]]] = {}
    wanted = {problem, SOFTMAX} if problem == SECOND_ORDER else {problem}
    for f in figures:
        if f.computes not in wanted or f.shape != USUAL or not whole(f) or f.n < 16 or f.case.startswith(kernels.NAME):
            continue
        if memory and f.peak_memory is None:
            continue
        value = float(f.peak_memory or 1) if memory else median(f.rounds)
        points = found.setdefault(label(f), {})
        points[f.n] = min(points.get(f.n, (value, f.ours)), (value, f.ours))
    return {name: sorted((n, v, ours) for n, (v, ours) in points.items()) for name, points in found.items()}


def _lines(figures: Sequence[Figures], path: Path, about: dict[str, Any], *, memory: bool) -> Path | None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = {p: series(figures, p, memory=memory) for p in (SECOND_ORDER, ATTENTION)}
    panels = {p: lines for p, lines in panels.items() if sum(len(points) > 1 for points in lines.values()) > 1}
    if not panels:
        return None
    figure, axes = plt.subplots(1, len(panels), figsize=(7.2 * len(panels), 5.4), squeeze=False, layout="constrained")
    for axis, (problem, lines) in zip(axes[0], panels.items(), strict=True):
        _panel(axis, lines, memory=memory)
        axis.set_title(f"{TITLES[problem]}: {'peak extra memory of' if memory else 'time of'} one call", loc="left")
    figure.suptitle(f"float32, 8 heads of 64 features, {machine_name(about)}, {about['date'][:10]}", fontsize=9)
    _save(figure, path)
    plt.close(figure)
    return path


def _panel(axis: Axes, lines: dict[str, list[tuple[int, float, bool]]], *, memory: bool) -> None:
    others = iter(OTHERS * 3)
    scale = 2**20 if memory else 1e-3
    for name, points in sorted(lines.items(), key=lambda item: (not item[1][-1][2], item[0])):
        own = points[-1][2]
        x, y = [n for n, _, _ in points], [value / scale for _, value, _ in points]
        style = {"lw": 2.4, "marker": "o"} if own else {"lw": 1.3, "ls": "--", "marker": "s"}
        axis.plot(x, y, color=_colour(name) if own else next(others), ms=4, label=name, **style)  # type: ignore[arg-type]
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("tokens n")
    axis.set_ylabel("MiB" if memory else "milliseconds")
    axis.grid(visible=True, which="major", alpha=0.3)
    axis.legend(fontsize=7, title="solid: this library; dashed: others; of several modes the best", title_fontsize=8)


def _colour(name: str) -> str:
    """Of one of our lines, by its label."""
    return KERNEL if SHOWN["dtn tvm"] in name else OURS[name.rpartition(", ")[2]]


def _roofline(figures: Sequence[Figures], path: Path, about: dict[str, Any]) -> Path | None:
    limits = about.get("ceilings", {})
    points = [f for f in figures if _intensity(f) is not None]
    if not points or {"flops", "bytes"} - limits.keys():
        return None
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5.4), layout="constrained")
    best: dict[tuple[str, int, Shape], dict[bool, Figures]] = {}
    for f in points:
        key = (f.computes, f.n, f.shape)
        mine = best.setdefault(key, {})
        mine[f.ours] = min((g for g in (mine.get(f.ours), f) if g is not None), key=lambda g: median(g.rounds))
    xs = [_intensity(f) or 0.0 for f in points]
    ridge = limits["flops"] / limits["bytes"]
    low, high = min(*xs, ridge) / 2, max(*xs, ridge) * 2
    grid = [low * (high / low) ** (i / 100) for i in range(101)]
    roof = [min(limits["flops"], x * limits["bytes"]) / 1e9 for x in grid]
    axis.plot(grid, roof, color="black", lw=1.5)
    axis.annotate(
        f"large matrix product of PyTorch, {limits['flops'] / 1e9:.0f} GFLOP/s",
        (high, roof[-1]),
        ha="right",
        va="bottom",
    )
    axis.annotate(f" large copy, {limits['bytes'] / 1e9:.0f} GB/s", (grid[5], roof[5]), va="top")
    for ours, marker, color in ((True, "o", OURS["torch"]), (False, "s", OTHERS[0])):
        shown = [pair[ours] for pair in best.values() if ours in pair]
        axis.scatter(
            [_intensity(f) for f in shown],
            [_rate(f) / 1e9 for f in shown],
            marker=marker,
            s=34,
            facecolors=color if ours else "none",
            edgecolors=color,
            label="this library, its fastest" if ours else "the fastest of the others",
        )
    longest = {computes: max(n for other, n, _ in best if other == computes) for computes, _, _ in best}
    for (computes, n, _), pair in best.items():
        if n == longest[computes] and True in pair:
            axis.annotate(f" {computes}", (_intensity(pair[True]) or 0.0, _rate(pair[True]) / 1e9), fontsize=7)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations of the compiler's form a byte of arguments and result")
    axis.set_ylabel("GFLOP/s")
    axis.set_title(f"Roofline: {machine_name(about)}, {about['date'][:10]}", loc="left")
    axis.grid(visible=True, which="major", alpha=0.3)
    axis.legend(loc="lower right", fontsize=8)
    _save(figure, path)
    plt.close(figure)
    return path


def _intensity(f: Figures) -> float | None:
    problem = PROBLEMS.get(f.computes)
    if problem is None or problem.operator is None or f.n < 1024 or f.error is None or not whole(f):
        return None
    return (problem.flops(f.n, f.shape) or 0) / problem.traffic(f.n, f.shape)


def _rate(f: Figures) -> float:
    return (PROBLEMS[f.computes].flops(f.n, f.shape) or 0) / median(f.rounds)


def _save(figure: Any, path: Path) -> None:
    with replaced(path) as beside:
        figure.savefig(beside, dpi=130, format="png")
