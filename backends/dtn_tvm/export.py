"""Records to a folder of compiled kernels, which another program loads with apache-tvm-ffi alone."""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dtn_core.errors import DtnError
from dtn_core.notation import parse
from dtn_core.operators import Operator

from . import exported
from .bundle import runtime_libraries
from .candidates import FAMILY
from .record import Record, shape
from .targets import from_json as target_from_json


class ExportError(DtnError):
    """A folder that cannot be written, or a record that cannot be compiled."""


def export(records: Sequence[Record], folder: Path, family: str = FAMILY) -> list[str]:
    """Compile records into a folder.

    Parameters
    ----------
    records : sequence of Record
        Each becomes a library.
    folder : Path
        Made; it must not be there, or be empty.
    family : str
        The module of the schedules.

    Returns
    -------
    list of str
        The names of the kernels.

    Raises
    ------
    ExportError
        Then the folder is as it was.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} is there already; give a folder that is not")
    schedules = importlib.import_module(family)
    about: dict[str, Any] = {}
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
            beside = Path(name) / "kernels"
            (beside / "lib").mkdir(parents=True)
            for number, record in enumerate(records):
                kernel = f"{record.operator}_{record.direction}_{record.dtype}_{number}"
                about[kernel] = _compile(schedules, record, beside / f"{kernel}.so", beside / "lib")
            shutil.copyfile(exported.__file__, beside / "kernels.py")
            (beside / "kernels.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            beside.replace(folder)
    except OSError as error:
        raise ExportError(f"{folder}: {error.strerror}") from None
    return list(about)


def _compile(family: Any, record: Record, library: Path, runtime: Path) -> dict[str, Any]:
    options = dict(record.target_options)
    try:
        target = target_from_json({"name": record.target, "options": options})
        operator = Operator(parse(record.notation), record.scalars)
        problem = family.Problem(operator, record.direction, record.dtype, record.sizes)
        schedule = family.Schedule.from_json(record.schedule)
        family.compile(problem, schedule, target).export(library)
    except (DtnError, ValueError) as error:
        raise ExportError(f"{record.operator}, {shape(record.sizes)}: {error}") from None
    except RuntimeError as error:  # of the linker: what it says, then its command line
        said = " ".join(str(error).split("Command line:")[0].split())
        raise ExportError(f"{record.operator}, {shape(record.sizes)}: {said}") from None
    files = runtime_libraries(target.kind)
    for file in files:
        if not (runtime / file.name).exists():
            shutil.copyfile(file, runtime / file.name)
    order = sorted(files, key=lambda file: "cudart" not in file.name)  # TVM's CUDA runtime asks for it
    return {
        "inputs": [_tensor(problem, param) for param in problem.inputs],
        "outputs": [_tensor(problem, param) for param in problem.outputs],
        "notation": record.notation,
        "scalars": dict(record.scalars),
        "direction": record.direction,
        "target": options,
        "runtime": [file.name for file in order],
        "schedule": dict(record.schedule),
        "receipt": record.to_json()["receipt"],
        "versions": dict(record.versions),
    }


def _tensor(problem: Any, param: Any) -> dict[str, Any]:
    axes = ["batch", "heads", *param.axes]
    return {"name": param.name, "axes": axes, "tuned": list(problem.shape(param)), "dtype": problem.kind(param)}
