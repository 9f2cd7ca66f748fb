"""What became of a candidate that was built: its time, or one of a few reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .process import Child, CrashError, HangError, StartError

HUNG = "hung"


def outcome(child: Child, job: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Have a candidate measured.

    Parameters
    ----------
    child : Child
        The process that runs kernels.
    job : Mapping
        ``measure``.
    timeout : float
        Seconds.

    Returns
    -------
    dict
        ``seconds`` and ``errors``, or ``failure`` (a reason that is counted) and ``detail``; ``limit`` too, the
        seconds it was given, if it did not end in them.

    Raises
    ------
    StartError
        If the device is lost, which is not the candidate's fault.
    """
    try:
        answer = child.ask(job, timeout)
    except CrashError as error:
        return {"failure": "crashed", "detail": str(error)}
    except HangError as error:
        return {"failure": HUNG, "detail": str(error), "limit": error.seconds}
    if "lost" in answer:
        raise StartError(answer["lost"])
    if "error" in answer:
        child.end()  # after a fault a card refuses whatever the same process asks of it
        return {"failure": "does not run", "detail": answer["error"]}
    if "wrong" in answer:
        said = ", ".join(f"{name} error {value:.1e}" for name, value in answer["wrong"].items())
        return {"failure": "wrong result", "detail": said}
    return {"seconds": answer["seconds"], "errors": answer["errors"]}
