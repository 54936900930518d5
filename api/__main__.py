"""`python -m api`: serve at `--host` and `--port`, or on a socket that the parent listens on.

With `--fd N` the port is known before this process runs, and clients that come while it is started
again wait instead of being refused.
"""

from __future__ import annotations

import argparse
import socket

import uvicorn

from api.server import config
from models.private import begin
from models.settings import Settings


def main() -> None:
    begin()
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--fd", type=int, help="the listening socket, instead of host and port")
    options = parser.parse_args()
    served = config("api.app:app", Settings(), host=options.host, port=options.port)
    sockets = None if options.fd is None else [socket.socket(fileno=options.fd)]
    uvicorn.Server(served).run(sockets=sockets)


if __name__ == "__main__":
    main()
