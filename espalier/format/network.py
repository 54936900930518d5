"""The class of built networks: a `GraphModule` whose modules may have any name.

Code cannot write every name that `nn.Module` takes (`block-1`, `class`, `graph`), and changes
some (`ﬁ` becomes `fi`). Modules and tensors lie under their own names; the code reaches those it
cannot write through an alias, which `__getattr__` looks up.
"""

from __future__ import annotations

import copy
import keyword
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from espalier.format.build_code import Targets, switch, write
from espalier.format.ir import Graph, Node

_WRITABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+", re.ASCII)


def held(root: nn.Module, path: str) -> nn.Module | Tensor | None:
    """The module or tensor that is registered at a dotted path; `None` if there is none."""
    *parents, last = path.split(".")
    owner: nn.Module | None = root
    for part in parents:
        owner = None if owner is None else owner._modules.get(part)
    if owner is None:
        return None
    for table in (owner._modules, owner._parameters, owner._buffers):
        if (found := table.get(last)) is not None:
            return found
    return None


def aliases(root: nn.Module, paths: Iterable[str]) -> dict[str, str]:
    """For each path that code cannot write, a free name of the root's that it can; by path."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for path in paths:
        if _writable(root, path):
            continue
        alias = re.sub(r"\W", "_", f"_{path}", flags=re.ASCII)
        while alias in taken or hasattr(root, alias):
            alias += "_"
        taken.add(alias)
        found[path] = alias
    return found


def _writable(root: nn.Module, path: str) -> bool:
    """Whether attribute access leads to what is registered, and can be written in code."""
    reached: object = root
    for part in path.split("."):
        if not _WRITABLE.fullmatch(part) or keyword.iskeyword(part):
            return False
        reached = getattr(reached, part, None)
    return reached is held(root, path)


class Network(fx.GraphModule):
    """A network that was built from a graph, which `meta["espalier"]` holds.

    Args:
        root: modules and tensors, which become its own.
        graph: what its code does.
    """

    def __init__(self, root: nn.Module, graph: Graph) -> None:
        super().__init__(nn.Module(), fx.Graph(), class_name="Network")
        for table in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[table] = root.__dict__[table]
        self.__dict__.update(_paths={}, _targets=None)  # before names are looked for beside them
        named = aliases(self, dict.fromkeys(node.target for node in graph.nodes if node.target))
        self._paths: dict[str, str] = {alias: path for path, alias in named.items()}
        self._targets = Targets(named, self._add_switches(graph))
        self.meta["espalier"] = graph
        self._run(write(graph, self._targets))

    def _run(self, code: fx.Graph) -> None:
        self.__dict__["_graph"] = code
        self.graph = code  # compiles it

    def _add_switches(self, graph: Graph) -> dict[str, str]:
        """Register the modules of operators that depend on `.train()`; their paths by node."""
        paths: dict[str, str] = {}
        for node in graph.nodes:
            module = switch(node)
            if module is None:
                continue
            path = node.name
            while hasattr(self, path):
                path += "_"
            self.add_module(path, module)
            paths[node.name] = path
        return paths

    # --- names ---

    def __getattr__(self, name: str) -> Any:
        paths = self.__dict__.get("_paths")
        found = held(self, paths[name]) if paths and name in paths else None
        return super().__getattr__(name) if found is None else found

    def __setattr__(self, name: str, value: Any) -> None:
        # A module of the original may have the name of an attribute that `GraphModule` sets.
        own = name in self.__dict__ or hasattr(type(self), name)
        if own and held(self, name) is not None:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def get_submodule(self, target: str) -> nn.Module:
        """The module at a path of the original, or at an alias of the code."""
        found = held(self, self._paths.get(target, target)) if target else self
        return found if isinstance(found, nn.Module) else super().get_submodule(target)

    # --- copies ---

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        result = self._empty()
        memo[id(self)] = result
        state = {name: value for name, value in self.__dict__.items() if name != "_graph"}
        result.__dict__.update(copy.deepcopy(state, memo))
        result._run(copy.deepcopy(self._graph, memo))
        return result

    def __copy__(self) -> Network:
        result = self._empty()
        result.__dict__.update(self.__dict__)
        result._run(copy.deepcopy(self._graph))
        return result

    def _empty(self) -> Network:
        """A network without state, of a class of its own, which holds a `GraphModule`'s code."""
        result: Network = type(self).__new__(type(self))
        type(result).__name__ = type(self).__name__
        return result

    def has_its_code(self) -> bool:
        """Whether the code is still that of its graph; `torch.fx` allows to edit it."""
        return _source(self._graph) == _source(write(self.meta["espalier"], self._targets))

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.has_its_code():
            if self._paths:
                names = ", ".join(self._paths.values())
                raise TypeError(
                    f"the code was edited and cannot be pickled beside names as {names}"
                )
            return super().__reduce__()
        state = {name: value for name, value in self.__dict__.items() if name != "_graph"}
        return _restored, (state,)


def with_plain_names(network: Network) -> tuple[Graph, dict[str, str]]:
    """The network's graph with aliases for the paths that code cannot write.

    For tools that write names into code of their own (`torch.export`'s modules, ONNX).

    Returns:
        The graph, and the names of its tensors in the network by their names in it.
    """
    graph: Graph = network.meta["espalier"]
    plain = network._targets.aliases

    def tensor(name: str) -> str:
        owner, _, local = name.rpartition(".")
        return f"{plain[owner]}.{local}" if owner in plain else plain.get(name, name)

    def node(node: Node) -> Node:
        target = node.target or ""
        if node.op == "tensor":
            return replace(node, target=tensor(target))
        return replace(node, target=plain[target]) if target in plain else node

    renamed = replace(
        graph,
        nodes=tuple(map(node, graph.nodes)),
        modules={plain.get(path, path): module for path, module in graph.modules.items()},
        stored={tensor(name): stored for name, stored in graph.stored.items()},
    )
    return renamed, {tensor(name): name for name in graph.stored}


def _source(code: fx.Graph) -> str:
    return code.python_code("self").src


def _restored(state: dict[str, Any]) -> Network:
    """What was pickled, with its code written anew."""
    result: Network = Network.__new__(Network)
    type(result).__name__ = "Network"
    result.__dict__.update(state)
    result._run(write(result.meta["espalier"], result._targets))
    return result
