"""The process that measures on another machine, over TVM's RPC.

Each candidate gets a session of its own: a kernel that crashes ends the session's process on that machine, and one that
hangs is ended there when the session's time is up.
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .measuring.device import decode, encode
from .measuring.timing import AT_LEAST, AT_MOST, HOPELESS, PATIENCE, SPAN
from .measuring.worker import Job, Runner, answer_lines

TRACKER = 10.0  # seconds that a tracker may take to answer


class RemoteDevice:
    """A device behind a session; driven as :class:`dtn_tvm.measuring.device.Device` is.

    Parameters
    ----------
    hello : Mapping
        ``kind``, and ``host``, ``port``, ``key`` of the tracker; ``threads`` of a processor; ``timeout`` of a session.

    Raises
    ------
    RuntimeError
        If the tracker does not answer, has no such server, or the server no such device.
    """

    def __init__(self, hello: Job) -> None:
        import tvm.runtime

        key = hello["key"]
        self._session = find_server(hello).request(key, session_timeout=hello["timeout"])
        self._device = self._session.device(hello["kind"], 0)
        if not self._device.exist:
            raise RuntimeError(f"the RPC server {key!r} has no {hello['kind']} device")
        if hello["kind"] == "cpu":
            self._session.get_function("runtime.config_threadpool")(1, hello["threads"])
        self._empty = tvm.runtime.empty
        self.name = str(self._device.device_name or f"processor of RPC server {key}, {hello['threads']} threads")
        self.compute_version = str(self._device.compute_version or "")
        self.flags: list[str] = []  # the server does not say

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self._empty(shape, dtype, self._device)

    def put(self, values: np.ndarray, dtype: str) -> Any:
        tensor = self.empty(values.shape, dtype)
        self.write(tensor, values, dtype)
        return tensor

    def write(self, tensor: Any, values: np.ndarray, dtype: str) -> None:
        tensor.copyfrom(encode(values, dtype))

    def get(self, tensor: Any, dtype: str) -> np.ndarray:
        data = tensor.numpy()
        return decode(data.view(np.uint16) if dtype == "bfloat16" else data, dtype)

    def wait(self) -> None:
        self._device.sync()

    def load(self, library: Path) -> Any:
        self._session.upload(str(library))
        self._module = self._session.load_module(library.name)
        return self._module["main"]

    def seconds(self, kernel: Any, arguments: list[Any], best: float | None) -> list[float]:
        def times(number: int, repeat: int) -> list[float]:
            evaluate = self._module.time_evaluator("main", self._device, number=number, repeat=repeat)
            return [float(seconds) for seconds in evaluate(*arguments).results]

        once = times(1, 1)[0]
        if best is not None and once > HOPELESS * best:
            return [once]
        number = max(1, math.ceil(SPAN / max(once, 1e-7)))
        return times(number, min(AT_MOST, max(AT_LEAST, int(PATIENCE / max(once * number, 1e-7)))))

    def ceilings(self, about: Job | None, folder: Path) -> dict[str, float]:
        return {}  # what is documented has to do: nothing but kernels can be run there


def find_server(hello: Job) -> Any:
    """The tracker, once it has a server of the key: one whose kernel has crashed is away for a moment.

    Raises
    ------
    RuntimeError
        If the tracker does not answer, or has no such server.
    """
    from tvm import rpc

    host, port, key = hello["host"], hello["port"], hello["key"]
    deadline = time.monotonic() + TRACKER
    while True:
        try:
            _greet(host, port)
            tracker = rpc.connect_tracker(host, port)
            found = tracker.summary()
        except (OSError, RuntimeError) as error:
            raise RuntimeError(f"no RPC tracker answers at {host}:{port}: {error}") from None
        if any(server["key"] == f"server:{key}" for server in found["server_info"]):
            return tracker
        if key not in found["queue_info"] or time.monotonic() >= deadline:  # the queue outlives its servers
            raise RuntimeError(
                f"the RPC tracker at {host}:{port} knows no server with the key {key!r}; "
                "one of TVM's own ends when a kernel crashes, one of dtn_tvm.rpc_server does not"
            )
        tracker.close()
        time.sleep(0.3)


def _greet(host: str, port: int) -> None:
    """Raise OSError where no tracker answers: TVM would try again for a minute, or wait for a word that never comes."""
    from tvm.rpc import base

    word = struct.pack("<i", base.RPC_TRACKER_MAGIC)
    with socket.create_connection((host, port), TRACKER) as connection:
        connection.sendall(word)
        if base.recvall(connection, len(word)) != word:
            raise OSError("something else does")


class RemoteRunner(Runner):
    """A runner with a new session for every job that needs the device; that there is none is no candidate's fault."""

    _remote: RemoteDevice | None = None

    def __call__(self, job: Job) -> Mapping[str, Any]:
        self._hello = self._hello or job
        if job["job"] not in ("device", "measure"):
            return super().__call__(job)
        self._remote = None  # a server has one session at a time, and would let this one's time run out
        try:
            self._remote = RemoteDevice(self._hello)
        except RuntimeError as error:
            return {"lost": str(error)}
        try:
            return super().__call__(job)
        except RuntimeError:
            try:
                find_server(self._hello)
            except RuntimeError as error:
                return {"lost": str(error)}
            raise

    def device(self) -> Any:
        return self._remote


if __name__ == "__main__":
    answer_lines(RemoteRunner())
