"""Every combination of knobs of the catalogue, without those that clash; clashes are spelled out here again on purpose."""

from __future__ import annotations

import itertools
import random

SIDES = ("q", "k")
NORMALIZATIONS = ("trace", "diag", "row", None)
ACTIVATIONS = (None, "relu", "exp", "expm")
PRODUCTS = (
    {"product": "hadamard"},
    *({"order": order, "asymmetric": asymmetric} for order in (1, 2, 3, 4) for asymmetric in (False, True)),
)
ATTENTION_MASKS = ({}, {"mask": "tril"}, {"mask": "causal"}, {"mask": "causal", "decay": 0.9})
INTERACTION_MASKS = ({}, {"mask": "causal"}, {"mask": "causal", "decay": 0.9})


def scalars_for(normalize):
    """Scale, residual and eps; eps clashes with normalize=None."""
    return {"scale": 0.7, "residual": 0.5, **({} if normalize is None else {"eps": 0.1})}


def attention_knobs():
    """Every structure of Tensor Attention, once plain and once with all its scalars."""
    for side, product, normalize, activation, mask, full in itertools.product(
        SIDES, PRODUCTS, NORMALIZATIONS, ACTIVATIONS, ATTENTION_MASKS, (False, True)
    ):
        yield {
            "side": side, **product, "normalize": normalize, "activation": activation, **mask,
            **(scalars_for(normalize) if full else {}),
        }  # fmt: skip


def interaction_knobs():
    """Every structure of Tensor Interaction, once plain and once with all its scalars."""
    for side, product, normalize, activation, mask, full in itertools.product(
        SIDES, ("matmul", "hadamard"), NORMALIZATIONS, ACTIVATIONS, INTERACTION_MASKS, (False, True)
    ):
        yield {
            "side": side, "product": product, "normalize": normalize, "activation": activation, **mask,
            **(scalars_for(normalize) if full else {}),
        }  # fmt: skip


def shown(knobs):
    """A test id: ``order=3,mask=tril``."""
    return ",".join(f"{name}={value}" for name, value in knobs.items())


def sample(combinations, count, seed):
    """A seeded sample that covers every pair of knob values first, then fills up at random."""
    pool = list(combinations)
    if len(pool) <= count:
        return pool
    random.Random(seed).shuffle(pool)
    seen, covering, rest = set(), [], []
    for knobs in pool:
        pairs = set(itertools.combinations(sorted((name, str(value)) for name, value in knobs.items()), 2))
        (rest if pairs <= seen else covering).append(knobs)
        seen |= pairs
    return covering + rest[: max(0, count - len(covering))]
