"""Compiled operators in TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dtn_codegen.function import Function
from dtn_codegen.implementations import Kernels
from dtn_codegen.kernel_calls import as_kernels
from dtn_codegen.tensorflow import TARGET
from dtn_core.errors import ShapeError

from .kernels import call

_NOT_DENSE = (tf.RaggedTensor, tf.SparseTensor)


class TensorFlowArrays:
    """Implements :class:`dtn_codegen.arrays.Arrays`."""

    def expand(self, x: Any, place: int) -> Any:
        return tf.expand_dims(x, place)

    def squeeze(self, x: Any, place: int) -> Any:
        return tf.squeeze(x, place)

    def move(self, x: Any, place: int, to: int) -> Any:
        return tf.experimental.numpy.moveaxis(x, place, to)

    def take(self, x: Any, rows: np.ndarray, place: int) -> Any:
        return tf.gather(x, rows, axis=x.shape.rank + place)

    def joined(self, pieces: list[Any], place: int) -> Any:
        return tf.concat(pieces, axis=place)

    def merged(self, x: Any, place: int) -> Any:
        axis, shape = x.shape.rank + place, tf.shape(x)
        return tf.reshape(x, tf.concat([shape[: axis - 1], [shape[axis - 1] * shape[axis]], shape[axis + 1 :]], 0))

    def constant(self, values: np.ndarray, like: Any) -> Any:
        return tf.constant(values)

    def numbers(self, x: Any, *, wait: bool) -> np.ndarray | None:
        x = tf.convert_to_tensor(x)
        if tf.executing_eagerly() and not wait and "CPU" not in x.device:
            return None
        return tf.get_static_value(x)


class TensorFlowFunction(Function):
    """A compiled operator on TensorFlow tensors: eager, ``tf.function``, XLA and ``GradientTape``.

    As everywhere in TensorFlow, dtypes are not promoted: arguments of two dtypes are a TypeError.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import dtn_tensorflow as dtn
    >>> f = dtn.compile("gram(x[n,d]) -> g[d,d]:  g[a,b] = x[i,a] * x[i,b]")
    >>> tf.function(f)(tf.ones((5, 2))).numpy().tolist()
    [[5.0, 5.0], [5.0, 5.0]]
    """

    target = TARGET
    arrays = TensorFlowArrays()

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *tensors: Any, **named: Any) -> Any:
        """As :meth:`dtn_codegen.function.Function.__call__`; nothing in it is for AutoGraph to convert."""
        self.check_dense(tensors, named)
        return super().__call__(*tensors, **named)

    @tf.autograph.experimental.do_not_convert
    def init_state(self, *tensors: Any, **named: Any) -> Any:
        """As :meth:`dtn_codegen.function.Function.init_state`."""
        self.check_dense(tensors, named)
        return super().init_state(*tensors, **named)

    @tf.autograph.experimental.do_not_convert
    def step(self, state: Any, *tensors: Any, **named: Any) -> tuple[Any, Any]:
        """As :meth:`dtn_codegen.function.Function.step`."""
        self.check_dense(tensors, named)
        return super().step(state, *tensors, **named)

    def check_dense(self, tensors: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Refuse what is not stored whole, which a plan for dense tensors of its shape would be recalled for."""
        for name, value in (*zip(self.signature.tensors, tensors, strict=False), *named.items()):
            if isinstance(value, _NOT_DENSE):
                raise TypeError(
                    f"{self.__name__}: {name} is a {type(value).__name__}, expected a dense tensor; sequences of "
                    "several lengths go with padding_mask, or one after another with cu_seqlens"
                )

    def convert(self, tensors: Sequence[Any], names: Sequence[str] = ()) -> tuple[Any, ...]:
        """Arguments as tensors."""
        return tuple(map(self._tensor, names or self.signature.tensors, tensors))

    def _tensor(self, name: str, tensor: Any) -> tf.Tensor:
        """The argument ``name`` as a tensor."""
        try:
            found = tf.convert_to_tensor(tensor)
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            kind = type(tensor).__name__
            raise TypeError(f"{self.__name__}: {name} is a {kind}, expected a tensor: {reason}") from error
        if found.shape.rank is None:
            raise ShapeError(f"{self.__name__}: {name} has axes that are not known, say how many with tf.ensure_shape")
        return found

    def cast_scalar(self, value: Any, tensors: Sequence[Any]) -> Any:
        """A tensor of scalars in the dtype computed in."""
        dtype = tensors[0].dtype
        return tf.cast(value, tf.float32 if dtype in (tf.float16, tf.bfloat16) else dtype)

    def is_complex(self, names: Sequence[str], arrays: Sequence[Any]) -> bool:
        """Whether the tensors are complex; refuses integers, booleans and mixtures."""
        for name, array in zip(names, arrays, strict=True):
            if not (array.dtype.is_floating or array.dtype.is_complex):
                raise TypeError(f"{self.__name__}: {name} has dtype {array.dtype.name}; expected floating or complex")
            if array.dtype != arrays[0].dtype:
                raise TypeError(
                    f"{self.__name__}: {names[0]} has dtype {arrays[0].dtype.name} and {name} {array.dtype.name}; "
                    "TensorFlow does not promote dtypes, cast one with tf.cast"
                )
        return bool(arrays[0].dtype.is_complex)

    def run_kernels(
        self, kernels: Kernels, arguments: Sequence[Any], leading: Sequence[Any], sizes: Mapping[str, Any]
    ) -> Sequence[Any]:
        """Call kernels, at once or when the graph runs."""
        native = as_kernels(self.native, kernels)
        return call(self.kernel_shapes(kernels), native, arguments, leading, sizes)
