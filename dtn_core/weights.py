"""One safetensors file for a model's weights, the same in every framework.

The file holds every parameter under its dot-separated path, and as metadata the format version and the
axis names of every tensor.  Reading checks the whole file against the model before anything is changed.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .errors import DtnError
from .layers import Definition, parameter_of

FORMAT_VERSION = "1"
SHOWN = 5

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64"}


class WeightsError(DtnError, ValueError):
    """A weights file that does not fit the model; names the tensor, and both shapes or types."""


def save(
    model: Any, path: str | os.PathLike[str], to_numpy: Callable[[Any], NDArray[Any]], own: Mapping[str, Any]
) -> None:
    """Write the weights of ``model``; beside ``path`` first, then renamed, so that ``path`` is always whole.

    Parameters
    ----------
    model : Any
        A layer of one of the backends.
    path : path-like
        The file to write.
    to_numpy : callable
        A native parameter as a NumPy array.
    own : Mapping[str, Any]
        The native parameters that the model has, by the names that its framework gives them.

    Raises
    ------
    TypeError
        If ``model`` is not a layer of this library.
    FileNotFoundError
        If the folder of ``path`` is not there; IsADirectoryError where ``path`` is a folder.
    WeightsError
        If the parameters have a type that safetensors has no name for, or the model has others than its
        definition (a subclass's, or a block that was appended), which a file would lose.
    """
    definition = definition_of(model)
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder, expected the name of a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no folder {target.parent}")
    axes = {name: parameter.axis_names for name, parameter in definition.named_parameters()}
    native = _parameters(model, axes)
    known = set(map(id, native.values()))
    lost = [name for name, parameter in own.items() if id(parameter) not in known]
    if lost:
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        raise WeightsError(
            f"{target}: the model has parameters that a {type(definition).__name__} does not have, the file would lose "
            f"them: {', '.join(lost[:SHOWN])}{more}; save the model with its framework's own format"
        )
    arrays = {name: np.ascontiguousarray(to_numpy(parameter)) for name, parameter in native.items()}
    metadata = {
        "format": "deep-tensor-network",
        "format_version": FORMAT_VERSION,
        "layer": type(definition).__name__,
        "axes": json.dumps(axes),
    }
    beside = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    try:
        beside.touch()
        mode = beside.stat().st_mode
        save_file(arrays, beside, metadata=metadata)
        beside.chmod(mode)  # save_file makes a file that nobody else reads
        os.replace(beside, target)
    except SafetensorError as error:
        raise WeightsError(f"{target}: {error}") from None
    finally:
        beside.unlink(missing_ok=True)


def load(
    model: Any,
    path: str | os.PathLike[str],
    dtype_of: Callable[[Any], str],
    assign: Callable[[Any, NDArray[Any]], None],
    own: Mapping[str, Any],
) -> None:
    """Read weights into ``model``, in the types it has; a file that does not fit leaves the model as it was.

    Parameters
    ----------
    model : Any
        A layer of one of the backends.
    path : path-like
        The file to read.
    dtype_of : callable
        Name of a native parameter's type, ``"float32"``.
    assign : callable
        Writes a NumPy array into a native parameter.
    own : Mapping[str, Any]
        The native parameters that the model has, by the names that its framework gives them.

    Raises
    ------
    TypeError
        If ``model`` is not a layer of this library.
    FileNotFoundError
        If there is no such file; IsADirectoryError for a folder.
    WeightsError
        If the file is not one of safetensors, or does not fit the model: names the first tensors that differ, or
        what the model computes in place of a parameter.
    """
    axes = {name: parameter.axis_names for name, parameter in definition_of(model).named_parameters()}
    shapes = {name: parameter.shape for name, parameter in definition_of(model).named_parameters()}
    native = _parameters(model, axes)
    held = set(map(id, own.values()))
    computed = [name for name, parameter in native.items() if id(parameter) not in held]
    if computed:
        raise WeightsError(
            f"{computed[0]} is no parameter of the model, it is computed (a parametrization?), so it cannot be loaded; "
            "load first"
        )
    dtypes = {name: dtype_of(parameter) for name, parameter in native.items()}
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a safetensors file")
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            problems = _problems(file, axes, shapes, dtypes)
            if problems:
                more = f"\n… and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
                raise WeightsError(f"{path} does not fit the model:\n" + "\n".join(problems[:SHOWN]) + more)
            # converted here, so that every framework rounds alike
            arrays = {name: file.get_tensor(name).astype(_numpy(dtypes[name]), copy=False) for name in native}
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}") from None
    for name, parameter in native.items():
        assign(parameter, arrays[name])


def _parameters(model: Any, names: Iterable[str]) -> dict[str, Any]:
    """The native parameters of ``model`` by their paths."""
    found = {}
    for name in names:
        try:
            found[name] = parameter_of(model, name)
        except (AttributeError, IndexError) as error:
            raise WeightsError(f"the model has no {name}, which its definition has: {error}") from None
    return found


def definition_of(model: Any) -> Definition:
    """The definition that ``model``, a layer of one of the backends, was made from."""
    definition = getattr(model, "definition", None)
    if not isinstance(definition, Definition):
        inside = hasattr(getattr(model, "module", None), "definition")  # as that of DistributedDataParallel
        hint = "; save or load its .module" if inside else ""
        raise TypeError(f"expected a layer of deep-tensor-network, got {type(model).__name__}{hint}")
    return definition


def _numpy(dtype: str) -> np.dtype[Any]:
    """NumPy's type of this name, ``bfloat16`` among them."""
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def _converts(found: str, own: str) -> bool:
    """Whether weights of type ``found`` become ``own``: integers are no weights, and no imaginary part is dropped."""
    return found in _DTYPES.values() and (own.startswith("complex") or not found.startswith("complex"))


def _problems(
    file: Any,
    axes: Mapping[str, tuple[str, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, str],
) -> list[str]:
    """What keeps the file from fitting the model; reads the header only."""
    metadata = file.metadata() or {}
    version = metadata.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        return [f"format version {version} in the file, this library reads {FORMAT_VERSION}"]
    try:
        named = {name: tuple(names) for name, names in json.loads(metadata.get("axes", "{}")).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ["the axis names in the file's metadata are not readable"]
    problems = []
    present = set(file.keys())
    for name, shape in shapes.items():
        if name not in present:
            problems.append(f"{name}: not in the file, shape {shape} in the model")
            continue
        tensor = file.get_slice(name)
        found, dtype = tuple(tensor.get_shape()), _DTYPES.get(tensor.get_dtype(), tensor.get_dtype())
        if found != shape:
            problems.append(f"{name}: shape {found} in the file, {shape} in the model")
        elif not _converts(dtype, dtypes[name]):
            problems.append(f"{name}: {dtype} {found} in the file, {dtypes[name]} {shape} in the model")
        elif named.get(name, axes[name]) != axes[name]:
            problems.append(f"{name} {shape}: axes {named[name]} in the file, {axes[name]} in the model")
    for name in sorted(present.difference(shapes)):
        found = tuple(file.get_slice(name).get_shape())
        problems.append(f"{name}: shape {found} in the file, not in the model")
    return problems
