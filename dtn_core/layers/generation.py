"""Text from a language model: tokens drawn one at a time with NumPy, the same in every framework."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .definition import Definition, State
from .validation import positive_int, refuse

Tokens = NDArray[np.int32]
Advance = Callable[[Tokens, State], tuple[NDArray[Any], State]]

NUMBERS = (int, float, np.integer, np.floating)
LONGEST_PIECE = 512  # tokens of a prompt read at a time: bounds the memory, whatever the prompt's length


class Sampler:
    """Draws tokens from logits by the inverse of their distribution function.

    One uniform number a token, whatever the logits: where two frameworks' logits agree up to rounding, so do
    the tokens, unless a number falls within the rounding of a bound.

    Parameters
    ----------
    temperature : float
        Divides the logits; 0 takes the largest.
    top_k : int, optional
        Only the ``top_k`` largest logits count; by default all.
    seed : int, optional
        At least 0; None draws differently every time.

    Raises
    ------
    ValueError
        Names the argument, what was got and what is expected.

    Examples
    --------
    >>> Sampler(temperature=0.0)(np.array([[0.0, 2.0, 1.0]]))
    array([1], dtype=int32)
    """

    def __init__(self, temperature: float = 1.0, top_k: int | None = None, seed: int | None = 0) -> None:
        if isinstance(temperature, bool) or not isinstance(temperature, NUMBERS) or not 0 <= temperature < math.inf:
            raise refuse("temperature", temperature, "a finite number of at least 0")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0):
            raise refuse("seed", seed, "None or an integer of at least 0")
        self.temperature = float(temperature)
        self.top_k = None if top_k is None else positive_int("top_k", top_k)
        self.random = np.random.Generator(np.random.Philox(np.random.SeedSequence(None if seed is None else int(seed))))

    def __call__(self, logits: NDArray[Any]) -> Tokens:
        """Tokens ``[...]`` for ``logits[..., vocab]``."""
        logits = np.asarray(logits, dtype=np.float64)
        if not np.isfinite(logits).all():
            raise ValueError("logits: got a value that is not finite, no token can be drawn")
        uniform = self.random.random(logits.shape[:-1])
        if self.temperature == 0:
            return np.asarray(logits.argmax(axis=-1), np.int32)
        scaled = (logits - logits.max(axis=-1, keepdims=True)) / self.temperature
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            least = np.partition(scaled, -self.top_k, axis=-1)[..., -self.top_k, None]
            scaled = np.where(scaled < least, -np.inf, scaled)
        below = np.cumsum(np.exp(scaled), axis=-1)
        drawn = (below <= uniform[..., None] * below[..., -1:]).sum(axis=-1)
        return np.asarray(np.minimum(drawn, logits.shape[-1] - 1), np.int32)


def pieces(count: int) -> Iterator[int]:
    """Lengths of the pieces in which a prompt is read: powers of two, so that a framework compiles few.

    Examples
    --------
    >>> list(pieces(1200))
    [512, 512, 128, 32, 16]
    """
    while count:
        piece = min(LONGEST_PIECE, 1 << (count.bit_length() - 1))
        yield piece
        count -= piece


class LanguageModel:
    """Mixin of the frameworks' language models: generates text at constant memory and constant time a token.

    The framework's class has what is declared here.
    """

    definition: Definition
    init_state: Callable[..., State]
    advancer: Callable[[], Advance]
    """``advance(tokens[..., n], state) -> (logits[..., vocab] after the last token, state)``, compiled."""
    tokens_to_numpy: Callable[[Any], NDArray[Any]]
    """The framework's tensor of tokens as a NumPy array."""
    tokens_from_numpy: Callable[[NDArray[Any]], Any]
    """A NumPy array of tokens as the framework's tensor."""

    def generate(
        self,
        prompt: Any,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = 0,
    ) -> Any:
        """The prompt and ``max_new_tokens`` tokens drawn to follow it.

        Parameters
        ----------
        prompt : Array
            ``[..., n]`` integers, at least one token.
        max_new_tokens : int
            At least 0.
        temperature : float
            Divides the logits; 0 takes the likeliest token.
        top_k : int, optional
            Draw from the ``top_k`` likeliest tokens only.
        seed : int, optional
            The same seed draws the same tokens in every framework, where the logits agree; None draws
            differently every time.

        Returns
        -------
        Array
            ``[..., n + max_new_tokens]`` of the prompt's dtype, or int32 where that does not hold every token.

        Raises
        ------
        TypeError
            For a number of tokens that is True or False.
        ValueError
            For an argument outside its range, or a model that cannot stream (``mixer="softmax"``).

        Examples
        --------
        With ``from dtn_torch import DeepTensorLM``, or from another framework:

        >>> model = DeepTensorLM(vocab_size=256, seed=0)                                  # doctest: +SKIP
        >>> text = model.generate(np.frombuffer(b"def f(", np.uint8), max_new_tokens=80)  # doctest: +SKIP
        >>> bytes(text.tolist()).decode(errors="replace")                                 # doctest: +SKIP
        """
        if isinstance(max_new_tokens, bool | np.bool_):
            raise TypeError(f"max_new_tokens: got {max_new_tokens!r}, expected an integer of at least 0")
        try:
            count = operator.index(max_new_tokens)
        except TypeError:
            count = -1
        if count < 0:
            raise refuse("max_new_tokens", max_new_tokens, "an integer of at least 0")
        given = self._read(prompt)
        drawn = list(islice(self.stream(prompt, temperature, top_k, seed), count))
        last = self.definition.config()["vocab_size"] - 1
        kind = given.dtype if last <= np.iinfo(given.dtype).max else np.int32  # bytes do not hold every token
        return self.tokens_from_numpy(np.concatenate([given, *(token[..., None] for token in drawn)], -1).astype(kind))

    def stream(
        self, prompt: Any, temperature: float = 1.0, top_k: int | None = None, seed: int | None = 0
    ) -> Iterator[Tokens]:
        """Tokens ``[...]`` drawn to follow ``prompt[..., n]``, without end; arguments as in :meth:`generate`.

        Examples
        --------
        >>> for token in model.stream(prompt):          # doctest: +SKIP
        ...     print(chr(token), end="", flush=True)
        """
        if why := self.definition.why_not():
            raise ValueError(f"{type(self.definition).__name__} cannot stream: {why}")
        given = self._read(prompt)
        vocabulary: int = self.definition.config()["vocab_size"]
        if given.dtype.kind not in "iu" or given.ndim == 0 or given.shape[-1] == 0:
            shown = f"{given.dtype}{list(given.shape)}"
            raise refuse("prompt", shown, "integers [..., n] with n of at least 1")
        if given.size and not 0 <= given.min() <= given.max() < vocabulary:
            raise refuse("prompt", f"{given.min()} to {given.max()}", f"tokens from 0 to {vocabulary - 1}")
        return self._drawn(given.astype(np.int32), Sampler(temperature, top_k, seed))

    def _read(self, prompt: Any) -> Tokens:
        try:
            return self.tokens_to_numpy(prompt)
        except (TypeError, ValueError) as error:  # lists of different lengths, or what has no values in a graph
            reason = str(error).partition("\n")[0]
            raise refuse("prompt", type(prompt).__name__, f"integers [..., n] that have values: {reason}") from error

    def _drawn(self, prompt: Tokens, sampler: Sampler) -> Iterator[Tokens]:
        advance = self.advancer()
        state, start = self.init_state(prompt.shape[:-1]), 0
        for piece in pieces(prompt.shape[-1]):
            logits, state = advance(prompt[..., start : start + piece], state)
            start += piece
        while True:
            token = sampler(logits)
            yield token
            logits, state = advance(token[..., None], state)
