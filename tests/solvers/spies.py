"""Layer methods that remember how they were called."""

import threading

from moeopt import Solution


class Spy:
    """Remembers the threads it was called in."""

    def __init__(self):
        self.main = threading.get_ident()
        self.threads = []

    def __call__(self, problem, known, limits):
        self.threads.append(threading.get_ident())
        return Solution(problem)
