"""A built network as a list of steps, so that it can start and stop at any of them.

`Program` is what follows from the code alone: cuts of one network share it (`search.pruning`).
`Run` is one network: what each step calls. The values of a batch are a list with a place for each
step, so that they can be put aside between two steps and taken up again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional

Values = list[Any]
"""One batch's value of each step; `None` before the step ran and after its last reader did."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the code.

    Attributes:
        name: as in the network's graph.
        kind: of the node: `"call_module"`, `"call_function"`, ...
        target: module path, function, method or attribute.
        arguments, keywords: as in the code, other steps as `fx.Node`.
        reads: steps whose values it reads, each once.
        plain: whether it reads all its values as whole arguments, in their order.
    """

    name: str
    kind: str
    target: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    reads: tuple[int, ...]
    plain: bool


class Program:
    """Steps in an order in which they can run.

    Attributes:
        steps: all but the input of the result.
        index: step by node.
        readers: by step, the steps that read it; the output counts as one more, `len(steps)`.
        drops: by step, the values that nothing reads after it.
        output: what `forward` returns: a step, or a tuple of one.
    """

    def __init__(self, code: fx.Graph) -> None:
        nodes = [node for node in code.nodes if node.op != "output"]
        self.index = {node: at for at, node in enumerate(nodes)}
        self.steps = [self._step(node) for node in nodes]
        result = code.output_node()
        self.outputs = tuple(self.index[node] for node in result.all_input_nodes)
        self.readers: list[list[int]] = [[] for _ in nodes]
        for at, step in enumerate(self.steps):
            for source in step.reads:
                self.readers[source].append(at)
        for source in self.outputs:
            self.readers[source].append(len(nodes))
        self.drops: list[list[int]] = [[] for _ in nodes]
        for at, readers in enumerate(self.readers):
            last = readers[-1] if readers else at
            if last < len(nodes):
                self.drops[last].append(at)
        calls = [step.target for step in self.steps if step.kind == "call_module"]
        self.called_once = {path for path in calls if calls.count(path) == 1}

    def _step(self, node: fx.Node) -> Step:
        reads = tuple(self.index[source] for source in node.all_input_nodes)
        plain = len(node.args) == len(reads) and not any(
            isinstance(value, fx.Node) for value in node.kwargs.values()
        )
        plain = plain and all(isinstance(value, fx.Node) for value in node.args)
        return Step(
            node.name, node.op, node.target, tuple(node.args), dict(node.kwargs), reads, plain
        )

    def live(self, position: int) -> tuple[int, ...]:
        """The steps before a position whose values are read at or after it."""
        return tuple(
            at for at in range(position) if self.readers[at] and self.readers[at][-1] >= position
        )

    def only_reader(self, at: int) -> int | None:
        """The one step that reads a value, if there is just one; the output is none."""
        readers = self.readers[at]
        return readers[0] if len(readers) == 1 and readers[0] < len(self.steps) else None


_PROGRAM = "espalier_program"


def program_of(network: fx.GraphModule) -> Program:
    """The network's program; cuts that share their code share it.

    It is held by the code that it was made from, and goes with it: each refers to the other.
    """
    held = vars(network.graph)
    if _PROGRAM not in held:
        held[_PROGRAM] = Program(network.graph)
    program: Program = held[_PROGRAM]
    return program


class Run:
    """A network's steps, ready to be called.

    Args:
        network: used as it is: its modes, its tensors.

    Attributes:
        modules: by step that calls one.
        calls: what each step calls, with the values that it reads in their order; may be replaced.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        self.program = program_of(network)
        self.modules: dict[int, nn.Module] = {
            at: network.get_submodule(step.target)
            for at, step in enumerate(self.program.steps)
            if step.kind == "call_module"
        }
        self.calls: list[Callable[..., Any]] = [
            _call(network, step, self.modules.get(at), self.program)
            for at, step in enumerate(self.program.steps)
        ]

    def begin(self, inputs: Tensor) -> Values:
        """The values of a batch before the first step."""
        values: Values = [None] * len(self.program.steps)
        (at,) = [i for i, step in enumerate(self.program.steps) if step.kind == "placeholder"]
        values[at] = inputs
        return values

    def advance(self, values: Values, start: int, stop: int) -> None:
        """Run the steps from `start` up to but without `stop`, in place."""
        steps, calls, drops = self.program.steps, self.calls, self.program.drops
        for at in range(start, stop):
            step = steps[at]
            if step.kind != "placeholder":
                values[at] = calls[at](*[values[source] for source in step.reads])
            for gone in drops[at]:
                values[gone] = None

    def result(self, values: Values) -> Tensor:
        """The network's one output, when all steps have run."""
        (at,) = self.program.outputs
        output: Tensor = values[at]
        return output

    def __call__(self, inputs: Tensor) -> Tensor:
        values = self.begin(inputs)
        self.advance(values, 0, len(self.program.steps))
        return self.result(values)


def _call(
    network: fx.GraphModule, step: Step, module: nn.Module | None, program: Program
) -> Callable[..., Any]:
    if step.kind == "placeholder":
        return _never
    if step.kind == "get_attr":
        path, _, name = step.target.rpartition(".")
        tensor = getattr(network.get_submodule(path), name)
        return lambda: tensor
    if step.kind == "call_method":
        function: Callable[..., Any] = getattr(Tensor, step.target)
    else:
        function = step.target if module is None else module
    if step.plain and not step.keywords:
        return function
    if step.plain:
        return lambda *read: function(*read, **step.keywords)
    nodes = {program.steps[source].name: place for place, source in enumerate(step.reads)}

    def general(*read: Any) -> Any:
        arguments = fx.node.map_arg(step.arguments, lambda node: read[nodes[node.name]])
        keywords = fx.node.map_arg(step.keywords, lambda node: read[nodes[node.name]])
        return function(*arguments, **keywords)

    return general


def _never(*_: Any) -> Any:
    raise RuntimeError("an input is given, not called")


MAKERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.modules.batchnorm._BatchNorm)
"""Modules whose result is a tensor of its own."""


def in_place(run: Run) -> frozenset[int]:
    """Let ReLUs and sums overwrite a value that nothing else reads; which ones are overwritten.

    Only results of `MAKERS`, or of such a step: never an input, a weight or a view.
    """
    program = run.program
    own = {at for at, module in run.modules.items() if isinstance(module, MAKERS)}
    overwritten = set()
    for at, step in enumerate(program.steps):
        if step.kind != "call_function" or not step.plain:
            continue
        mine = [source for source in step.reads if source in own and _alone(program, source)]
        if step.target is functional.relu:
            own.add(at)
            if mine:
                run.calls[at] = Tensor.relu_
                overwritten.add(mine[0])
        elif step.target is operator.add and len(step.reads) == 2:
            own.add(at)
            if mine:
                run.calls[at] = _add_to_first if mine[0] == step.reads[0] else _add_to_second
                overwritten.add(mine[0])
    return frozenset(overwritten)


def _alone(program: Program, at: int) -> bool:
    return program.only_reader(at) is not None


def _add_to_first(left: Tensor, right: Tensor) -> Tensor:
    same = left.shape == right.shape and left.dtype == right.dtype
    return left.add_(right) if same else left + right


def _add_to_second(left: Tensor, right: Tensor) -> Tensor:
    return _add_to_first(right, left)


def articulations(program: Program, modules: dict[int, nn.Module]) -> Sequence[int]:
    """Positions in front of a module with parameters where one tensor is all that is live.

    Sizes and weights that were read before are live beside it, which costs nothing.
    """
    light = {
        at
        for at, step in enumerate(program.steps)
        if step.kind in ("get_attr", "call_method") or step.target is operator.mul
    }
    # A product of tensors is as heavy as they are: only those of sizes are light.
    for at, step in enumerate(program.steps):
        if step.target is operator.mul and not (step.reads and light.issuperset(step.reads)):
            light.discard(at)
    found = []
    for position, module in modules.items():
        if next(module.parameters(), None) is not None:
            live = [at for at in program.live(position) if at not in light]
            if len(live) == 1 and program.steps[live[0]].kind != "placeholder":
                found.append(position)
    return found
