"""A service of one's own, attacked from outside; see `__main__`."""
