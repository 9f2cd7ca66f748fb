"""How TensorFlow is held to the conformance matrix."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dtn_codegen.conformance import GeneratedAdapter, second_of
from dtn_core.conform.adapter import Native
from dtn_core.conform.cells import Cell
from dtn_core.conform.operators import case
from dtn_core.conform.reference import has_matrix_function
from dtn_core.conform.structure import decays

from .function import TensorFlowFunction

LOOP_IN_MAP = (
    "tf.vectorized_map cannot convert gradients of every loop (of chunks with decay, of squarings), "
    "https://github.com/tensorflow/tensorflow/issues/41789"
)

LOOP_IN_XLA = (
    "where chunks run one after another, the loop over them has neither a length nor shapes that XLA knows, as its "
    "second gradient needs"
)

DEVICES = {"cpu": "/CPU:0", "cuda": "/GPU:0"}


class TensorFlowAdapter(GeneratedAdapter):
    """TensorFlow: ``GradientTape``, XLA, ``tf.vectorized_map`` and SavedModels."""

    name = "tensorflow"
    function_type = TensorFlowFunction
    packages = ("tensorflow", "keras", "numpy")

    def missing_device(self) -> str:
        """Whether TensorFlow sees a GPU."""
        found = self.device == "cpu" or tf.config.list_physical_devices("GPU")
        return "" if found else "TensorFlow sees no CUDA device here"

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """TF32 off, one device."""
        tf.config.experimental.enable_tensor_float_32_execution(False)
        with tf.device(DEVICES[self.device]):
            yield

    def array(self, x: np.ndarray, dtype: str | None = None) -> tf.Tensor:
        made = tf.constant(np.array(x))
        return made if dtype is None else tf.cast(made, dtype)

    def numpy(self, x: Any) -> np.ndarray:
        return np.asarray(tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x)

    def einsum(self, spec: str, *arrays: tf.Tensor) -> tf.Tensor:
        return tf.einsum(spec, *arrays)

    def transform(self, mode: str, function: Native, example: Sequence[tf.Tensor]) -> Native:
        """XLA, ``vectorized_map``, or a SavedModel that is loaded again."""
        if mode == "jit":
            return tf.function(function, jit_compile=True, autograph=False)  # type: ignore[no-any-return]
        if mode == "vmap":
            return lambda *arrays: second_of(_mapped(function, arrays))
        return _saved(function, example)

    def gradient(
        self, mode: str, function: Native, weights: Sequence[np.ndarray], example: Sequence[tf.Tensor]
    ) -> Native:
        """A tape, recorded inside the compiled function or the map."""
        loss = self.loss(function, weights)

        def gradient(*arrays: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.GradientTape() as tape:
                tape.watch(arrays)
                value = loss(*arrays)
            return tuple(tape.gradient(value, arrays, unconnected_gradients="zero"))

        return self.each(mode, gradient)

    def second(
        self,
        mode: str,
        function: Native,
        weights: Sequence[np.ndarray],
        directions: Sequence[np.ndarray],
        example: Sequence[tf.Tensor],
    ) -> Native:
        """A tape in a tape."""
        loss = self.loss(function, weights)

        def second(*arrays: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.GradientTape() as outer:
                outer.watch(arrays)
                with tf.GradientTape() as inner:
                    inner.watch(arrays)
                    value = loss(*arrays)
                first = inner.gradient(value, arrays, unconnected_gradients="zero")
                along = tf.add_n([tf.reduce_sum(g * d) for g, d in zip(first, directions, strict=True)])
            return tuple(outer.gradient(along, arrays, unconnected_gradients="zero"))

        return self.each(mode, second)

    def each(self, mode: str, gradient: Native) -> Native:
        """A gradient in a mode."""
        return gradient if mode == "eager" else self.transform(mode, gradient, ())

    @staticmethod
    def loss(function: Native, weights: Sequence[np.ndarray]) -> Callable[..., tf.Tensor]:
        """``Re Σ conj(weights) function(...)``."""

        def loss(*arrays: tf.Tensor) -> tf.Tensor:
            pairs = zip(weights, function(*arrays), strict=True)
            return tf.add_n([tf.math.real(tf.reduce_sum(tf.cast(np.conj(c), y.dtype) * y)) for c, y in pairs])

        return loss

    def declared(self, cell: Cell) -> tuple[str, str] | None:
        """What TensorFlow itself does not do, and a loop that is not written so that XLA can differentiate it twice."""
        program = case(cell.text).operator.program
        looping = (cell.form == "chunked" and decays(program)) or has_matrix_function(program)
        if looping and cell.mode == "vmap" and cell.check.endswith("gradient"):
            return "xfail", LOOP_IN_MAP
        if (cell.form, cell.mode, cell.check) == ("chunked", "jit", "second gradient"):
            return "gap", LOOP_IN_XLA
        return None


class _Model(tf.Module):  # type: ignore[misc]
    """A module whose ``call`` is saved."""

    def __init__(self, function: Native, example: Sequence[tf.Tensor]) -> None:
        super().__init__()
        signature = [tf.TensorSpec(x.shape, x.dtype) for x in example]
        self.call = tf.function(function, input_signature=signature, autograph=False)


def _saved(function: Native, example: Sequence[tf.Tensor]) -> Native:
    with tempfile.TemporaryDirectory(prefix="dtn-conform-") as folder:
        tf.saved_model.save(_Model(lambda *arrays: tuple(function(*arrays)), example), folder)
        loaded = tf.saved_model.load(folder)

    def call(*arrays: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(loaded.call(*arrays))  # the model must live as long as its function

    return call


def _mapped(function: Native, arrays: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """``function`` over two examples, the second of them ``arrays``."""
    two = tuple(tf.stack([x if x.dtype == tf.bool else x / 2, x]) for x in arrays)
    return tuple(tf.vectorized_map(lambda each: tuple(function(*each)), two))


ADAPTER = TensorFlowAdapter
