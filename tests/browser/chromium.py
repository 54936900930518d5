"""A headless Chromium, driven through its DevTools protocol.

Source: https://chromedevtools.github.io/devtools-protocol (Target, Page, Runtime).
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

_START_S, _ANSWER_S = 60.0, 60.0  # they only wait
_OPTIONS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0",
]  # fmt: skip


class Page:
    """One tab.

    Args:
        session: of the DevTools protocol, attached to the tab.
    """

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self._socket = socket
        self._session = session
        self._numbers = itertools.count(1)
        self.call("Page.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """The result of a command to the tab."""
        return _call(self._socket, next(self._numbers), method, arguments, self._session)

    def open(self, url: str) -> str:
        """Load a page; the error if that failed."""
        error = self.call("Page.navigate", url=url).get("errorText", "")
        self._loaded(url)
        return str(error)

    def leave(self, script: str, url: str) -> None:
        """Run a script that loads another page, and wait for that."""
        self.run(script)
        self._loaded(url)

    def _loaded(self, url: str) -> None:
        end = time.monotonic() + _ANSWER_S
        shown = "{ return document.readyState + ' ' + location.href; }"
        while self.run(shown) != f"complete {url}":
            assert time.monotonic() < end, f"{url} was not loaded"
            time.sleep(0.02)

    def run(self, script: str) -> Any:
        """What a script in the page gives, awaited; an exception of its own as its text."""
        found = self.call(
            "Runtime.evaluate",
            expression=f"(async () => {script})().catch(error => String(error))",
            awaitPromise=True,
            returnByValue=True,
        )
        return found["result"].get("value")


def _call(
    socket: ClientConnection, number: int, method: str, arguments: object, session: str | None
) -> dict[str, Any]:
    command = {"id": number, "method": method, "params": arguments}
    socket.send(json.dumps(command if session is None else {**command, "sessionId": session}))
    end = time.monotonic() + _ANSWER_S
    while True:  # events come in between
        answer = json.loads(socket.recv(timeout=end - time.monotonic()))
        if answer.get("id") == number and answer.get("sessionId") == session:
            assert "error" not in answer, answer
            found: dict[str, Any] = answer["result"]
            return found


@contextmanager
def chromium(folder: Path, *, resolve: str) -> Iterator[Page]:
    """A tab of a Chromium of its own.

    Args:
        folder: for its profile.
        resolve: a pattern of host names that are this machine's, such as `*.example`.
    """
    program = shutil.which("chromium")
    assert program is not None, "there is no chromium: apt-get install chromium"
    rules = f"MAP {resolve} 127.0.0.1"
    command = [program, *_OPTIONS, f"--user-data-dir={folder}", f"--host-resolver-rules={rules}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "about:blank"], stdout=log, stderr=log)
    try:
        with connect(_address(folder, process), max_size=None) as socket:
            target = _call(socket, 1, "Target.createTarget", {"url": "about:blank"}, None)
            attach = {"targetId": target["targetId"], "flatten": True}
            session = _call(socket, 2, "Target.attachToTarget", attach, None)["sessionId"]
            yield Page(socket, session)
    finally:
        process.terminate()
        process.wait()


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Where the browser listens, which it writes down when it is ready."""
    file, end = folder / "DevToolsActivePort", time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        if file.exists() and len(lines := file.read_text().splitlines()) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise AssertionError((folder / "log").read_text(errors="replace"))
