"""What can be wrong with a network or a package. Every message names the thing and the way out."""

from __future__ import annotations


class EspalierError(Exception):
    """Base of every error that Espalier raises on purpose."""

    code = "error"


class FormatError(EspalierError):
    """A package or graph that is malformed."""

    code = "format.invalid"


class LimitExceeded(FormatError):
    """A package that would take more of something than is allowed."""

    code = "format.limit"


class UnsupportedOperator(FormatError):
    """An operator or module that the format does not carry."""

    code = "format.unsupported_operator"


class CorruptPackage(FormatError):
    """Bytes that do not match their digest, or that end early."""

    code = "format.corrupt"
