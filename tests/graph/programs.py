"""Random networks from the operator table, to try claims on structures nobody thought of."""

from __future__ import annotations

import random
from math import prod

from benchmarks.sketch import Sketch
from espalier.format.errors import FormatError
from espalier.format.ir import Batch, Graph

LARGEST = 6000


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


class Program:
    """Grows a graph step by step; a step that does not fit leaves it as it is.

    `spanning` also draws normalisations whose statistics span channels that may be cut.
    """

    def __init__(self, seed: int, *, spanning: bool) -> None:
        self.random = random.Random(seed)
        self.sketch = Sketch()
        self.spanning = spanning
        self.live = [self.sketch.input(self.random.choice([1, 3, 4]), 4, 4)]
        self.live.append(self.sketch.conv(self.live[0], self.random.choice([4, 6, 8, 12]), 3))

    def pick(self) -> str:
        return self.random.choice(self.live[-4:])

    def step(self) -> None:
        kinds = [name for name in dir(self) if name.startswith("do_")]
        try:
            node = getattr(self, self.random.choice(kinds))(self.pick())
        except FormatError:  # the operator demands more of the shape than the step looks at
            node = None
        if node is not None:
            self.live.append(node)

    def fits(self, shape: tuple[int, ...]) -> bool:
        return prod(shape) <= LARGEST and len(shape) <= 6

    # --- modules

    def do_conv(self, x: str) -> str | None:
        s, rank = self.sketch, len(self.sketch.shape(x))
        if rank not in (3, 4):
            return None
        c_in, c_out = s.shape(x)[1], self.random.choice([2, 4, 6, 8, 12])
        groups = self.random.choice([g for g in _divisors(c_in) if c_out % g == 0])
        groups = self.random.choice([1, groups])
        spatial = prod(s.shape(x)[2:])
        kernel = 1 if min(s.shape(x)[2:]) < 3 else self.random.choice([1, 3])
        if c_out * spatial > LARGEST or isinstance(s.dims(x)[2], Batch):
            return None
        if any(isinstance(dim, Batch) for dim in s.dims(x)[1:]):
            return None
        return s.conv(
            x,
            c_out,
            kernel,
            groups=groups,
            transposed=self.random.random() < 0.25,
            bias=self.random.random() < 0.5,
        )

    def do_depthwise(self, x: str) -> str | None:
        s = self.sketch
        if len(s.shape(x)) not in (3, 4) or any(isinstance(d, Batch) for d in s.dims(x)[1:]):
            return None
        c = s.shape(x)[1]
        times = self.random.choice([1, 1, 2, 3])
        if prod(s.shape(x)) * times > LARGEST:
            return None
        return s.conv(x, c * times, groups=c, transposed=self.random.random() < 0.3)

    def do_same_conv_twice(self, x: str) -> str | None:
        s = self.sketch
        if len(s.shape(x)) != 4 or any(isinstance(d, Batch) for d in s.dims(x)[1:]):
            return None
        c = s.shape(x)[1]
        path = f"shared{len(s.nodes)}"
        return s.conv(s.conv(x, c, path=path), c, path=path)

    def do_linear(self, x: str) -> str | None:
        s = self.sketch
        if len(s.shape(x)) < 2 or isinstance(s.dims(x)[-1], Batch):
            return None
        c = self.random.choice([2, 4, 6, 8])
        if prod(s.shape(x)[:-1]) * c > LARGEST:
            return None
        return s.linear(x, c, bias=self.random.random() < 0.5)

    def do_batch_norm(self, x: str) -> str | None:
        s = self.sketch
        if len(s.shape(x)) not in (2, 3, 4) or isinstance(s.dims(x)[1], Batch):
            return None
        return s.norm(x)

    def do_prelu(self, x: str) -> str | None:
        if len(self.sketch.shape(x)) < 2 or isinstance(self.sketch.dims(x)[1], Batch):
            return None
        return self.sketch.module("PReLU", x, num_parameters=self.sketch.shape(x)[1])

    def do_normalise(self, x: str) -> str | None:
        s = self.sketch
        if not self.spanning or len(s.shape(x)) < 3 or isinstance(s.dims(x)[1], Batch):
            return None
        if any(isinstance(dim, Batch) for dim in s.dims(x)[1:]):
            return None
        kind = self.random.choice(["group", "layer", "layer_op"])
        affine = self.random.random() < 0.5
        if kind == "group":
            c = s.shape(x)[1]
            return s.module(
                "GroupNorm",
                x,
                num_channels=c,
                num_groups=self.random.choice(_divisors(c)),
                eps=1e-5,
                affine=affine,
            )
        tail = s.shape(x)[-self.random.choice([1, 1, 2]) :]
        if kind == "layer":
            if self.random.random() < 0.3:
                return s.module(
                    "RMSNorm", x, normalized_shape=tail, eps=None, elementwise_affine=affine
                )
            return s.module(
                "LayerNorm",
                x,
                normalized_shape=tail,
                eps=1e-5,
                elementwise_affine=affine,
                bias=affine,
            )
        affine_tensors = [s.tensor(*tail), s.tensor(*tail)] if affine else []
        return s.op("layer_norm", x, *affine_tensors, shape=tail, eps=1e-5)

    # --- elementwise

    def do_relu(self, x: str) -> str:
        return self.sketch.op(self.random.choice(["relu", "sigmoid", "tanh"]), x)

    def do_add(self, x: str) -> str | None:
        s = self.sketch
        others = [y for y in self.live if len(s.dims(y)) <= len(s.dims(x))]
        self.random.shuffle(others)
        for y in others:
            tail = s.dims(x)[len(s.dims(x)) - len(s.dims(y)) :]
            if all(a == b or b == 1 for a, b in zip(tail, s.dims(y), strict=True)):
                return s.op(self.random.choice(["add", "mul", "sub"]), x, y)
        return None

    def do_project_and_add(self, x: str) -> str | None:
        y = self.do_conv(x)
        if y is None or self.sketch.shape(y)[2:] != self.sketch.shape(x)[2:]:
            return y
        z = self.sketch.conv(x, self.sketch.shape(y)[1])
        return self.sketch.op("add", y, z)

    def do_add_stored(self, x: str) -> str | None:
        s = self.sketch
        dims = s.dims(x)[self.random.randrange(len(s.dims(x))) :]
        shape = [1 if isinstance(d, Batch) else self.random.choice([1, d]) for d in dims]
        if not shape:
            return None
        return s.op(self.random.choice(["add", "mul"]), x, s.tensor(*shape))

    def do_squeeze_excite(self, x: str) -> str | None:
        s = self.sketch
        if len(s.shape(x)) != 4 or any(isinstance(d, Batch) for d in s.dims(x)[1:]):
            return None
        mean = s.op("mean", x, dims=(2, 3), keepdim=True)
        return s.op("mul", x, s.op("sigmoid", s.conv(s.conv(mean, 3), s.shape(x)[1])))

    def do_softmax(self, x: str) -> str | None:
        rank = len(self.sketch.dims(x))
        dim = self.random.randrange(rank)
        if isinstance(self.sketch.dims(x)[dim], Batch):
            return None
        return self.sketch.op("softmax", x, dim=dim)

    # --- shapes

    def do_split_dim(self, x: str) -> str | None:
        dims = self.sketch.dims(x)
        choices = [
            (i, d)
            for i, dim in enumerate(dims)
            if isinstance(dim, int)
            for d in _divisors(dim)[1:-1]
        ]
        if not choices or len(dims) > 5:
            return None
        i, d = self.random.choice(choices)
        dim = dims[i]
        assert isinstance(dim, int)
        return self.sketch.reshape(x, *dims[:i], d, dim // d, *dims[i + 1 :])

    def do_merge_dims(self, x: str) -> str | None:
        dims = self.sketch.dims(x)
        if len(dims) < 3:
            return None
        i = self.random.randrange(len(dims) - 1)
        a, b = dims[i], dims[i + 1]
        if isinstance(a, Batch) and isinstance(b, Batch):
            return None
        if isinstance(a, Batch) or isinstance(b, Batch):
            merged: int | Batch = Batch(prod(self.sketch.shape(x)[i : i + 2]))
        else:
            merged = a * b
        return self.sketch.reshape(x, *dims[:i], merged, *dims[i + 2 :])

    def do_flatten(self, x: str) -> str | None:
        dims = self.sketch.dims(x)
        if any(isinstance(d, Batch) for d in dims[1:]) or len(dims) < 3:
            return None
        return self.sketch.reshape(x, dims[0], prod(self.sketch.shape(x)[1:]))

    def do_permute(self, x: str) -> str:
        order = list(range(len(self.sketch.dims(x))))
        self.random.shuffle(order)
        return self.sketch.permute(x, *order)

    def do_shuffle(self, x: str) -> str | None:
        dims = self.sketch.dims(x)
        c = dims[1] if len(dims) > 1 else 1
        if not isinstance(c, int) or len(_divisors(c)) < 3 or len(dims) > 5:
            return None
        g = self.random.choice(_divisors(c)[1:-1])
        y = self.sketch.reshape(x, dims[0], g, c // g, *dims[2:])
        y = self.sketch.permute(y, 0, 2, 1, *range(3, len(dims) + 1))
        return self.sketch.reshape(y, *dims)

    def _plain_dim(self, x: str, least: int) -> int | None:
        found = [i for i, d in enumerate(self.sketch.dims(x)) if isinstance(d, int) and d >= least]
        return self.random.choice(found) if found else None

    def do_slice(self, x: str) -> str | None:
        dim = self._plain_dim(x, 2)
        if dim is None:
            return None
        length = self.sketch.shape(x)[dim]
        start = self.random.randrange(length)
        stop = self.random.randrange(start, length) + 1
        return self.sketch.slice(x, dim, start, stop, self.random.choice([1, 1, 1, 2]))

    def do_chunk(self, x: str) -> str | None:
        dim = self._plain_dim(x, 2)
        if dim is None:
            return None
        half = self.sketch.shape(x)[dim] // 2
        left = self.sketch.slice(x, dim, 0, half)
        right = self.sketch.slice(x, dim, half, 2 * half)
        kind = self.random.choice(["mul", "cat", "keep"])
        if kind == "mul":
            return self.sketch.op("mul", left, self.sketch.op("sigmoid", right))
        if kind == "cat":
            return self.sketch.op("cat", right, left, dim=dim)
        self.live.append(left)
        return right

    def do_select(self, x: str) -> str | None:
        dim = self._plain_dim(x, 2)
        if dim is None or len(self.sketch.dims(x)) < 3:
            return None
        return self.sketch.op(
            "select", x, dim=dim, index=self.random.randrange(self.sketch.shape(x)[dim])
        )

    def do_cat(self, x: str) -> str | None:
        s = self.sketch
        dim = self._plain_dim(x, 1)
        if dim is None:
            return None
        rest = [d for i, d in enumerate(s.dims(x)) if i != dim]
        others = [
            y
            for y in self.live
            if len(s.dims(y)) == len(s.dims(x))
            and isinstance(s.dims(y)[dim], int)
            and [d for i, d in enumerate(s.dims(y)) if i != dim] == rest
        ]
        other = self.random.choice(others)
        if prod(s.shape(x)) + prod(s.shape(other)) > LARGEST:
            return None
        return s.op("cat", x, other, dim=dim)

    def do_pad(self, x: str) -> str | None:
        s = self.sketch
        dims = s.dims(x)
        pads = [0] * 2 * self.random.randint(1, len(dims))
        i = self.random.randrange(len(pads) // 2)
        dim = dims[len(dims) - 1 - i]
        if isinstance(dim, Batch):
            return None
        pads[2 * i], pads[2 * i + 1] = self.random.randint(-1, 2), self.random.randint(-1, 2)
        if dim + pads[2 * i] + pads[2 * i + 1] < 1 or prod(s.shape(x)) * 3 > LARGEST:
            return None
        return s.op("pad", x, pads=tuple(pads), mode="constant", value=0.0)

    def do_expand(self, x: str) -> str | None:
        dims = list(self.sketch.dims(x))
        if 1 not in dims or prod(self.sketch.shape(x)) * 4 > LARGEST:
            return None
        dims[dims.index(1)] = 4
        return self.sketch.op("expand", x, shape=tuple(dims))

    def do_pixels(self, x: str) -> str | None:
        s = self.sketch
        if len(s.dims(x)) != 4 or any(isinstance(d, Batch) for d in s.dims(x)[1:]):
            return None
        if s.shape(x)[1] % 4 == 0:
            return s.op("pixel_shuffle", x, factor=2)
        if s.shape(x)[2] % 2 == s.shape(x)[3] % 2 == 0:
            return s.op("pixel_unshuffle", x, factor=2)
        return None

    def do_reduce(self, x: str) -> str | None:
        dim = self._plain_dim(x, 1)
        if dim is None or len(self.sketch.dims(x)) < 3:
            return None
        keep = self.random.random() < 0.5
        kinds = ["amax", "sum", "norm", "std"] + ["mean", "var"] * self.spanning
        kind = self.random.choice(kinds)
        more: dict[str, float] = {"norm": {"order": 2.0}, "std": {"correction": 1.0}}.get(kind, {})
        more |= {"correction": 0.0} if kind == "var" else {}
        return self.sketch.op(kind, x, dims=(dim,), keepdim=keep, **more)

    def do_flip(self, x: str) -> str | None:
        dim = self._plain_dim(x, 2)
        return None if dim is None else self.sketch.op("flip", x, dims=(dim,))

    def do_roll(self, x: str) -> str | None:
        dim = self._plain_dim(x, 2)
        return None if dim is None else self.sketch.op("roll", x, shifts=(1,), dims=(dim,))

    # --- products

    def do_gram(self, x: str) -> str | None:
        s = self.sketch
        dims = s.dims(x)
        if len(dims) < 3 or isinstance(dims[-1], Batch) or isinstance(dims[-2], Batch):
            return None
        if prod(s.shape(x)[:-1]) * s.shape(x)[-2] > LARGEST:
            return None
        y = s.permute(x, *range(len(dims) - 2), len(dims) - 1, len(dims) - 2)
        return s.op("matmul", x, y)

    def do_matmul(self, x: str) -> str | None:
        s = self.sketch
        dims = s.dims(x)
        if len(dims) < 3 or isinstance(dims[-1], Batch) or isinstance(dims[-2], Batch):
            return None
        for y in reversed(self.live):
            other = s.dims(y)
            if len(other) == len(dims) and other[:-2] == dims[:-2] and other[-2] == dims[-1]:
                return s.op("matmul", x, y)
        return s.op("matmul", x, s.tensor(s.shape(x)[-1], self.random.choice([2, 4, 6])))

    def do_attention(self, x: str) -> str | None:
        s = self.sketch
        dims = s.dims(x)
        if len(dims) < 3 or isinstance(dims[-1], Batch) or isinstance(dims[-2], Batch):
            return None
        query = x if self.random.random() < 0.5 else s.linear(x, s.shape(x)[-1])
        key = x if self.random.random() < 0.5 else s.linear(x, s.shape(x)[-1])
        value = x if self.random.random() < 0.5 else s.linear(x, 4)
        return s.op("attention", query, key, value, scale=None, causal=False, dropout=0.0)

    def do_heads(self, x: str) -> str | None:
        """Multi-head self-attention over the last two dimensions, in one of its spellings."""
        s = self.sketch
        dims = s.dims(x)
        if (
            len(dims) != 3
            or not isinstance(dims[0], Batch)
            or any(isinstance(d, Batch) for d in dims[1:])
        ):
            return None
        n, length = dims[0], dims[1]
        assert isinstance(length, int)
        heads, deep = self.random.choice([1, 2, 3, 4]), self.random.choice([2, 3])
        if length * heads * max(length, 3 * deep) > LARGEST:
            return None
        fused = s.linear(x, 3 * heads * deep)
        split = s.permute(s.reshape(fused, n, length, 3, heads, deep), 2, 0, 3, 1, 4)
        q, k, v = (s.op("select", split, dim=0, index=i) for i in range(3))
        if self.random.random() < 0.3:  # a rotation: halves swapped, times a table
            table = s.tensor(length, deep)
            q, k = (s.op("mul", each, table) for each in (q, k))
        if self.random.random() < 0.5:  # heads folded into the batch
            folded = Batch(n.factor * heads)
            q, k, v = (s.reshape(each, folded, length, deep) for each in (q, k, v))
        if self.random.random() < 0.5:
            y = s.op("attention", q, k, v, scale=None, causal=False, dropout=0.0)
        else:
            rank = len(s.dims(k))
            scores = s.op("matmul", q, s.permute(k, *range(rank - 2), rank - 1, rank - 2))
            y = s.op("matmul", s.op("softmax", scores, dim=rank - 1), v)
        y = s.permute(s.reshape(y, n, heads, length, deep), 0, 2, 1, 3)
        return s.linear(s.reshape(y, n, length, heads * deep), self.random.choice([4, 6]))

    def finish(self) -> Graph:
        """End in maps to the outputs, so that what precedes may be cut."""
        outputs = []
        for x in dict.fromkeys([self.live[-1], self.pick()]):
            dims = self.sketch.dims(x)
            plain = len(dims) > 1 and isinstance(dims[-1], int)
            outputs.append(self.sketch.linear(x, 3) if plain else x)
        return self.sketch.graph(*outputs)


def random_graph(seed: int, *, steps: int = 12, spanning: bool = False) -> Graph:
    """A graph from a seed; `spanning` as in `Program`."""
    program = Program(seed, spanning=spanning)
    for _ in range(steps):
        program.step()
    return program.finish()
