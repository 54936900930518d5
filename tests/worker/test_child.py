"""The child's end of the connection."""

from __future__ import annotations

import json
import socket

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
