"""The processes of a running service, by kind."""

from __future__ import annotations

import psutil

from benchmarks.service import Service

KINDS = {
    "child": "worker.child",
    "supervisor": "worker.app",
    "api": "api",
    "reaper": "worker.reaper",
    "redis": "redis-server",
}
"""A word of the command line, or the name, by which a process of each kind is known."""


def descendants(service: Service) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children(recursive=True)


def processes(service: Service, kind: str) -> list[psutil.Process]:
    """The service's processes of a kind of `KINDS`; not what they forked themselves."""
    found = []
    for process in descendants(service):
        try:
            words, parent = process.cmdline(), process.parent()
            known = KINDS[kind] in (*words, process.name())
            if known and parent is not None and parent.cmdline() != words:
                found.append(process)
        except psutil.Error:
            continue  # it ended while we looked
    return found
