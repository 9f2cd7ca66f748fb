"""The part both catalogue operators share: T → normalize → activation → mask → residual → times V."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..notation import parse
from .knobs import Parameter
from .operator import Operator


class Definition:
    """Collects the statements of a catalogue operator as index notation.

    Parameters
    ----------
    name : str
        The operator's name.
    knobs : Mapping[str, Any]
        Checked knobs.
    tensors : Sequence[str]
        Declarations of the tensor parameters, ``"q[n,d]"`` and so on.
    output : str
        Declaration of the output.
    """

    def __init__(self, name: str, knobs: Mapping[str, Any], tensors: Sequence[str], output: str) -> None:
        self.name = name
        self.knobs = knobs
        self.tensors = tensors
        self.output = output
        self.lines: list[str] = []
        neutral = {"scale": 1.0, "residual": 0.0, "eps": 0.0, "decay": None}
        self.scalars = [s for s in neutral if isinstance(knobs[s], Parameter) or knobs[s] != neutral[s]]
        self.decay = " decay decay" if "decay" in self.scalars else ""

    def scaled(self, times: int) -> str:
        """The leading factors ``scale * … *`` of a product of ``times`` score matrices."""
        return "scale * " * times if "scale" in self.scalars else ""

    def add(self, line: str) -> None:
        """Append a statement."""
        self.lines.append(line)

    def denominator(self, trace: str, diagonal: str, row: str, where: str, batch: str, index: str) -> str:
        """Define the denominator of T and return how it is read (empty when there is none).

        ``batch`` are the indices one T belongs to, ``index`` its row; ``where`` orders the trace.
        """
        kind = self.knobs["normalize"]
        if kind is None and "residual" not in self.scalars:
            return ""
        if kind in ("trace", None):
            left = f"[{batch}]" if batch else ""
            self.add(f"r{left} = {trace}{where}")
        else:
            left = f"[{batch},{index}]" if batch else f"[{index}]"
            self.add(f"r{left} = {diagonal if kind == 'diag' else row}")
        if "eps" in self.scalars and kind is not None:
            self.add(f"r_eps{left} = r{left} + eps")
            return f"r_eps{left}"
        return f"r{left}"

    def activated(self, matrix: str, divide: str) -> str:
        """Define the activated T and return how it is read, its division included or still to do."""
        activation = self.knobs["activation"]
        if activation is None:
            return matrix + divide
        left = matrix[matrix.index("[") :]
        if divide:
            self.add(f"P{left} = {matrix}{divide}")
            matrix = f"P{left}"
        self.add(f"E{left} = {activation}({matrix})")
        return f"E{left}"

    def build(self) -> Operator:
        """Parse what was collected."""
        params = ", ".join([*self.tensors, *self.scalars])
        text = f"{self.name}({params}) -> {self.output}:\n" + "\n".join(f"    {line}" for line in self.lines)
        bound = {s: float(self.knobs[s]) for s in self.scalars if not isinstance(self.knobs[s], Parameter)}
        return Operator(parse(text), bound, dict(self.knobs))
