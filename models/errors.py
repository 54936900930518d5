"""What can be wrong with a request to the record. Every message names the thing and the way out."""

from __future__ import annotations

from espalier.format.errors import EspalierError


class NotFound(EspalierError):
    """No row of that id."""

    code = "not_found"


class StateConflict(EspalierError):
    """A request that the job's state does not allow."""

    code = "job.state"


class IdempotencyConflict(EspalierError):
    """An idempotency key used again for another request."""

    code = "idempotency.mismatch"


class LeaseLost(EspalierError):
    """A write of an attempt that has been replaced."""

    code = "work.lease_lost"


class BlobError(EspalierError):
    """A blob that cannot be stored or read."""

    code = "blob.error"


class BlobUnwritable(BlobError):
    """A folder that takes no more bytes now; trying again later may help.

    Attributes:
        place: which, in words: the blob store, or the cache of its blobs.
    """

    code = "blob.unwritable"

    def __init__(self, message: str, place: str = "blob store") -> None:
        super().__init__(message)
        self.place = place


class BlobUnreachable(BlobError):
    """A remote store that does not answer, or refuses access; trying again later may help."""

    code = "blob.unreachable"


class BlobMissing(BlobError):
    """No blob of that digest."""

    code = "blob.missing"


class BlobCorrupt(BlobError):
    """Bytes that do not match their digest."""

    code = "blob.corrupt"


class BlobTooLarge(BlobError):
    """More bytes than are allowed."""

    code = "blob.too_large"
