"""What is lost by a cut, made good by least squares in the weights that are left."""

from search.reconstruction.parallel import Parallel
from search.reconstruction.sequential import sequential

__all__ = ["Parallel", "sequential"]
