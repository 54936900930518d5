"""Graphs written by hand: nodes with inferred shapes, modules with the tensors they need."""

from __future__ import annotations

from collections.abc import Mapping

from espalier.format.ir import Attr, Batch, Dim, Graph, Module, Node, Stored, TensorType, size
from espalier.format.operators import MODULES, OPERATORS, infer


class Sketch:
    """Collects nodes; every method returns the new node's name."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.modules: dict[str, Module] = {}
        self.stored: dict[str, Stored] = {}
        self.inputs: dict[str, TensorType] = {}
        self.types: dict[str, TensorType] = {}

    def _add(
        self, op: str, inputs: tuple[str, ...], attrs: Mapping[str, Attr], target: str | None
    ) -> str:
        name = f"{op}_{len(self.nodes)}"
        node = Node(name, op, inputs, attrs, target)
        sources = [self.types[source] for source in inputs]
        if op == "tensor":
            kind = TensorType(self.stored[target or ""].shape)
        elif op == "module":
            module = self.modules[target or ""]
            kind = TensorType(MODULES[module.kind].shape(sources, module.args))
        else:
            kind = TensorType(OPERATORS[op].shape(sources, attrs))
        self.nodes.append(node)
        self.types[name] = kind
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(size(dim) for dim in self.types[name].shape)

    def dims(self, name: str) -> tuple[Dim, ...]:
        return self.types[name].shape

    def input(self, *shape: int, dtype: str = "float32") -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = self.types[name] = TensorType((Batch(), *shape), dtype)
        self.nodes.append(Node(name, "input"))
        return name

    def op(self, kind: str, *inputs: str, **attrs: Attr) -> str:
        elementwise = kind in ("add", "sub", "mul", "div", "maximum", "minimum")
        if elementwise and not attrs:
            attrs = {"scalar": None, "reversed": False}
        return self._add(kind, inputs, attrs, None)

    def tensor(self, *shape: int, name: str | None = None) -> str:
        name = name or f"t{len(self.nodes)}"
        self.stored.setdefault(name, Stored(shape, "float32", True))
        return self._add("tensor", (), {}, name)

    def module(self, kind: str, source: str, *, path: str | None = None, **args: Attr) -> str:
        path = path or f"m{len(self.nodes)}"
        if path not in self.modules:
            MODULES[kind].shape([self.types[source]], args)  # raises before anything is kept
            self.modules[path] = Module(kind, args)
            for local, shape in MODULES[kind].tensors(args).items():
                trainable = local not in MODULES[kind].buffers
                dtype = "int64" if local == "num_batches_tracked" else "float32"
                self.stored[f"{path}.{local}"] = Stored(tuple(shape), dtype, trainable)
        return self._add("module", (source,), {}, path)

    def conv(
        self,
        source: str,
        channels: int,
        kernel: int = 1,
        *,
        groups: int = 1,
        bias: bool = True,
        path: str | None = None,
        transposed: bool = False,
    ) -> str:
        rank = len(self.shape(source)) - 2
        args: dict[str, Attr] = {
            "in_channels": self.shape(source)[1],
            "out_channels": channels,
            "groups": groups,
            "bias": bias,
            "kernel_size": (kernel,) * rank,
            "stride": (1,) * rank,
            "padding": (kernel // 2,) * rank,
            "dilation": (1,) * rank,
            "padding_mode": "zeros",
        }
        if transposed:
            args["output_padding"] = (0,) * rank
        kind = f"ConvTranspose{rank}d" if transposed else f"Conv{rank}d"
        return self.module(kind, source, path=path, **args)

    def norm(self, source: str, *, path: str | None = None) -> str:
        return self.module(
            "BatchNorm2d" if len(self.shape(source)) == 4 else "BatchNorm1d",
            source,
            path=path,
            num_features=self.shape(source)[1],
            eps=1e-5,
            affine=True,
            momentum=0.1,
            track_running_stats=True,
        )

    def linear(
        self, source: str, features: int, *, bias: bool = True, path: str | None = None
    ) -> str:
        wanted = self.shape(source)[-1]
        return self.module(
            "Linear", source, path=path, in_features=wanted, out_features=features, bias=bias
        )

    def reshape(self, source: str, *shape: Dim) -> str:
        return self.op("reshape", source, shape=shape)

    def permute(self, source: str, *dims: int) -> str:
        return self.op("permute", source, dims=dims)

    def slice(self, source: str, dim: int, start: int, stop: int, step: int = 1) -> str:
        return self.op("slice", source, dim=dim, start=start, stop=stop, step=step)

    def pool(self, source: str) -> str:
        return self.op("mean", source, dims=(-2, -1), keepdim=False)

    def graph(self, *outputs: str) -> Graph:
        graph = Graph(
            tuple(self.nodes),
            dict(self.modules),
            dict(self.stored),
            dict(self.inputs),
            outputs,
            single=len(outputs) == 1,
        )
        infer(graph)
        return graph
