"""What can be wrong with a dataset, or with a dataset for a network."""

from __future__ import annotations

from espalier.format.errors import EspalierError


class DatasetError(EspalierError):
    """A dataset that cannot be used; the message says what to change.

    Attributes:
        field: of the job's specification, that it is about.
    """

    code = "dataset.invalid"

    def __init__(self, message: str, field: str = "dataset") -> None:
        super().__init__(message)
        self.field = field


class DatasetTooLarge(DatasetError):
    """A dataset that would take more of something than is allowed."""

    code = "dataset.limit"


class LabelsInvalid(DatasetError):
    """Labels of the wrong type, number or range."""

    code = "dataset.labels"


class DatasetMismatch(DatasetError):
    """A sound dataset that does not fit the network."""

    code = "dataset.mismatch"


class DatasetTooSmall(DatasetError):
    """Too few examples for the splits that were asked for."""

    code = "dataset.too_small"


class LabelsNeeded(DatasetError):
    """Something was asked for that unlabelled data cannot give."""

    code = "dataset.unlabelled"
