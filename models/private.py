"""What the service writes is its owner's alone: networks, data, the record, logs, sockets."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import make_url

from models.logs import get_logger
from models.settings import Settings

FOLDER, FILE = 0o700, 0o600
_OTHERS = 0o077


def begin() -> None:
    """Begin a process of the service: from now on what it writes is its owner's alone.

    To be called first. Temporary files are held to one folder, too: `tempfile` would look for one
    that has room, and where none has, raise an error that does not say so.
    """
    os.umask(_OTHERS)
    folder = os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - files in it are made by `tempfile`
    if Path(folder).is_dir():
        tempfile.tempdir = folder


def tighten(settings: Settings) -> None:
    """Take the rights of others from what is there already, and log it.

    What belongs to someone else, or is for all users as `/tmp` is, stays as it is; the log says so.
    """
    for path in _places(settings):
        try:
            found = path.stat()
            if found.st_mode & _OTHERS == 0:
                continue
            shown = {"path": str(path), "mode": f"{stat.S_IMODE(found.st_mode):o}"}
            if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
                path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
                get_logger().warning("private.tightened", **shown)
            else:
                get_logger().warning("private.open_to_others", **shown)
        except FileNotFoundError:
            continue
        except OSError as error:  # a read-only volume, say
            get_logger().warning("private.not_tightened", path=str(path), error=str(error))


def _places(settings: Settings) -> Iterator[Path]:
    yield settings.home
    yield settings.cache_folder
    blobs = urlsplit(settings.blob_url)
    if blobs.scheme == "file":
        yield Path(unquote(blobs.path))
    database = make_url(settings.database)
    if database.get_backend_name() == "sqlite" and database.database:
        for suffix in ("", "-wal", "-shm"):
            yield Path(database.database + suffix)
