"""Initial weights, drawn with NumPy from the seed and the parameter's path: the same in every framework."""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Initialiser = Callable[[np.random.Generator, tuple[int, ...]], NDArray[Any]]


@dataclass(frozen=True)
class Constant:
    """Every element is ``value``."""

    value: float

    def __call__(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
        return np.full(shape, self.value)


@dataclass(frozen=True)
class Normal:
    """Gaussian with standard deviation ``deviation``."""

    deviation: float

    def __call__(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
        return generator.normal(0.0, self.deviation, shape)


@dataclass(frozen=True)
class Uniform:
    """Uniform in ``[-limit, limit)``."""

    limit: float

    def __call__(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
        return generator.uniform(-self.limit, self.limit, shape)


def glorot(inputs: Sequence[int], outputs: Sequence[int]) -> Uniform:
    """Glorot and Bengio's uniform initialiser for a map from the axes ``inputs`` to the axes ``outputs``."""
    return Uniform(math.sqrt(6.0 / (math.prod(inputs) + math.prod(outputs))))


@dataclass(frozen=True)
class Seed:
    """Where a layer's initial weights come from: one integer for the model, and the layer's path in it.

    Parameters
    ----------
    entropy : int
        The model's seed, at least 0.
    path : str
        Dot-separated path of the layer, ``""`` for the model itself.

    Examples
    --------
    >>> Seed.of(0).child("blocks", 0).child("mlp")
    Seed(entropy=0, path='blocks.0.mlp')
    """

    entropy: int
    path: str = ""

    @classmethod
    def of(cls, seed: int | Seed | None) -> Seed:
        """``seed`` itself, the root of an integer, or of fresh entropy from the machine for None.

        Raises
        ------
        ValueError
            If ``seed`` is not an integer of at least 0.
        """
        if isinstance(seed, Seed):
            return seed
        if seed is None:
            return cls(int(np.random.default_rng().integers(2**63)))
        try:
            entropy = operator.index(seed)
        except TypeError:
            entropy = -1
        if entropy < 0 or isinstance(seed, bool):
            raise ValueError(f"seed: got {seed!r}, expected None or an integer of at least 0")
        return cls(entropy)

    def child(self, *names: str | int) -> Seed:
        """The seed of a layer below this one."""
        return Seed(self.entropy, self.join(*names))

    def join(self, *names: str | int) -> str:
        """The path of something below this layer."""
        return ".".join(filter(None, (self.path, *map(str, names))))

    def draw(self, name: str, shape: tuple[int, ...], initialiser: Initialiser) -> NDArray[np.float32]:
        """Initial value of the layer's parameter ``name``, float32, from its own random stream."""
        stream = np.random.SeedSequence([self.entropy, zlib.crc32(self.join(name).encode())])
        return initialiser(np.random.default_rng(stream), shape).astype(np.float32)
