"""An RPC server that outlives its kernels; TVM's own stops listening when a session's process crashes.

Run it on the machine of the device: ``python -m dtn_tvm.rpc_server --tracker HOST:PORT --key K``.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

FIRST, LAST = 9090, 9199


def main() -> int:
    """Serve until it is ended.

    Returns
    -------
    int
        Exit status: 1 if it cannot listen, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="python -m dtn_tvm.rpc_server", description=__doc__)
    parser.add_argument("--tracker", required=True, metavar="HOST:PORT")
    parser.add_argument("--key", required=True, metavar="K")
    parser.add_argument("--host", default="0.0.0.0", metavar="ADDRESS", help="to listen at; default: %(default)s")
    given = parser.parse_args()
    host, _, port = given.tracker.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        parser.error(f"--tracker {given.tracker!r} is not HOST:PORT")
    try:
        serve(given.host, (host, int(port)), given.key)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def serve(host: str, tracker: tuple[str, int], key: str) -> None:
    """Serve sessions, one at a time, each in a process of its own."""
    from tvm.rpc.server import _listen_loop  # what its server runs in a thread; the crash of a session ends it

    home = os.getcwd()
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = _bind(listening, host)
        listening.listen(1)
        while True:
            try:
                _listen_loop(listening, port, key, tracker, "", None)
            except RuntimeError as error:
                print(f"a session ended: {error}", file=sys.stderr, flush=True)
            os.chdir(home)  # the loop was left in the session's folder, which is gone


def _bind(listening: socket.socket, host: str) -> int:
    for port in range(FIRST, LAST + 1):
        try:
            listening.bind((host, port))
        except OSError:
            continue
        return port
    raise OSError(f"no port from {FIRST} to {LAST} is free at {host}")


if __name__ == "__main__":
    sys.exit(main())
