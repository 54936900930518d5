"""`python -m api --fd N`: serve on a socket that the parent process listens on already.

So the port is known before this process runs, and clients that come while it is restarted wait
instead of being refused. In production, `uvicorn api.app:app` does.
"""

from __future__ import annotations

import argparse
import socket

import uvicorn

GRACE_S = 5  # long polls and event streams are cut after this


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    options = parser.parse_args()
    config = uvicorn.Config("api.app:app", timeout_graceful_shutdown=GRACE_S, access_log=False)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=options.fd)])


if __name__ == "__main__":
    main()
