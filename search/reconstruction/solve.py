"""Weights by least squares from moments.

With inputs `x`, wanted outputs `t` and weights `W0` to stay near to:

    minimise over W, b:  E |W x + b - t|^2 + ridge * |W - W0|^2

whose solution for covariances `C = cov(x)`, `K = cov(x, t)'` is

    W = W0 + (K - W0 C) (C + ridge I)^-1,    b = E[t] - W E[x].

Without a constant the raw second moments stand in for the covariances. As He et al. 2017,
"Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168, eq. 5, from all
rows instead of samples, with the constant and the ridge.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-2
"""As a share of the mean variance of a feature."""

_ROWS = 50  # for each feature: with fewer, the ridge is as much larger (measured: MobileNet, ViT)


def ridge_for(ridge: float, features: int, rows: int) -> float:
    """The ridge where there are so many rows: more with fewer than 50 a feature."""
    return ridge * max(1.0, _ROWS * features / rows)


def damped(matrix: Tensor, ridge: float) -> Tensor:
    """`(g, d, d)` plus `ridge` times the mean of its diagonal, on the diagonal."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    amount = diagonal.mean(-1).clamp_min(torch.finfo(torch.float32).tiny) * ridge
    return matrix + torch.diag_embed(amount[:, None].expand_as(diagonal))


def regress(gram: Tensor, residue: Tensor, rows: int, ridge: float = RIDGE) -> Tensor:
    """`residue (gram + ridge)^-1`.

    Args:
        gram: `(g, d, d)` symmetric, positive semi-definite, float64.
        residue: `(g, o, d)`.
        rows: that the moments are of.
        ridge: as a share of the mean of the gram matrix's diagonal; more with fewer than 50 rows a
            feature, and where the matrix is singular to working precision, a hundred times as
            much, three times at most.
    Returns:
        `(g, o, d)`; zeros where the moments say nothing (one row) or are not finite.
    """
    if rows < 2:
        return torch.zeros_like(residue)
    ridge = ridge_for(ridge, gram.shape[-1], rows)
    for attempt in range(4):
        factor, info = torch.linalg.cholesky_ex(damped(gram, ridge * 100**attempt))
        if not info.any():
            return torch.cholesky_solve(residue.mT, factor).mT
    return torch.zeros_like(residue)
