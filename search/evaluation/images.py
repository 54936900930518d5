"""Image folders in a zip or tar file: one folder per class, below `train/`, `test/` and `holdout/`
(or `val/`) if wanted.

    digits.zip            or            digits.tar.gz
        zero/001.png                        train/zero/001.png
        one/002.png                         test/zero/002.png

Images without class folders are unlabelled data. All images have one size, which must be that of
the network's input: nothing is resized, since how to resize and crop is part of the training.
They become `uint8`, `(n, h, w)` if all of them are grey and `(n, h, w, 3)` otherwise.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from search.evaluation.archives import BROKEN, ArchiveFile, DataLimits, files
from search.evaluation.arrays import Array
from search.evaluation.errors import DatasetError, DatasetTooLarge

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_GREY = frozenset({"1", "L", "LA"})
_MODES = _GREY | {"P", "RGB", "RGBA", "CMYK", "YCbCr"}
_SPLITS = {"train": "train", "test": "test", "holdout": "holdout", "val": "holdout"}
_JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_MAX_FILE = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """What an archive of images holds, in the order of the names.

    Attributes:
        names: paths of the images in the archive, by split.
        labels: class index of each image, by split; `None` without class folders.
        classes: names of the class folders, sorted; empty without.
        size: height and width of every image.
        grey: whether no image has colours.
    """

    path: Path
    kind: str
    names: dict[str, tuple[str, ...]]
    labels: dict[str, Array] | None
    classes: tuple[str, ...]
    size: tuple[int, int]
    grey: bool

    @property
    def example_shape(self) -> tuple[int, ...]:
        return self.size if self.grey else (*self.size, 3)


@contextmanager
def _opened(file: ArchiveFile, limits: DataLimits) -> Iterator[Image.Image]:
    if file.size > _MAX_FILE:
        raise DatasetTooLarge(f"{file.path} has {file.size} bytes, above {_MAX_FILE} for an image")
    try:
        with warnings.catch_warnings():
            # Pillow warns of huge images; the limit below is what counts.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(file.read()), formats=_FORMATS)
        width, height = image.size
        if width * height > limits.max_pixels:
            raise DatasetTooLarge(
                f"{file.path} has {width} x {height} pixels, above the limit of {limits.max_pixels}"
            )
        if image.mode not in _MODES:
            raise DatasetError(f"{file.path} has pixels of mode {image.mode}: use 8 bits a channel")
        with image:
            yield image
    except DatasetError:
        raise
    except Image.DecompressionBombError as error:
        raise DatasetTooLarge(f"{file.path}: {error}") from error
    except UnidentifiedImageError as error:
        raise DatasetError(f"{file.path} is no image; known are {', '.join(_FORMATS)}") from error
    except BROKEN as error:
        raise DatasetError(f"{file.path} cannot be read as an image: {error}") from error


def _images(path: Path, kind: str, limits: DataLimits) -> Iterator[ArchiveFile]:
    for file in files(path, kind, limits):
        parts = file.path.parts
        if _JUNK.isdisjoint(parts) and not any(part.startswith(".") for part in parts):
            yield file


def _rooted(paths: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Paths without the folder that holds everything, if there is one around the classes."""
    while True:
        first = {parts[0] for parts in paths.values()}
        deep = min(len(parts) for parts in paths.values()) >= 3
        if not deep or len(first) != 1 or first <= set(_SPLITS):
            return paths
        paths = {name: parts[1:] for name, parts in paths.items()}


def _by_split(paths: dict[str, tuple[str, ...]]) -> dict[str, dict[str, str | None]]:
    """Class folder of every image (or `None`), by split and name."""
    paths = _rooted(paths)
    split = all(len(parts) > 1 and parts[0] in _SPLITS for parts in paths.values())
    found: dict[str, dict[str, str | None]] = {}
    for name, parts in paths.items():
        rest = parts[1:] if split else parts
        if len(rest) > 2:
            raise DatasetError(
                f"{name} lies too deep: images belong in CLASS/, or in train/CLASS/, test/CLASS/ "
                "and holdout/CLASS/"
            )
        folder = rest[0] if len(rest) == 2 else None
        found.setdefault(_SPLITS[parts[0]] if split else "train", {})[name] = folder
    kinds = {folder is None for group in found.values() for folder in group.values()}
    if len(kinds) != 1:
        raise DatasetError("some images lie in class folders and some do not: use one or the other")
    if "train" not in found:
        raise DatasetError(f"the archive has a folder {min(found)}/ but no folder train/")
    return found


def scan(path: Path, kind: str, limits: DataLimits) -> ImageFolder:
    """List an archive's images and read their headers; no pixels are decoded.

    Raises:
        DatasetError: no images, files that are none, several sizes, folders that make no classes.
        DatasetTooLarge: above a limit.
    """
    paths: dict[str, tuple[str, ...]] = {}
    size: tuple[int, int] | None = None
    grey = True
    for file in _images(path, kind, limits):
        name = str(file.path)
        if name in paths:
            raise DatasetError(f"the archive holds {name} twice")
        paths[name] = file.path.parts
        with _opened(file, limits) as image:
            width, height = image.size
            size = size or (height, width)
            grey = grey and image.mode in _GREY
            if size != (height, width):
                raise DatasetError(
                    f"{name} is {width} x {height} pixels, the images before it are "
                    f"{size[1]} x {size[0]}: resize all of them to the network's input"
                )
    if size is None:
        raise DatasetError("the archive holds no images")
    split = _by_split(paths)
    classes = sorted({folder for folder in split["train"].values() if folder is not None})
    index = {name: number for number, name in enumerate(classes)}
    unknown = {f for group in split.values() for f in group.values() if f is not None} - set(index)
    if unknown:
        raise DatasetError(f"class {min(unknown)} has images, but none for training")
    names = {key: tuple(sorted(group)) for key, group in split.items()}
    labels = {
        key: np.array([index[split[key][name] or ""] for name in group], np.int64)
        for key, group in names.items()
        if classes
    }
    folder = ImageFolder(path, kind, names, labels or None, tuple(classes), size, grey)
    total = len(paths) * int(np.prod(folder.example_shape))
    if total > limits.max_bytes:
        raise DatasetTooLarge(
            f"{len(paths)} images of {size[1]} x {size[0]} take {total} bytes, above the limit "
            f"of {limits.max_bytes}"
        )
    return folder


def decode(folder: ImageFolder, limits: DataLimits) -> dict[str, Array]:
    """The images of every split, `uint8`, in the order of `folder.names`."""
    arrays = {
        key: np.empty((len(names), *folder.example_shape), np.uint8)
        for key, names in folder.names.items()
    }
    place = {
        name: (key, index)
        for key, names in folder.names.items()
        for index, name in enumerate(names)
    }
    for file in _images(folder.path, folder.kind, limits):
        key, index = place[str(file.path)]
        with _opened(file, limits) as image:
            arrays[key][index] = np.asarray(image.convert("L" if folder.grey else "RGB"))
    return arrays
