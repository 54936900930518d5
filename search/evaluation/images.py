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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from search.evaluation.archives import BROKEN, ArchiveFile, files
from search.evaluation.arrays import Array
from search.evaluation.errors import DatasetError, DatasetTooLarge
from search.evaluation.image_headers import ImageHeader, NoImage, pixels_only, read_header
from search.evaluation.limits import DataLimits

_SPLITS = {"train": "train", "test": "test", "holdout": "holdout", "val": "holdout"}
_BROKEN: tuple[type[Exception], ...] = (*BROKEN, Image.DecompressionBombError)
_JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


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
def _problems_of(file: ArchiveFile) -> Iterator[None]:
    """Name the file in what is wrong with its bytes."""
    try:
        yield
    except DatasetError:
        raise
    except NoImage as error:
        raise DatasetError(f"{file.path} {error}") from None
    except _BROKEN as error:
        raise DatasetError(f"{file.path} cannot be read as an image: {str(error)[:200]}") from error


def _header(file: ArchiveFile, limits: DataLimits) -> tuple[bytes, ImageHeader]:
    """An image's bytes and its header, within the limits."""
    if file.size > limits.max_image_bytes:
        raise DatasetTooLarge(
            f"{file.path} has {file.size} bytes, above the limit of {limits.max_image_bytes}: "
            "store the image smaller"
        )
    with _problems_of(file):
        content = file.read()
        header = read_header(content)
    if header.width * header.height > limits.max_pixels:
        raise DatasetTooLarge(
            f"{file.path} has {header.width} x {header.height} pixels, above the limit of "
            f"{limits.max_pixels}: resize it to the network's input"
        )
    return content, header


def _pixels(file: ArchiveFile, mode: str, limits: DataLimits) -> Array:
    """An image decoded, `(h, w)` for the mode `"L"` and `(h, w, 3)` for `"RGB"`."""
    content, header = _header(file, limits)
    with _problems_of(file):
        drawn = io.BytesIO(pixels_only(content, header.format))
        with Image.open(drawn, formats=[header.format]) as image:
            if image.size != (header.width, header.height):
                raise NoImage(f"has two sizes, {image.size} and that of its header: save it again")
            return np.asarray(image.convert(mode))


def _images(path: Path, kind: str, limits: DataLimits) -> Iterator[ArchiveFile]:
    for file in files(path, kind, limits):
        parts = file.parts
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
        name = file.path
        if name in paths:
            raise DatasetError(f"the archive holds {name} twice")
        paths[name] = file.parts
        _, image = _header(file, limits)
        size = size or (image.height, image.width)
        grey = grey and image.grey
        if size != (image.height, image.width):
            raise DatasetError(
                f"{name} is {image.width} x {image.height} pixels, the images before it are "
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
    limits.check_unpacked(path, total, f"{len(paths)} images of {size[1]} x {size[0]} take")
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
        key, index = place[file.path]
        arrays[key][index] = _pixels(file, "L" if folder.grey else "RGB", limits)
    return arrays
