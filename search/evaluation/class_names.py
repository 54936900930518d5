"""Names of classes from a stranger's file: few enough, short enough, and text."""

from __future__ import annotations

from collections.abc import Iterable

from espalier.text import unfit
from search.evaluation.errors import DatasetError, DatasetTooLarge
from search.evaluation.limits import DataLimits


def class_names(
    names: Iterable[object], where: str, limits: DataLimits, encoding: str = "utf-8"
) -> tuple[str, ...]:
    """The names, each checked as it comes: no more are taken than are allowed.

    Args:
        names: text, or bytes of it, filled up with NUL.
        where: they come from, as `array 'class_names'`, for messages.
        encoding: of bytes.
    Raises:
        DatasetError: one is no text that can be stored and shown everywhere.
        DatasetTooLarge: above a limit.
    """
    found: list[str] = []
    size = 0
    for raw in names:
        if len(found) == limits.max_classes:
            raise DatasetTooLarge(
                f"{where} names more than {limits.max_classes} classes, which is the limit: "
                "name those that the labels use"
            )
        name = _text(raw, encoding, f"{where} names class {len(found)}")
        if len(name) > limits.max_name:
            raise DatasetTooLarge(
                f"{where} names class {len(found)} with {len(name)} characters, above the limit of "
                f"{limits.max_name}: shorten it"
            )
        size += len(name.encode())
        if size > limits.max_names_bytes:
            raise DatasetTooLarge(
                f"{where} has names of more than {limits.max_names_bytes} bytes together, which is "
                "the limit: shorten them"
            )
        found.append(name)
    return tuple(found)


def _text(raw: object, encoding: str, what: str) -> str:
    try:
        name = raw.decode(encoding).rstrip("\0") if isinstance(raw, bytes) else raw
        if not isinstance(name, str):
            raise DatasetError(f"{what} by what is no text: use strings")
    except UnicodeError:
        raise DatasetError(f"{what} with what is no Unicode text: store it as UTF-8") from None
    if fault := unfit(name):
        raise DatasetError(f"{what} with {fault}: leave it out")
    return name
