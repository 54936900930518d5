from __future__ import annotations

import pytest
import torch

from search.evaluation.augment import augment, crop, flip
from search.evaluation.errors import DatasetMismatch
from search.evaluation.fit import check_augment


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.randn(400, 3, 5, 6)
    out = flip(images, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(out, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(out, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 160 < sum(mirrored) < 240


def test_crop_is_a_shift_with_zeros() -> None:
    images = torch.rand(200, 2, 16, 24) + 1
    out = crop(images, torch.Generator().manual_seed(0))
    shifts = set()
    for before, after in zip(images, out, strict=True):
        padded = torch.zeros(2, 16 + 4, 24 + 6)
        padded[:, 2:18, 3:27] = before
        found = [
            (y, x)
            for y in range(5)
            for x in range(7)
            if torch.equal(padded[:, y : y + 16, x : x + 24], after)
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) == 35


def test_same_generator_same_images() -> None:
    images = torch.randn(10, 1, 8, 8)
    first, second, other = (
        augment(images, "crop_flip", torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert augment(images, "none", torch.Generator()) is images


def test_only_images_are_augmented() -> None:
    check_augment("none", (7,))
    check_augment("crop", (3, 8, 8))
    with pytest.raises(DatasetMismatch, match=r"finetune\.augment"):
        check_augment("flip", (7,))
