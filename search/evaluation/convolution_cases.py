"""The convolutions that are checked on the machine at hand (`search.evaluation.soundness`)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Layout = Literal["contiguous", "channels_last"]
Extent = Literal["full", "guard", "test"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


@dataclass(frozen=True, slots=True)
class Case:
    """One convolution.

    Attributes:
        kind: of the module.
        inputs, outputs: channels of a group.
        size: of the input, in every direction.
        behind: the layout into which the network itself puts the input, if it does.
    """

    kind: str
    kernel: int
    stride: int
    inputs: int
    outputs: int
    size: int
    groups: int = 1
    batch: int = 4
    behind: Layout | None = None

    def __str__(self) -> str:
        behind = "" if self.behind is None else f" behind a step that makes it {self.behind}"
        return (
            f"{self.kind} of kernel {self.kernel}, stride {self.stride}, {self.groups} x "
            f"{self.inputs} to {self.groups} x {self.outputs} channels, on {self.batch} examples "
            f"of size {self.size}{behind}"
        )


_SHARES: Mapping[Extent, int] = {"full": 1, "guard": 3, "test": 11}


def cases(layout: Layout, extent: Extent = "full") -> list[Case]:
    """The sweep, the same in every process.

    All pairs of 1 to 9 channels where the kernel is 1, elsewhere some of either side; more channels
    and positions where oneDNN's blocks of AVX-512 matter. The guard takes one case in three of the
    contiguous layout, in which no fault is known; the tests take one in eleven of either.
    """
    each, few, sizes, strides = range(1, 10), (1, 3, 7, 8, 9), (7, 8), (2, 1)
    product = itertools.product
    found = [
        # Of kernel 1, 16 examples take another way in torch than 4 do.
        *(
            Case("Conv2d", 1, stride, inputs, outputs, size, batch=16 if size == 8 else 4)
            for stride, inputs, outputs, size in product(strides, each, each, sizes)
        ),
        *(
            Case("Conv2d", 1, stride, inputs, 32, 16, batch=16, behind=behind)
            for stride, inputs, behind in product(strides, each, LAYOUTS)
        ),
        *(
            Case("Conv2d", 1, stride, inputs, 8, 56)
            for stride, inputs in product(strides, (1, 3, 6, 9, 12, 15, 16, 17))
        ),
        *(
            Case("Conv2d", kernel, stride, inputs, outputs, size)
            for kernel, stride, inputs, outputs, size in product(
                (2, 3), strides, each, (1, 8), sizes
            )
        ),
        *(
            Case("Conv2d", kernel, stride, 5, outputs, 8)
            for kernel, stride, outputs in product((2, 3), strides, each)
        ),
        *(  # depthwise
            Case("Conv2d", kernel, stride, 1, 1, size, groups)
            for kernel, stride, groups, size in product((1, 2, 3), strides, each, sizes)
        ),
        *(
            Case("Conv2d", kernel, stride, inputs, outputs, 8, groups=2)
            for kernel, stride, inputs, outputs in product((1, 2, 3), strides, each, (3, 8))
        ),
        *(
            Case("ConvTranspose2d", kernel, stride, inputs, outputs, 8)
            for kernel, stride, inputs, outputs in product((1, 2, 3), strides, (3, 8), each)
        ),
        *(
            Case("Conv1d", kernel, stride, inputs, 8, size)
            for kernel, stride, inputs, size in product((1, 3), strides, each, sizes)
        ),
        *(
            Case(kind, kernel, stride, inputs, 8, 8)
            for kind, kernel, stride, inputs in product(
                ("Conv3d", "ConvTranspose1d"), (1, 3), strides, few
            )
        ),
        *(
            Case("Conv2d", kernel, stride, inputs, outputs, 1)
            for kernel, stride, inputs, outputs in product((1, 3), strides, (1, 3, 8), (1, 3, 8))
        ),
    ]
    whole = extent == "guard" and layout == "channels_last"
    return list(dict.fromkeys(found))[:: 1 if whole else _SHARES[extent]]
