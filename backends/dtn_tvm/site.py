"""Where candidates are measured: on this machine, or on one that TVM's RPC tracker knows."""

from __future__ import annotations

from pathlib import Path

from .measuring.process import Child, runner
from .targets import Target


def local(target: Target) -> Child:
    """A process on this machine.

    Parameters
    ----------
    target : Target
        For a processor, with as many threads as it says.
    """
    return runner(target.kind, runtime_folder(), target.threads if target.kind == "cpu" else 1)


def remote(target: Target, host: str, port: int, key: str, timeout: float = 60.0) -> Child:
    """A process that measures over RPC.

    Parameters
    ----------
    target : Target
        Its kind of device is used.
    host, port
        Of the tracker.
    key : str
        Under which servers announced themselves to it.
    timeout : float
        Seconds after which the server ends a session: those that one candidate may take there.
    """
    hello = {
        "job": "device",
        "kind": target.kind,
        "threads": target.threads,
        "host": host,
        "port": port,
        "key": key,
        "timeout": timeout,
    }
    return Child(["-P", "-m", "dtn_tvm.rpc"], hello=hello)


def runtime_folder() -> Path:
    """The folder of the installed TVM's runtime libraries."""
    import tvm

    return Path(tvm.__file__).parent / "lib"
