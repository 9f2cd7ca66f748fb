"""A child process behind a watchdog: it answers in time, or it is ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent.parent  # the folder, or the bundle, that holds the package ``measuring``

START = 120.0  # seconds that a process may take to start: on a busy machine, importing TVM is slow

_RUNNER = "import sys; sys.path.insert(0, sys.argv[1]); from measuring.worker import serve; serve()"


class CrashError(Exception):
    """The process ended before it answered."""


class HangError(Exception):
    """The process did not answer in ``seconds``, and was ended."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer in {seconds:g} s")
        self.seconds = seconds


class StartError(Exception):
    """A process that cannot do what it is for: there is no such device, or a library is missing."""


class Child:
    """A process that answers lines of JSON; started when it is first asked, and again after a crash.

    Parameters
    ----------
    command : list of str
        After the interpreter.
    environment : Mapping[str, str]
        Added to this process's own.
    hello : Mapping, optional
        A job that every process is given first, before those it is asked for.
    """

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str] | None = None,
        hello: Mapping[str, Any] | None = None,
    ) -> None:
        self._command = [sys.executable, *command]
        self._hello = hello
        self._environment = {**os.environ, "PYTHONUTF8": "1", **(environment or {})}
        self._child: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed at the end of the with statement
        self._rest = b""

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._log.close()

    def ask(self, job: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """The answer to a job.

        Raises
        ------
        CrashError
            With the signal, or with the last line it printed.
        HangError
            After ``timeout`` seconds.
        StartError
            If the process cannot do what the first job asks.
        """
        if self._child is not None and self._child.poll() is not None:
            self.end()  # it died after it had answered
        if self._child is None:
            self._start()
            if self._hello is not None:
                self._greet(self._hello)
        return self._ask(job, timeout)

    def _greet(self, hello: Mapping[str, Any]) -> None:
        try:
            said = self._ask(hello, START)
        except (CrashError, HangError) as error:
            raise StartError(str(error)) from None
        problem = said.get("error") or said.get("lost")
        if problem:
            self.end()
            raise StartError(problem)

    def _ask(self, job: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(job).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        answer: dict[str, Any] = json.loads(self._line(child, timeout))
        return answer

    def end(self) -> None:
        """End the process and what it started."""
        child, self._child, self._rest = self._child, None, b""
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it and all it started are gone
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # a job that it did not live to read
                    stream.close()

    def _start(self) -> None:
        self._log.seek(0)
        self._log.truncate()
        self._child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self._environment,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children
        )

    def _line(self, child: subprocess.Popen[bytes], timeout: float) -> bytes:
        assert child.stdout is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.end()
                    raise HangError(timeout)
                data = os.read(child.stdout.fileno(), 1 << 16)
                if not data:
                    raise self._died()
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _died(self) -> CrashError:
        assert self._child is not None
        status = self._child.wait()
        self._log.seek(0)
        said = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()
        self.end()
        if status < 0:
            return CrashError(signal.Signals(-status).name)
        return CrashError(f"exit status {status}" + (f": {said[-1].strip()}" if said else ""))


def runner(kind: str, runtime: Path, threads: int) -> Child:
    """The process that runs kernels on this machine.

    Parameters
    ----------
    kind : {"cpu", "cuda"}
    runtime : Path
        The folder of TVM's runtime libraries.
    threads : int
        Of the kernels, and of NumPy.
    """
    names = ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    passive = {"OMP_WAIT_POLICY": "PASSIVE"}  # NumPy's threads would spin against the kernel's
    environment = {**dict.fromkeys(names, str(threads)), **passive}
    hello = {"job": "device", "kind": kind, "runtime": str(runtime)}
    return Child(["-P", "-c", _RUNNER, str(HERE)], environment, hello)
