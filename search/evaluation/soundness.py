"""Whether this machine's torch computes convolutions and their gradients right, in our forms.

Small convolutions run through the very classes that train, score, recalibrate and reconstruct, and
are compared with plain ones in float64 of ordinary layout. A wrong kernel may also end the process
or never return (see `search.evaluation.training`), so the cases run in processes of their own, one
a layout and number of threads, which is started anew behind a case that ended it:

    python -m search.evaluation.soundness LAYOUT THREADS FIRST EXTENT

Memory that a case has overwritten may end the process in a later one: the case that is named is the
first that was seen to fail.
"""

from __future__ import annotations

import copy
import faulthandler
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

import torch
from torch import Tensor, fx, nn

from search.evaluation.convolution_cases import Case, Extent, Layout, cases
from search.evaluation.inference import Inference, laid_out
from search.evaluation.recalibrate import Layerwise
from search.evaluation.training import Training
from search.reconstruction.walk import Walk

TOLERANCE = 1e-4
"""Of the norm of a difference to that of what is right; float32 gives about 1e-6."""
_COARSE = 3e-2  # of bfloat16
_CASE_S = 120.0  # a case takes milliseconds: one that takes this long hangs
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


@dataclass(frozen=True, slots=True)
class Finding:
    """A case that was wrong.

    Attributes:
        what: the value that was wrong and by how much, or how the process ended.
    """

    case: str
    layout: str
    threads: int
    what: str

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.case}, {self.layout}, {threads}: {self.what}"


# --- one case -----------------------------------------------------------------------------------


Form = Callable[[fx.GraphModule, bool], Callable[[Tensor], Tensor]]
"""Makes of a network, and of whether channels come last, what is trained."""


def in_use(network: fx.GraphModule, channels_last: bool) -> Callable[[Tensor], Tensor]:
    """The form in which jobs train."""
    return Training(network, channels_last=channels_last)


def errors(case: Case, layout: Layout, form: Form = in_use) -> Iterator[tuple[str, float, float]]:
    """What was computed, by how much it is wrong, and by how much it may be."""
    network, convolution = _network(case)
    rank = len(convolution.kernel_size)
    random = torch.Generator().manual_seed(0)
    for parameter in convolution.parameters():
        nn.init.normal_(parameter, generator=random)
    channels = case.inputs * case.groups
    x = torch.randn((case.batch, channels, *(case.size,) * rank), generator=random)

    right = copy.deepcopy(convolution).double()
    x64 = x.double().requires_grad_()
    wanted = right(x64)
    towards = torch.randn(wanted.shape, generator=random)
    wanted.backward(towards.double())

    last = layout == "channels_last"
    with torch.no_grad():
        yield "output", _apart(network(x), wanted), TOLERANCE
        if last and rank == 2:  # scoring and its kin lay out images this way on a processor
            for name, output in _forms(network, x):
                yield name, _apart(output, wanted), _COARSE if "bfloat16" in name else TOLERANCE
    network.train()
    x.requires_grad_()
    found = form(network, last)(x)
    yield "output in training", _apart(found, wanted), TOLERANCE
    found.backward(laid_out(towards, last))  # type: ignore[no-untyped-call]
    pairs = [("input", x, x64), ("weight", convolution.weight, right.weight)]
    if convolution.bias is not None and right.bias is not None:
        pairs.append(("bias", convolution.bias, right.bias))
    for name, ours, theirs in pairs:
        gradients = cast(Tensor, ours.grad), cast(Tensor, theirs.grad)
        yield f"gradient of the {name}", _apart(*gradients), TOLERANCE


def _network(case: Case) -> tuple[fx.GraphModule, Any]:
    rank = int(case.kind[-2])
    convolution = getattr(nn, case.kind)(
        case.inputs * case.groups,
        case.outputs * case.groups,
        case.kernel,
        stride=case.stride,
        padding=case.kernel // 2 if case.size >= case.kernel else case.kernel,
        groups=case.groups,
    )
    code = fx.Graph()
    value = code.placeholder("x")
    if case.behind is not None and rank == 2:
        layout = torch.channels_last if case.behind == "channels_last" else torch.contiguous_format
        value = code.call_function(torch.Tensor.contiguous, (value,), {"memory_format": layout})
    code.output(code.call_module("layer", (value,)))
    return fx.GraphModule({"layer": convolution}, code).eval(), convolution


def _forms(network: fx.GraphModule, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "output in scoring", Inference(network)(x)
    yield "output in scoring with bfloat16", Inference(network, torch.bfloat16)(x)
    yield "output in recalibration", Layerwise(network)(x)
    walk = Walk(network, [x])
    for name in walk.reads:
        walk.step(name)
    yield "output in reconstruction", walk.values("layer")[0]


def _apart(found: Tensor, wanted: Tensor) -> float:
    wanted, found = wanted.detach(), found.detach().double()
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))


def wrong(case: Case, layout: Layout, form: Form = in_use) -> str | None:
    """What is wrong with a case, if anything is."""
    for name, error, most in errors(case, layout, form):
        if not error <= most:
            return f"the {name} is off by {100 * error:.3g} %"
    return None


# --- all of them, in processes of their own -----------------------------------------------------


def main(arguments: Sequence[str], form: Form = in_use) -> None:
    """Run the cases; prints the number of each before it runs, and then what is wrong with it.

    Args:
        arguments: of the command line: layout, threads, the first case, and the extent.
        form: what is trained.
    """
    layout, threads, first, extent = arguments
    torch.set_num_threads(int(threads))
    sweep = cases(cast(Layout, layout), cast(Extent, extent))
    for at in range(int(first), len(sweep)):
        print(at, flush=True)
        faulthandler.dump_traceback_later(_CASE_S, exit=True)
        try:
            what = wrong(sweep[at], cast(Layout, layout), form)
        except RuntimeError as error:  # torch's, of a kernel that cannot be made
            what = f"{type(error).__name__}: {error}"
        if what is not None:
            print(json.dumps(what), flush=True)
    faulthandler.cancel_dump_traceback_later()


def findings(
    layout: Layout,
    threads: int,
    extent: Extent = "full",
    *,
    module: str = "search.evaluation.soundness",
    environment: Mapping[str, str] | None = None,
) -> Generator[Finding, None, None]:
    """The cases that are wrong in one layout, as they are found.

    Args:
        module: that is run as the child.
        environment: of the children, beside this process's.

    Raises:
        RuntimeError: a child could not start, or was ended from outside.
    """
    sweep, first = cases(layout, extent), 0
    while first < len(sweep):
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", module, layout, str(threads), str(first), extent],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
            | dict(environment or {}),
        )
        at = first - 1
        lines = cast(IO[str], child.stdout)
        try:
            for line in lines:
                told = json.loads(line)
                if isinstance(told, int):
                    at = told
                else:
                    yield Finding(str(sweep[at]), layout, threads, told)
            status = child.wait()
        finally:  # also where nobody asks for more
            child.kill()
            child.wait()
            lines.close()
        if at < first or -status in _FROM_OUTSIDE:
            raise RuntimeError(f"the process of the sweep ended with status {status}: try again")
        if status == 0:
            return
        yield Finding(str(sweep[at]), layout, threads, _ended(status))
        first = at + 1


def _ended(status: int) -> str:
    if status < 0:
        return f"it ends the process by {signal.Signals(-status).name}"
    return f"it ends the process with status {status}, or takes more than {_CASE_S:g} s"


if __name__ == "__main__":
    main(sys.argv[1:])
