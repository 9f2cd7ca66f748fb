"""The data: 1,797 handwritten digits of 8 × 8 pixels, scanned from forms, that scikit-learn carries.

E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TEST_SHARE = 0.2
WHITE = 16.0  # the largest value of a pixel

_SPLIT, _BATCHES, _NOISE = 0, 1, 2  # streams of the seed


@dataclass(frozen=True)
class Digits:
    """Images ``[count, 8, 8]`` float32 in [-1, 1] and their labels ``[count]`` int32."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int32]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int32]


def load(seed: int) -> Digits:
    """The digits, split into training and test images by a permutation drawn from ``seed``.

    Parameters
    ----------
    seed : int
        At least 0.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / (WHITE / 2) - 1).astype(np.float32)
    labels = bunch.target.astype(np.int32)
    order = _stream(seed, _SPLIT).permutation(len(labels))
    test = round(TEST_SHARE * len(labels))
    return Digits(images[order[test:]], labels[order[test:]], images[order[:test]], labels[order[:test]])


def batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Indices of the examples of each batch of an epoch, the same on every machine and in every framework.

    Parameters
    ----------
    count : int
        Number of examples.
    batch_size : int
        A last smaller batch is left out, so that every step has the same shapes.
    seed, epoch : int
        Each pair has a permutation of its own, drawn with Philox.

    Examples
    --------
    >>> [len(batch) for batch in batches(10, 4, seed=0, epoch=0)]
    [4, 4]
    """
    order = _stream(seed, _BATCHES, epoch).permutation(count)
    for start in range(0, count - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def noisy(images: NDArray[np.float32], deviation: float, seed: int, step: int) -> NDArray[np.float32]:
    """The images of a step with Gaussian noise, the same in every framework.

    Parameters
    ----------
    images : ndarray
        ``[batch, 8, 8]``.
    deviation : float
        Standard deviation of the noise.
    seed, step : int
        Each pair has noise of its own.
    """
    noise = _stream(seed, _NOISE, step).standard_normal(images.shape, dtype=np.float32)
    return images + np.float32(deviation) * noise


def _stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
