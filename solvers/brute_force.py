"""Brute force: try every placement of a small layer, in exact arithmetic. The oracle of the tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from moeopt.bounds import Bound
from moeopt.methods import refuses
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE, Solution, Stop
from moeopt.verify.split import split_makespan
from solvers.drive import Limits, Progress, Start, work

MAX_EXPERTS = 12
MAX_SLOTS = 24


def _reason(problem: PlacementProblem) -> str:
    if problem.num_experts <= MAX_EXPERTS and problem.slots <= MAX_SLOTS:
        return ""
    return f"takes at most {MAX_EXPERTS} experts and {MAX_SLOTS} slots, not {problem.num_experts} and {problem.slots}"


@refuses(_reason)
def solve_brute_force(
    problem: PlacementProblem,
    *,
    time_limit: float | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    workers: int = 1,
    start: Start | None = None,
    seed: int = 0,
    jobs: int | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Find the optimum of every layer by enumeration, without any bound, heuristic or start.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads of at most ``MAX_EXPERTS`` experts on ``MAX_SLOTS`` slots; every variant.
    time_limit, tolerance, workers, start, seed, jobs, budget, progress
        As in :func:`solvers.cpsat.solve_cpsat`, but ``workers``, ``start`` and ``seed`` change nothing, since one
        exhaustive search in a fixed order needs none.

    Raises
    ------
    InputError
        If an argument breaks its rule; UnsupportedError for larger layers.

    Notes
    -----
    Experts are placed one after another, by falling load, on every multiset of GPUs; a branch is
    cut when a GPU is already as full as in the best placement known. Exact fractions. Exponential.

    Examples
    --------
    >>> from moeopt import PlacementProblem
    >>> from solvers import solve_brute_force
    >>> found = solve_brute_force(PlacementProblem([[9, 5, 4, 2, 1, 1]], num_gpus=2))
    >>> found.status[0].name, found.makespan.tolist(), found.lower_bound.tolist()
    ('OPTIMAL', [11.0], [11.0])
    """
    limits = Limits(time_limit, tolerance, workers, seed)
    nothing = Solution(problem, tolerance=limits.tolerance)
    return work(nothing, _solve_layer, limits, jobs=jobs, budget=budget, progress=progress)


def _solve_layer(problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    search = _Search(problem, limits)
    complete = search.run()
    stop = Stop.DONE if complete else Stop.TIME_LIMIT
    if search.best is None:
        return Solution(problem, stop=Stop.INFEASIBLE if complete else stop)
    slots = [slot for gpu in search.best for slot in gpu + [-1] * (problem.slots_per_gpu - len(gpu))]
    value = search.best_value
    down = float(value) if Fraction(float(value)) <= value else math.nextafter(float(value), 0.0)
    return Solution(problem, slots, Bound.of_layer(down if complete else None, "brute_force"), stop)


class _Search:
    """Depth-first enumeration of one layer; loads are Fractions."""

    def __init__(self, problem: PlacementProblem, limits: Limits) -> None:
        self.problem = problem
        self.limits = limits
        self.loads = [Fraction(value) for value in problem.load.values[0].tolist()]
        self.scale = math.lcm(*(load.denominator for load in self.loads))
        self.order = sorted(range(problem.num_experts), key=lambda e: -self.loads[e])
        self.group = problem.group_of_expert.tolist()
        self.node = problem.node_of_gpu.tolist()
        self.held: list[list[int]] = [[] for _ in range(problem.num_gpus)]
        self.total = [Fraction(0)] * problem.num_gpus
        self.best: list[list[int]] | None = None
        self.best_value = Fraction(0)
        self.nodes_seen = 0
        self.reference: list[dict[int, int]] = []
        if problem.reference is not None:
            for row in problem.reference.by_gpu[0].tolist():
                self.reference.append({e: row.count(e) for e in row if e >= 0})
        self.ceiling = None if problem.max_makespan is None else Fraction(problem.ceiling[0])

    def run(self) -> bool:
        """Search; whether it was exhaustive."""
        try:
            self._place(0)
        except TimeoutError:
            return False
        return True

    def _place(self, depth: int) -> None:
        self.nodes_seen += 1
        if self.nodes_seen % 256 == 0 and self.limits.late:
            raise TimeoutError
        if depth == len(self.order):
            self._record()
            return
        expert = self.order[depth]
        free = [self.problem.slots_per_gpu - len(held) for held in self.held]
        spare = sum(free) - (len(self.order) - depth - 1)
        for copies in self._spreads(expert, 0, free, spare):
            count = sum(copies)
            if count == 0:
                continue
            share = self.loads[expert] / count
            before = list(self.total)
            for gpu, c in enumerate(copies):
                self.total[gpu] += c * share
                self.held[gpu] += [expert] * c
            if not self._hopeless():
                self._place(depth + 1)
            self.total = before
            for gpu, c in enumerate(copies):
                del self.held[gpu][len(self.held[gpu]) - c :]

    def _spreads(self, expert: int, gpu: int, free: list[int], spare: int) -> Iterator[tuple[int, ...]]:
        """Every way to put copies of ``expert`` on the GPUs from ``gpu`` on, ``spare`` in all at most."""
        if gpu == self.problem.num_gpus:
            yield ()
            return
        most = min(free[gpu], spare)
        if not self.problem.allow_colocated:
            most = min(most, 1)
        if self.problem.hierarchical and not self._may_host(expert, gpu):
            most = 0
        for c in range(most + 1):
            for rest in self._spreads(expert, gpu + 1, free, spare - c):
                yield (c, *rest)

    def _may_host(self, expert: int, gpu: int) -> bool:
        """Whether the experts already placed leave this GPU's node open to the expert's group."""
        group, node = self.group[expert], self.node[gpu]
        homes = {self.group[e]: self.node[g] for g, held in enumerate(self.held) for e in held}
        if group in homes:
            return bool(homes[group] == node)
        hosted = sum(home == node for home in homes.values())
        return hosted < self.problem.num_groups // self.problem.num_nodes

    def _hopeless(self) -> bool:
        """Whether no completion can be feasible and better than the best one known.

        GPU loads and moves only grow as more experts are placed, and so does the makespan of the best split.
        """
        fullest = self._fullest()
        if self.problem.max_moves is not None and self._moves() > self.problem.max_moves:
            return True
        if self.ceiling is not None:
            return fullest > self.ceiling or (self.best is not None and self._moves() >= self.best_value)
        return self.best is not None and fullest >= self.best_value

    def _fullest(self) -> Fraction:
        """Load of the fullest GPU, of the experts placed."""
        if not self.problem.splits:
            return max(self.total)
        return split_makespan([int(load * self.scale) for load in self.loads], self.held) / self.scale

    def _record(self) -> None:
        if not self.problem.allow_empty_slots and any(len(held) < self.problem.slots_per_gpu for held in self.held):
            return
        if self.problem.hierarchical and not self._groups_are_whole():
            return
        moves = self._moves()
        if self.problem.max_moves is not None and moves > self.problem.max_moves:
            return
        value = Fraction(moves) if self.ceiling is not None else self._fullest()
        if self.best is None or value < self.best_value:
            self.best, self.best_value = [sorted(held) for held in self.held], value

    def _groups_are_whole(self) -> bool:
        hosted = {(self.group[e], self.node[g]) for g, held in enumerate(self.held) for e in held}
        share = self.problem.num_groups // self.problem.num_nodes
        per_node = [sum(n == node for _, n in hosted) for node in range(self.problem.num_nodes)]
        return len(hosted) == self.problem.num_groups and all(count == share for count in per_node)

    def _moves(self) -> int:
        if not self.reference:
            return 0
        return sum(
            max(held.count(e) - reference.get(e, 0), 0)
            for held, reference in zip(self.held, self.reference, strict=True)
            for e in set(held)
        )
