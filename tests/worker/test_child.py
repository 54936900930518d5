"""The child's ties to its supervisor."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

from worker.child import _Channel


def test_a_message_that_is_sent_drops_none_that_has_come() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        channel = _Channel(theirs.detach())
        ours.sendall(b'{"settings": {}}\n{"job": {}}\n{"run": "prepare"}\n')
        ours.shutdown(socket.SHUT_WR)
        lines = iter(channel._received)
        assert json.loads(next(lines)) == {"settings": {}}
        channel.send({"ready": True})
        assert [json.loads(line) for line in lines] == [{"job": {}}, {"run": "prepare"}]
        assert json.loads(ours.recv(100)) == {"ready": True}
        channel._received.close()
        channel._sent.close()


def test_the_ties_are_made_before_torch_is_imported() -> None:
    code = """
import runpy, sys
from worker import lifeline
def ties(*_):
    print("torch" in sys.modules)
    sys.exit()
lifeline.guard = ties
sys.argv = ["child", "0", "1"]
runpy.run_module("worker.child", run_name="__main__")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
