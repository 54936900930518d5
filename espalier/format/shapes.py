"""Shape rules: what each operator yields, from the types of what it reads.

Shapes are exact integers except for the batch, which stays free (`ir.Batch`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from espalier.format.errors import FormatError, LimitExceeded
from espalier.format.ir import Attr, Batch, Dim, TensorType, size

Attrs = Mapping[str, Attr]
Shape = tuple[Dim, ...]
ShapeRule = Callable[[Sequence[TensorType], Attrs], Shape]


# --- reading attributes -------------------------------------------------------------------------


def integer(attrs: Attrs, name: str) -> int:
    value = attrs[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(f"attribute {name} must be an integer, not {value!r}")
    return value


def integers(attrs: Attrs, name: str) -> tuple[int, ...]:
    value = attrs[name]
    if not isinstance(value, tuple) or not all(type(item) is int for item in value):
        raise FormatError(f"attribute {name} must be a list of integers, not {value!r}")
    return tuple(item for item in value if isinstance(item, int))


def dims(attrs: Attrs, name: str) -> Shape:
    value = attrs[name]
    if not isinstance(value, tuple):
        raise FormatError(f"attribute {name} must be a list of dimensions, not {value!r}")
    found: list[Dim] = []
    for item in value:
        if isinstance(item, float):
            raise FormatError(f"attribute {name} holds {item!r}, which is no dimension")
        found.append(item)
    return tuple(found)


def axis(value: int, rank: int) -> int:
    """A dimension's index counted from the front."""
    if not -rank <= value < rank:
        raise FormatError(f"dimension {value} is out of range for a tensor of rank {rank}")
    return value % rank


# --- shape rules --------------------------------------------------------------------------------


def same(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    return inputs[0].shape


def along(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape = inputs[0].shape
    if isinstance(shape[axis(integer(attrs, "dim"), len(shape))], Batch):
        raise FormatError("a softmax over the batch would mix examples")
    return shape


def broadcast(shapes: Sequence[Shape]) -> Shape:
    rank = max(len(shape) for shape in shapes)
    result: list[Dim] = []
    for index in range(rank):
        dim: Dim = 1
        for shape in shapes:
            offset = index - (rank - len(shape))
            other = shape[offset] if offset >= 0 else 1
            if other == 1 or other == dim:
                continue
            if dim != 1:
                raise FormatError(f"shapes {shapes} do not broadcast")
            dim = other
        result.append(dim)
    return tuple(result)


def examples_first(shape: Shape) -> list[int]:
    """The dimensions after the first, none of which may be the batch.

    Raises:
        FormatError: the step would mix examples.
    """
    sizes = [dim for dim in shape[1:] if not isinstance(dim, Batch)]
    if len(sizes) != len(shape) - 1:
        raise FormatError(f"the batch of {shape} must be its first dimension here")
    return sizes


def elementwise(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    if (len(inputs) == 1) == (attrs["scalar"] is None):
        raise FormatError("an elementwise operator takes two tensors, or one and a scalar")
    return broadcast([item.shape for item in inputs])


def matmul(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    left, right = inputs[0].shape, inputs[1].shape
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2] or isinstance(left[-1], Batch):
        raise FormatError(f"cannot multiply matrices of shapes {left} and {right}")
    return (*broadcast([left[:-2], right[:-2]]), left[-2], right[-1])


def linear(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    source, weight = inputs[0].shape, inputs[1].shape
    if len(weight) != 2 or source[-1] != weight[1]:
        raise FormatError(f"a linear map of shape {weight} does not fit an input {source}")
    return (*source[:-1], weight[0])


def attention(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    query, key, value = (item.shape for item in inputs[:3])
    if min(map(len, (query, key, value))) < 2 or query[-1] != key[-1] or key[-2] != value[-2]:
        raise FormatError(f"attention over {query}, {key}, {value} does not fit")
    lead = broadcast([query[:-2], key[:-2], value[:-2]])
    scores = (*lead, query[-2], key[-2])
    materialised(scores)
    if len(inputs) == 4 and broadcast([scores, inputs[3].shape]) != scores:
        raise FormatError(f"a mask {inputs[3].shape} does not fit attention weights {scores}")
    return (*lead, query[-2], value[-1])


_MOST = 2**28


def materialised(shape: Sequence[Dim]) -> None:
    """Refuse an intermediate tensor that no machine should be asked for.

    Raises:
        LimitExceeded: it has more than 2**28 elements for one example.
    """
    if math.prod(map(size, shape)) > _MOST:
        raise LimitExceeded(f"an intermediate tensor of shape {tuple(shape)} is too large")


def layer_norm(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    source, tail = inputs[0].shape, integers(attrs, "shape")
    if not tail or source[-len(tail) :] != tail or any(w.shape != tail for w in inputs[1:]):
        raise FormatError(f"layer normalisation over {tail} does not fit {source}")
    return source


def laid_out(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape = inputs[0].shape
    if attrs["channels_last"] and len(shape) != 4:
        raise FormatError(f"only images can have their channels last, not {shape}")
    return shape


def dropped(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    p = attrs["p"]
    if not isinstance(p, float) or not 0 <= p <= 1:
        raise FormatError(f"a probability of {p!r}")
    return inputs[0].shape


def dropped_whole(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    """Dropping whole channels: dimension 1 of a tensor with more behind it."""
    if len(examples_first(inputs[0].shape)) < 1:
        raise FormatError("there are no channels to drop")
    return dropped(inputs, attrs)


def masked(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape, mask = inputs[0].shape, inputs[1].shape
    if broadcast([shape, mask]) != shape:
        raise FormatError(f"a mask {mask} does not fit {shape}")
    return shape


def flipped(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape = inputs[0].shape
    listed = [axis(dim, len(shape)) for dim in integers(attrs, "dims")]
    if len(set(listed)) < len(listed) or any(isinstance(shape[i], Batch) for i in listed):
        raise FormatError(f"cannot flip {shape} along {listed}: examples keep their order")
    return shape


def rolled(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape, dims_ = inputs[0].shape, integers(attrs, "dims")
    moved = [shape[axis(dim, len(shape))] for dim in dims_]
    if len(integers(attrs, "shifts")) != len(dims_) or any(isinstance(d, Batch) for d in moved):
        raise FormatError("rolling needs one shift for each dimension, and leaves the batch alone")
    return shape


def window(
    length: int, kernel: int, stride: int, padding: int, dilation: int = 1, *, ceil: bool = False
) -> int:
    """Positions of a sliding window, as torch counts them."""
    room = length + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0 or min(stride, kernel, dilation) < 1 or padding < 0:
        raise FormatError(f"a window of {kernel} (dilation {dilation}) does not fit {length}")
    count = (room + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (count - 1) * stride >= length + padding:
        count -= 1
    return count


def pooled(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    kernel, stride = integers(attrs, "kernel"), integers(attrs, "stride")
    padding = integers(attrs, "padding")
    dilation = integers(attrs, "dilation") if "dilation" in attrs else (1,) * len(kernel)
    shape = inputs[0].shape
    examples_first(shape)
    rank = len(kernel)
    if not rank == len(stride) == len(padding) == len(dilation) == len(shape) - 2:
        raise FormatError(f"pooling over {rank} dimensions does not fit {shape}")
    spatial = tuple(
        window(size(dim), k, s, p, d, ceil=bool(attrs["ceil_mode"]))
        for dim, k, s, p, d in zip(shape[2:], kernel, stride, padding, dilation, strict=True)
    )
    if any(2 * p > k for k, p in zip(kernel, padding, strict=True)) or attrs.get("divisor") == 0:
        raise FormatError(f"pooling by {kernel} cannot be padded by {padding}, or divides by zero")
    return (*shape[:2], *spatial)


def adaptive(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    out = integers(attrs, "output_size")
    shape = inputs[0].shape
    if len(out) != len(examples_first(shape)) - 1:
        raise FormatError(f"adaptive pooling to {out} does not fit {shape}")
    return (*shape[:2], *out)


def reduced(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape = inputs[0].shape
    listed = [axis(dim, len(shape)) for dim in integers(attrs, "dims")]
    gone = set(listed)
    if not gone or len(gone) < len(listed) or any(isinstance(shape[i], Batch) for i in gone):
        raise FormatError(f"cannot reduce {shape} over {listed}: examples must stay apart")
    if attrs["keepdim"]:
        return tuple(1 if i in gone else dim for i, dim in enumerate(shape))
    return tuple(dim for i, dim in enumerate(shape) if i not in gone)


def _batches(shape: Shape) -> int:
    return sum(isinstance(dim, Batch) for dim in shape)


def reshaped(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    source, target = inputs[0].shape, dims(attrs, "shape")
    if math.prod(map(size, source)) != math.prod(map(size, target)) or _batches(source) != _batches(
        target
    ):
        raise FormatError(f"cannot reshape {source} to {target}")
    return target


def permuted(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape, order = inputs[0].shape, integers(attrs, "dims")
    if sorted(order) != list(range(len(shape))):
        raise FormatError(f"{order} does not permute a tensor of rank {len(shape)}")
    return tuple(shape[i] for i in order)


def expanded(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    source, target = inputs[0].shape, dims(attrs, "shape")
    if len(target) < len(source) or broadcast([source, target]) != target:
        raise FormatError(f"cannot expand {source} to {target}")
    return target


def concatenated(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    first = inputs[0].shape
    at = axis(integer(attrs, "dim"), len(first))
    total = 0
    for item in inputs:
        shape = item.shape
        if len(shape) != len(first) or any(
            a != b for i, (a, b) in enumerate(zip(shape, first, strict=True)) if i != at
        ):
            raise FormatError(f"cannot concatenate {[i.shape for i in inputs]} along {at}")
        dim = shape[at]
        if isinstance(dim, Batch):
            raise FormatError("cannot concatenate along the batch")
        total += dim
    return (*first[:at], total, *first[at + 1 :])


def sliced(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape = inputs[0].shape
    at = axis(integer(attrs, "dim"), len(shape))
    dim, start = shape[at], integer(attrs, "start")
    stop, step = integer(attrs, "stop"), integer(attrs, "step")
    if isinstance(dim, Batch):
        raise FormatError("cannot slice the batch")
    if not (0 <= start < stop <= dim and step >= 1):
        raise FormatError(f"slice {start}:{stop}:{step} does not fit a dimension of {dim}")
    return (*shape[:at], -(-(stop - start) // step), *shape[at + 1 :])


def selected(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape = inputs[0].shape
    at, index = axis(integer(attrs, "dim"), len(shape)), integer(attrs, "index")
    dim = shape[at]
    if isinstance(dim, Batch) or not 0 <= index < dim:
        raise FormatError(f"cannot select {index} from a dimension of {dim}")
    return (*shape[:at], *shape[at + 1 :])


def padded(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape, pads = list(inputs[0].shape), integers(attrs, "pads")
    if len(pads) % 2 or len(pads) > 2 * len(shape):
        raise FormatError(f"padding {pads} does not fit a tensor of rank {len(shape)}")
    reach = {"reflect": -1, "circular": 0}.get(str(attrs["mode"]))
    spatial = len(pads) // 2 == len(shape) - 2 and 3 <= len(shape) <= 4
    if attrs["mode"] != "constant" and (not spatial or attrs["value"] != 0 or min(pads) < 0):
        raise FormatError(f"{attrs['mode']} padding by {pads} does not fit rank {len(shape)}")
    for i in range(len(pads) // 2):
        before, after = pads[2 * i], pads[2 * i + 1]
        at = len(shape) - 1 - i
        dim = shape[at]
        if isinstance(dim, Batch):
            if before or after:
                raise FormatError("cannot pad the batch")
            continue
        if reach is not None and max(before, after) > dim + reach:
            raise FormatError(f"{attrs['mode']} padding by {pads} exceeds a dimension of {dim}")
        if before < -dim or after < -dim or dim + before + after < 1:
            raise FormatError(f"padding {pads} leaves nothing of a dimension of {dim}")
        shape[at] = dim + before + after
    return tuple(shape)


def _image(shape: Shape) -> Shape:
    if len(shape) != 4 or any(isinstance(dim, Batch) for dim in shape[1:]):
        raise FormatError(f"a tensor of shape {shape} is no batch of images")
    return shape


def pixel_shuffled(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    n, c, h, w = _image(inputs[0].shape)
    r = integer(attrs, "factor")
    if r < 1 or size(c) % (r * r):
        raise FormatError(f"{c} channels cannot be shuffled into {r}x{r} pixels")
    return (n, size(c) // (r * r), size(h) * r, size(w) * r)


def pixel_unshuffled(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    n, c, h, w = _image(inputs[0].shape)
    r = integer(attrs, "factor")
    if r < 1 or size(h) % r or size(w) % r:
        raise FormatError(f"{h}x{w} pixels cannot be gathered by {r}x{r}")
    return (n, size(c) * r * r, size(h) // r, size(w) // r)


def resized(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape, out = inputs[0].shape, integers(attrs, "size")
    ranks = {"linear": (1,), "bilinear": (2,), "bicubic": (2,)}.get(str(attrs["mode"]), (1, 2))
    if len(out) != len(shape) - 2 or len(out) not in ranks or min(out) < 1:
        raise FormatError(f"cannot resize {shape} to {out} ({attrs['mode']})")
    if attrs["align_corners"] is not None and str(attrs["mode"]).startswith("nearest"):
        raise FormatError("nearest resizing has no corners to align")
    return (*shape[:2], *out)
