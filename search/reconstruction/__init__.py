"""What is lost by a cut, made good by least squares in the weights that are left."""

from search.reconstruction.order import held_together
from search.reconstruction.parallel import Parallel
from search.reconstruction.removal import Removal
from search.reconstruction.sequential import PASSES, sequential

__all__ = ["PASSES", "Parallel", "Removal", "held_together", "sequential"]
