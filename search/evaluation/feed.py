"""Examples as the network takes them: laid out, preprocessed and moved, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from espalier.format.manifest import Preprocessing
from search.evaluation.data import Examples
from search.evaluation.errors import DatasetMismatch, LabelsNeeded
from search.evaluation.fit import Fit
from search.evaluation.splits import Indices


class Feed:
    """Batches of one set of examples.

    Args:
        fit: how a stored example becomes an input.
        preprocessing: `x = (raw * scale - mean) / std`, per channel; the raw values are those of
            the file, 0 to 255 for images. Not applied to integer inputs.
    """

    def __init__(
        self, examples: Examples, fit: Fit, preprocessing: Preprocessing, device: torch.device
    ) -> None:
        self._examples = examples
        self._fit = fit
        self.device = device
        self._order = np.array(fit.order, dtype=np.int64)
        self._scale = preprocessing.scale
        self._mean = self._per_channel(preprocessing.mean, "mean")
        self._std = self._per_channel(preprocessing.std, "std")

    def _per_channel(self, values: tuple[float, ...], name: str) -> Tensor | None:
        if not values:
            return None
        shape = self._fit.input_shape
        if len(values) not in (1, shape[0]):
            raise DatasetMismatch(
                f"the preprocessing has {len(values)} values of {name} for {shape[0]} channels"
            )
        tensor = torch.tensor(values, dtype=torch.float32, device=self.device)
        return tensor.view(1, -1, *(1,) * (len(shape) - 1))

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def labelled(self) -> bool:
        return self._examples.labels is not None

    def inputs(self, indices: Indices) -> Tensor:
        """`(len(indices), *input_shape)` of the type that the network takes."""
        raw = self._examples.inputs[indices]
        if raw.dtype.kind == "u" and raw.dtype.itemsize > 1:
            raw = raw.astype(np.int64)  # torch computes little in wide unsigned types
        values = torch.from_numpy(raw).to(self.device)
        if self._fit.layout == "channels_last":
            values = values.movedim(-1, 1)
        elif self._fit.layout == "no_channel":
            values = values.unsqueeze(1)
        if self._fit.integers:
            return values.to(getattr(torch, self._fit.dtype)).contiguous()
        values = values.to(torch.float32).contiguous()
        if self._scale != 1.0:
            values = values * self._scale
        if self._mean is not None:
            values = values - self._mean
        return values if self._std is None else values / self._std

    def labels(self, indices: Indices) -> Tensor:
        """`(len(indices),)` int64, by the network's numbers of the classes.

        Raises:
            LabelsNeeded: the data has none.
        """
        if self._examples.labels is None:
            raise LabelsNeeded("the dataset has no labels")
        labels = self._examples.labels[indices]
        if len(self._order):
            labels = self._order[labels]
        return torch.from_numpy(labels).to(self.device)

    def batches(self, indices: Indices, batch_size: int) -> Iterator[tuple[Indices, Tensor]]:
        """Indices and inputs, in the order given; the last batch may be smaller."""
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            yield part, self.inputs(part)
