"""Measuring over TVM's RPC, on loopback: tracker, server and tuner are processes of their own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import families
import pytest

from dtn_tvm import rpc, rpc_server
from dtn_tvm.candidates import Options
from dtn_tvm.engines import TuneError
from dtn_tvm.site import remote
from dtn_tvm.targets import target
from dtn_tvm.tune import tune

HOST, KEY = "127.0.0.1", "loopback"


@pytest.fixture
def servers():
    """A tracker and a server; gives the tracker's port, and what ends the server."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    commands = [
        ["tvm.exec.rpc_tracker", "--host", HOST, "--port", str(port), "--port-end", str(port + 1)],
        ["dtn_tvm.rpc_server", "--host", HOST, "--tracker", f"{HOST}:{port}", "--key", KEY],
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    children = [subprocess.Popen([sys.executable, "-m", *command], **quiet) for command in commands]
    try:
        _wait_for_server(port)
        yield port, lambda: os.killpg(children[1].pid, signal.SIGKILL)
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@pytest.fixture
def tracker(servers):
    """The port of a tracker with one server."""
    return servers[0]


def _wait_for_server(port):
    from tvm import rpc

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), 1).close()
            if KEY in rpc.connect_tracker(HOST, port).summary()["queue_info"]:
                return
        except (OSError, RuntimeError):
            pass  # it is still starting
        time.sleep(0.3)
    pytest.fail("the RPC server did not start in two minutes")


def test_tunes_and_outlives_a_crash_and_a_hang(tracker, offer, problem, tmp_path):
    cpu = target("cpu")
    offer("slow", "segfault", "hang", "wrong", families.Schedule("good", "T.vectorized"))
    options = Options(family="families", measure_timeout=20, ceilings=False)
    with remote(cpu, HOST, tracker, KEY, timeout=3) as site:
        record, progress = tune(problem, cpu, site, tmp_path / "records.jsonl", options)
    assert record.schedule["behaviour"] == "good"
    assert record.receipt.device.startswith("processor of RPC server loopback")
    assert progress.done == 5
    assert progress.failures.total() == 3
    assert progress.failures["wrong result"] == 1


def test_a_server_that_is_gone_is_no_fault_of_the_candidate_that_ran(servers, offer, problem, tmp_path):
    cpu, (port, end_server) = target("cpu"), servers
    offer("slow", "hang", families.Schedule("good", "T.vectorized"))
    options = Options(family="families", measure_timeout=60, ceilings=False)

    def watch(progress):
        if progress.done == 1:
            threading.Timer(8, end_server).start()  # while the second one hangs

    started = time.monotonic()
    said = rf"the RPC tracker at {HOST}:{port} knows no server with the key 'loopback'.*what was measured is kept"
    with remote(cpu, HOST, port, KEY) as site, pytest.raises(TuneError, match=said):
        tune(problem, cpu, site, tmp_path / "records.jsonl", options, watch)
    assert time.monotonic() - started < 60
    trials = (tmp_path / "records.trials.jsonl").read_text().splitlines()
    assert {json.loads(line)["schedule"]["behaviour"] for line in trials} <= {"slow", "good"}


def test_no_tracker_is_one_clear_error(offer, problem, tmp_path):
    cpu = target("cpu")
    offer("good")
    with (
        remote(cpu, HOST, 9, KEY) as site,
        pytest.raises(TuneError, match=r"no RPC tracker answers at 127\.0\.0\.1:9"),
    ):
        tune(problem, cpu, site, tmp_path / "records.jsonl", Options(family="families"))


@pytest.mark.parametrize(("answer", "said"), [(b"", "timed out"), (b"HTTP/1.1 400", "something else does")])
def test_what_is_no_tracker_is_not_waited_for(monkeypatch, answer, said):
    monkeypatch.setattr(rpc, "TRACKER", 0.5)
    with socket.create_server((HOST, 0)) as other:

        def serve():
            connection, _ = other.accept()
            with connection:
                connection.sendall(answer)
                ended.wait(30)

        ended = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(RuntimeError, match=f"no RPC tracker answers at {HOST}:[0-9]+: {said}"):
                rpc.find_server({"host": HOST, "port": other.getsockname()[1], "key": KEY})
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize(
    ("option", "status", "said"),
    [
        ("--tracker=127.0.0.1:99999", 2, "is not HOST:PORT"),
        ("--host=192.0.2.1", 1, "no port from 9090 to 9199 is free"),
    ],
)
def test_a_server_that_cannot_listen_says_so_in_one_line(monkeypatch, capsys, option, status, said):
    monkeypatch.setattr(sys, "argv", ["rpc_server", "--tracker=127.0.0.1:9190", "--key=K", option])
    try:
        ended = rpc_server.main()
    except SystemExit as refused:
        ended = refused.code
    assert ended == status
    assert said in capsys.readouterr().err.splitlines()[-1]
