"""What can be measured: a task is one call, a contender competes with others in a case at one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Settings = Mapping[str, int]

SECOND_ORDER, SOFTMAX = "second order", "softmax"
FORWARD, GRADIENTS, STEP = "forward", "forward and gradients", "step"
MODULE, TRAINING, DECODING = "module", "training step", "decoding step"
START, CEILING = "start", "ceiling"


@dataclass(frozen=True)
class Shape:
    """Of q, k and v, but for their length.

    Parameters
    ----------
    batch, heads, features : int
        ``[batch, heads, n, features]``.
    dtype : str
        Of the tensors; references are in float64, from the tensors as they were rounded.
    values : int, optional
        Features of v and of the output, where they are others than those of q and k.
    """

    batch: int = 1
    heads: int = 8
    features: int = 64
    dtype: str = "float32"
    values: int | None = None

    def __str__(self) -> str:
        values = "" if self.values is None else f", e = {self.values},"
        return f"{self.batch}×{self.heads}×n×{self.features}{values} {self.dtype}"

    def size(self, axis: str) -> int:
        """Of ``d``, the features of q and k, or of ``e``, those of v and the output."""
        return self.values if axis == "e" and self.values is not None else self.features


USUAL = Shape()


class UnavailableError(Exception):
    """An optional contender cannot run here; the text says why. No fault."""


@dataclass(frozen=True)
class Task:
    """One call of one implementation.

    Parameters
    ----------
    kind : str
        ``FORWARD``, ``GRADIENTS``, ``STEP`` (one more token after ``n``), ``MODULE`` (a layer),
        ``TRAINING`` (one step of a model), ``DECODING`` (one token more of a model), ``START`` (a fresh process) or
        ``CEILING`` (what the machine can do).
    framework, implementation : str
        Where it runs, and its name in that framework's runner.
    mode : str
        How it is run: eager, compiled, jit, ...
    n : int
        Tokens.
    computes : str
        Which of the oracle's functions it has to agree with.
    settings : mapping of str to int
        Its own knobs, such as the chunk size.
    shape : Shape
        Of the tensors.
    device : str
        ``"cpu"`` or ``"cuda"``.
    """

    kind: str
    framework: str
    implementation: str
    mode: str
    n: int
    computes: str = SECOND_ORDER
    settings: Settings = field(default_factory=dict)
    shape: Shape = USUAL
    device: str = "cpu"

    @property
    def label(self) -> str:
        """Such as ``torch twin compiled (chunk 64), n = 128``."""
        knobs = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return f"{self.framework} {self.implementation} {self.mode}{f' ({knobs})' if knobs else ''}, n = {self.n}"


@dataclass(frozen=True)
class Contender:
    """An implementation that takes part in a case.

    Parameters
    ----------
    framework, implementation, mode, computes
        As in :class:`Task`.
    ours : bool
        Whether it is this library's.
    grid : tuple of settings
        Candidates; the fastest of them takes part.
    like : str
        The mode of the same implementation whose choice is taken over, instead of looking for the fastest again.
    memory : bool
        Whether its peak memory is measured too.
    stops : int, optional
        The largest n that it is asked for.
    why : str
        Why it stops there.
    """

    framework: str
    implementation: str
    mode: str
    computes: str = SECOND_ORDER
    ours: bool = False
    grid: tuple[Settings, ...] = ({},)
    like: str = ""
    memory: bool = False
    stops: int | None = None
    why: str = ""

    def task(self, race: Race, n: int, settings: Settings) -> Task:
        """The call to measure."""
        names = self.framework, self.implementation, self.mode
        return Task(race.kind, *names, n, self.computes, settings, race.shape, race.device)


@dataclass(frozen=True)
class Race:
    """Calls that are measured in turn, A B C A B C, so that each meets the same machine.

    Parameters
    ----------
    case : str
        The name under which the figures are written.
    kind : str
        As in :class:`Task`.
    entries : tuple of (Contender, int)
        Who runs, and at which n.
    rounds : int
        How often.
    shape : Shape
        Of the tensors.
    device : str
        Where.
    environment : tuple of (str, str)
        Variables of the environment, for which it runs in processes of its own.
    """

    case: str
    kind: str
    entries: tuple[tuple[Contender, int], ...]
    rounds: int
    shape: Shape = USUAL
    device: str = "cpu"
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Such as ``forward, n = 128``; a race is asked for, and its results are kept, under it."""
        lengths = sorted({n for _, n in self.entries})
        shown = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} … {lengths[-1]}"
        shape = "" if self.shape == USUAL else f", {self.shape}"
        return f"{self.case}, n = {shown}{shape}"


@dataclass
class Figures:
    """What was found out about one entry of a race; times in seconds, memory in bytes.

    ``peak_memory`` is the largest extra memory of a call.

    ``absent`` says why there are no times; ``failed`` that this is a fault.
    """

    case: str
    framework: str
    implementation: str
    mode: str
    n: int
    ours: bool
    computes: str
    settings: dict[str, int]
    rounds: list[float] = field(default_factory=list)
    error: float | None = None
    candidates: list[dict[str, Any]] = field(default_factory=list)
    peak_memory: int | None = None
    absent: str | None = None
    failed: bool = False
    shape: Shape = USUAL
    device: str = "cpu"

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)
