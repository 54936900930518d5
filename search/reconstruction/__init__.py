"""What is lost by a cut, made good by least squares in the weights that are left."""

from search.reconstruction.parallel import Parallel
from search.reconstruction.removal import Removal
from search.reconstruction.sequential import PASSES, Solved, sequential

__all__ = ["PASSES", "Parallel", "Removal", "Solved", "sequential"]
