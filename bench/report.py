"""Tables of what was measured: ours against the best of the others, rows in which we lose in bold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table as RichTable

from .case import USUAL, Figures
from .machine import plain
from .measure import median, middle, ratio, spread
from .problems import PROBLEMS


@dataclass(frozen=True)
class Row:
    """Cells of a table."""

    cells: tuple[str, ...]
    losing: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a title and a sentence below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""

    def markdown(self) -> str:
        """As Markdown, losing rows in bold."""
        lines = [f"### {self.title}", ""]
        lines += [f"| {' | '.join(self.columns)} |", f"|{'---|' * len(self.columns)}"]
        for row in self.rows:
            cells = [f"**{cell}**" if row.losing and cell else cell for cell in row.cells]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])

    def rich(self) -> RichTable:
        """For the terminal, losing rows in bold."""
        table = RichTable(
            *self.columns,
            title=self.title,
            title_justify="left",
            caption=self.note or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for row in self.rows:
            table.add_row(*row.cells, style="bold" if row.losing else "")
        return table


@dataclass(frozen=True)
class Target:
    """Something that was promised of a figure: it is to be at most, or at least, ``limit``.

    Attributes
    ----------
    what : str
        The quantity: whose, and held against what.
    where : str
        At which length and shape, and who stood on the other side; empty where there is but one place.
    rounds : sequence of float
        The quantity in each round; what counts is the median.
    """

    what: str
    where: str
    rounds: Sequence[float]
    limit: float
    at_least: bool = False

    @property
    def value(self) -> float:
        """The median."""
        return median(self.rounds)

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return self._holds(self.value)

    @property
    def missed(self) -> bool:
        """Whether it does not, beyond the noise of this run: neither end of the median's interval holds."""
        found = middle(self.rounds)
        return not (self._holds(found.low) or self._holds(found.high))

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or ``within noise`` where the median misses and its interval does not."""
        return "met" if self.met else "missed" if self.missed else "within noise"

    @property
    def shown(self) -> str:
        """The value with two digits behind the point, or the third where only that one tells it from the limit."""
        text = f"{self.value:.2f}"
        return text if self.met or float(text) != self.limit else f"{self.value:.3f}"

    @property
    def interval(self) -> str:
        """Such as ``0.97 – 1.08``; empty where there was one round."""
        found = middle(self.rounds)
        return f"{found.low:.2f} – {found.high:.2f}" if len(self.rounds) > 1 else ""

    @property
    def bound(self) -> str:
        """Such as ``≤ 1.05``."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"

    def _holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def name(figures: Figures) -> str:
    """The framework, implementation, mode and settings."""
    knobs = ", ".join(f"{knob} {value}" for knob, value in figures.settings.items())
    return f"{figures.framework}: {figures.implementation}, {figures.mode}{f' ({knobs})' if knobs else ''}"


def duration(seconds: float) -> str:
    """With three digits and a unit.

    Examples
    --------
    >>> duration(0.01234), duration(2e-5)
    ('12.3 ms', '20.0 µs')
    """
    factor, unit = (1e6, "µs") if seconds < 1e-3 else (1e3, "ms") if seconds < 1 else (1, "s")
    value = seconds * factor
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def size(number: int) -> str:
    """Bytes in MiB."""
    return f"{number / 2**20:.1f} MiB"


def measured(figures: Iterable[Figures], case: str) -> list[Figures]:
    """Those of a case that have times."""
    return [found for found in figures if found.case == case and found.rounds]


def lengths(figures: Iterable[Figures]) -> list[int]:
    """Every n, in order."""
    return sorted({found.n for found in figures})


def length(f: Figures) -> str:
    """The number of tokens, and the shape where it is not the usual one."""
    return str(f.n) if f.shape == USUAL else f"{f.n} ({f.shape})"


def rate(f: Figures) -> str:
    """Operations a second of the compiler's form, and bytes a second of arguments and result, whoever computes."""
    problem = PROBLEMS.get(f.computes)
    if problem is None or not f.rounds or f.error is None or "gradients" in f.case or "token" in f.case:
        return ""
    seconds = median(f.rounds)
    flops, moved = problem.flops(f.n, f.shape), problem.traffic(f.n, f.shape)
    shown = "" if flops is None else f"{flops / seconds / 1e9:.3g} / "
    return f"{shown}{moved / seconds / 1e9:.2g}"


def fastest(figures: Iterable[Figures]) -> Figures | None:
    """The one with the smallest median."""
    return min(figures, key=lambda found: median(found.rounds), default=None)


def rivals(ours: Figures, figures: Iterable[Figures]) -> list[Figures]:
    """The others that compute the same at the same length: in our framework and mode, else anywhere."""
    same = [
        f
        for f in figures
        if (f.n, f.computes, f.shape, f.device) == (ours.n, ours.computes, ours.shape, ours.device) and not f.ours
    ]
    return [f for f in same if (f.framework, f.mode) == (ours.framework, ours.mode)] or same


def contest(figures: Sequence[Figures], case: str, note: str = "") -> Table:
    """Ours against the best rival, one row for each of ours."""
    rows = []
    found = measured(figures, case)
    for n in lengths(found):
        for ours in (f for f in found if f.ours and f.n == n):
            best = fastest(rivals(ours, found))
            if best is None:
                continue
            times = ratio(ours.rounds, best.rounds)
            rows.append(
                Row(
                    (
                        length(ours),
                        name(ours),
                        duration(median(ours.rounds)),
                        name(best),
                        duration(median(best.rounds)),
                        f"{times:.2f}",
                    ),
                    losing=times > 1,
                )
            )
    columns = ("n", "ours", "time", "best of the others", "time", "ours ÷ best")
    return Table(f"{case}: ours against the best of the others", columns, tuple(rows), note)


def everything(figures: Sequence[Figures], case: str) -> Table:
    """Every entry of a case, with its spread, error and memory, or why it is not there."""
    shown = [f for f in figures if f.case == case and f.absent != "not asked for"]
    with_memory = any(f.peak_memory is not None for f in shown)
    rows = []
    for n in lengths(shown):
        for f in (f for f in shown if f.n == n):
            if f.rounds:
                error = "" if f.error is None else f"{f.error:.0e}"
                cells = [length(f), name(f), duration(median(f.rounds)), f"{spread(f.rounds):.0%}", error, rate(f)]
            else:
                cells = [length(f), name(f), f.absent or "", "", "", ""]
            if with_memory:
                cells.append("" if f.peak_memory is None else size(f.peak_memory))
            rows.append(Row(tuple(cells)))
    columns = ["n", "implementation", "median", "spread", "error", "GFLOP/s / GB/s"]
    if with_memory:
        columns.append("peak extra memory")
    note = (
        "Spread: interquartile range ÷ median. Error: largest of any token's vector, relative, against float64. Rates "
        "are of the operations of the compiler's form and of the bytes of arguments and result, whoever computes."
    )
    return Table(f"{case}: every entry", tuple(columns), tuple(rows), note)


def series(figures: Sequence[Figures], case: str, *, column: str, limit: float, note: str = "") -> Table:
    """One implementation along n, each against the one before; a row is losing above ``limit``."""
    rows: list[Row] = []
    before: Figures | None = None
    for f in sorted(measured(figures, case), key=lambda f: (f.framework, f.implementation, f.mode, f.n)):
        first = before is None or name(before) != name(f)
        times = None if first or before is None else ratio(f.rounds, before.rounds)
        shown = "" if times is None else f"{times:.2f}"
        cells = (name(f), str(f.n), duration(median(f.rounds)), f"{spread(f.rounds):.0%}", shown)
        rows.append(Row(cells, losing=times is not None and times > limit))
        before = f
    return Table(case, ("implementation", column, "time", "spread", "÷ the row above"), tuple(rows), note)


def target_table(targets: Sequence[Target]) -> Table:
    """What was promised, and what was found; what is missed in bold."""
    rows = [Row((t.what, t.where, t.shown, t.interval, t.bound, t.verdict), t.missed) for t in targets]
    note = "Interval: of the median, 95 %. Within noise: the median misses its target, an end of the interval does not."
    return Table("targets", ("what", "where", "found", "interval", "target", ""), tuple(rows), note)


def summary_table(title: str, machines: Sequence[tuple[str, Sequence[Target]]]) -> Table:
    """What was promised, and what each machine found: the least and the most of all places.

    What is missed is bold, with the place that misses most; where none misses beyond noise, the place is named alone.

    Parameters
    ----------
    title : str
    machines : sequence of (str, sequence of Target)
        Their names, of which two may be alike.

    Examples
    --------
    >>> found = [Target("time ÷ by hand", f"n = {n}", [value], 1.05) for n, value in ((128, 0.9), (1024, 1.2))]
    >>> print(summary_table("speed", [("here", found), ("there", found[:1])]).markdown())
    ### speed
    <BLANKLINE>
    | what | target | here | there |
    |---|---|---|---|
    | time ÷ by hand | ≤ 1.05 | **0.90 – 1.20** (n = 1024) | 0.90 |
    <BLANKLINE>
    """
    kinds = dict.fromkeys((t.what, t.bound) for _, targets in machines for t in targets)
    rows = [
        Row((*kind, *(_range([t for t in targets if (t.what, t.bound) == kind]) for _, targets in machines)))
        for kind in kinds
    ]
    return Table(title, ("what", "target", *(machine for machine, _ in machines)), tuple(rows))


def _range(targets: Sequence[Target]) -> str:
    if not targets:
        return ""
    least, most = (extreme(targets, key=lambda target: target.value) for extreme in (min, max))
    text = least.shown if least.shown == most.shown else f"{least.shown} – {most.shown}"
    worst = least if least.at_least else most
    missed = [target for target in targets if target.missed]
    if missed:
        worst = (min if least.at_least else max)(missed, key=lambda target: target.value)
    if worst.met:
        return text
    where = f" ({worst.where})" if worst.where else ""
    return f"**{text}**{where}" if missed else f"{text}{where}, within noise"


def machine_name(about: dict[str, Any]) -> str:
    """Its accelerator where that was measured, else its processor and vector unit."""
    return about["machine"].get("accelerator") or _host(about)


def _host(about: dict[str, Any]) -> str:
    found = about["machine"]
    return ", ".join(part for part in (plain(found["processor"]), found.get("vectors")) if part)


def machine_line(about: dict[str, Any]) -> str:
    """One sentence on where the figures come from."""
    found = about["machine"]
    packages = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    commit = about["commit"]
    at = f"commit {commit['hash'][:12]}{' with changes' if commit['changed'] else ''}" if commit else "no commit"
    load = "" if found["load"] is None else f", load {found['load']:.1f} at the start"
    where = ", ".join(dict.fromkeys((machine_name(about), _host(about))))
    return f"{where}, {found['cores']} cores{load}; Python {about['python']}, {packages}; {at}; {about['date']}."


def ceiling_line(about: dict[str, Any]) -> str:
    """What the machine reached in the same run."""
    found = about.get("ceilings") or {}
    parts = [
        *([f"a product of large matrices {found['flops'] / 1e9:.0f} GFLOP/s"] if "flops" in found else []),
        *([f"a large copy {found['bytes'] / 1e9:.0f} GB/s"] if "bytes" in found else []),
    ]
    return f"In the same run: {', '.join(parts)}." if parts else ""


def markdown(heading: str, introduction: str, abouts: Sequence[dict[str, Any]], tables: Iterable[Table]) -> str:
    """A section of the report; its races may have been run at several commits."""
    runs = {about["date"]: f"{machine_line(about)} {ceiling_line(about)}" for about in abouts}
    lines = [f"- {line}" for line in runs.values()]
    shown = [table.markdown() for table in tables if table.rows]
    return "\n".join([f"## {heading}", "", introduction, "", *lines, "", *shown])
