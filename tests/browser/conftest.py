"""A browser, the service, and a server of an attacker's pages, all on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.api.fixtures import files, http, running, spec, uploads
from tests.browser.chromium import Page, chromium

__all__ = ["files", "http", "running", "spec", "uploads"]


class _Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Attacker</title><p>Win a prize!")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def attacker() -> Iterator[int]:
    """The port where a page of nothing is served, under every name; scripts come by `Page.run`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Empty)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A tab in which every name below `.example` is this machine's."""
    folder: Path = tmp_path_factory.mktemp("chromium")
    with chromium(folder, resolve="*.example") as tab:
        yield tab
