"""Random flips and crops of a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half; `(n, c, h, w)`."""
    coin = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(coin.to(images.device)[:, None, None, None], images.flip(3), images)


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its sides, `(n, c, h, w)`; what comes in is zero.

    An eighth is the customary 4 pixels for images of 32 x 32: He et al. 2016,
    arXiv:1512.03385, section 4.2. Zero is the mean colour after preprocessing.
    """
    count, _, height, width = images.shape
    pad_h, pad_w = max(1, height // 8), max(1, width // 8)
    top = torch.randint(0, 2 * pad_h + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * pad_w + 1, (count, 1), generator=generator)
    rows = (top + torch.arange(height)).to(images.device)
    columns = (left + torch.arange(width)).to(images.device)
    padded = functional.pad(images, (pad_w, pad_w, pad_h, pad_h))
    which = torch.arange(count, device=images.device)[:, None, None]
    # Indices on both sides of the channels bring those to the end.
    picked = padded[which, :, rows[:, :, None], columns[:, None, :]]
    return picked.movedim(-1, 1).contiguous()


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Apply `"none"`, `"flip"`, `"crop"` or `"crop_flip"`; the generator is on the CPU."""
    if "crop" in kind:
        images = crop(images, generator)
    return flip(images, generator) if "flip" in kind else images
