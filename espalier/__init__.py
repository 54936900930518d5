"""Espalier makes trained neural networks smaller and faster, to a budget.

`pack` and `load` need torch and are imported when first used: the service's API imports this
package too, and must start without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from espalier.client import Client as Client
    from espalier.format.build import load as load
    from espalier.format.lift import pack as pack
    from espalier.format.manifest import Preprocessing as Preprocessing

_HOME = {
    "pack": "espalier.format.lift",
    "load": "espalier.format.build",
    "Preprocessing": "espalier.format.manifest",
    "Client": "espalier.client",
}
__all__ = ["Client", "Preprocessing", "load", "pack"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'espalier' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
