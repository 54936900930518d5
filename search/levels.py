"""What a group loses at each width: a measured loss at a few, and the shape in between.

The error of removing channels (`search.reconstruction.removal`) is known for every width, but says
little of how much one group matters beside another. The loss that a cut of one group causes in the
network's outputs says just that, but takes a measurement. So it is measured at a few widths, the
anchors, and between them it follows the error on logarithmic scales.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

SHARES = (0.8, 0.6, 0.4, 0.2)
"""Keep ratios of the anchors."""

_LEAST = 1e-6  # of a loss that is told from none
_MOST = 1e4  # of the greatest measured loss, what it may be below the narrowest anchor
_STEP = 1e-9  # between errors that are the same


def anchors(options: Sequence[int]) -> tuple[int, ...]:
    """The widths at which a group is measured, the widest first.

    Args:
        options: allowed widths, ascending; the last one is the full width.
    Returns:
        the allowed widths nearest to `SHARES`, of two the wider; the full one is left out.
    """
    full = options[-1]
    nearest = (min(options, key=lambda w: (abs(w - share * full), -w)) for share in SHARES)
    return tuple(dict.fromkeys(width for width in nearest if width < full))


def interpolated(
    errors: Sequence[float] | None, measured: Mapping[int, float], channels: int
) -> tuple[float, ...]:
    """The loss at every width.

    A power law between anchors, `log(loss)` linear in `log(error)`; proportional to the error above
    the widest, and below the narrowest as steep as before it, proportional at least, up to 10,000
    times what was measured there.

    Args:
        errors: after `i` channels went, `(channels,)`, never falling; `None` for the share of the
            channels that went.
        measured: losses at the anchors, one at least unless there is one channel only.
    Returns:
        `(channels,)` losses of keeping 1, 2, ... channels: never rising, 0 at last.
    """
    if channels == 1:
        return (0.0,)
    went = np.arange(channels) / channels if errors is None else np.array(errors, dtype=float)
    least = went[went > 0].min(initial=1.0)
    error = np.log(np.maximum(went, least))
    error[1:] += _STEP * np.cumsum(np.diff(error) <= 0)  # so that anchors can be told apart
    error = error[::-1]  # of keeping 1, 2, ...
    widths = sorted(measured, reverse=True)
    x = error[[width - 1 for width in widths]]
    y = np.log(np.maximum.accumulate([max(measured[width], _LEAST) for width in widths]))
    steep = 1.0
    if len(x) > 1 and x[-1] - x[-2] > _STEP * channels:
        steep = max(1.0, (y[-1] - y[-2]) / (x[-1] - x[-2]))
    inside = np.interp(error, x, y)
    below = np.minimum(np.maximum(error - x[-1], 0.0) * steep, math.log(_MOST))
    above = np.minimum(error - x[0], 0.0)
    losses = np.exp(inside + below + above)
    losses[-1] = 0.0
    # From the full width down, so that the losses never rise with the width.
    found: list[float] = np.maximum.accumulate(losses[::-1])[::-1].tolist()
    return tuple(found)
