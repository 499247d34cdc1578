"""CP-SAT: the formulation of ``docs/formulations.md`` in integers, solved exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from moeopt._arguments import shown
from moeopt.bounds import Bound
from moeopt.errors import InputError, PlacementError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE, Solution, Stop
from moeopt.splitting import least_makespans, whole_flows
from solvers.cp_solver import Closed, solved, solver_within
from solvers.drive import Limits, Progress, Start, drive
from solvers.formulation import LayerModel, build, layer_model, slots_from_copies, start_values

_RESOLUTION = 2**45

_FLOW_RESOLUTION = 2**26
"""The mean load of a GPU in units of flows: finer ones cost time, and OPTIMAL is never finer than 2**-20."""

_FLOW_GAP = 1e-7
"""Closing the last units of flows can take for ever."""


def solve_cpsat(
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
    log: Callable[[str], None] | None = None,
) -> Solution:
    """Solve every layer to proven optimality with OR-tools' CP-SAT.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads and the rules; every variant.
    time_limit
        Seconds per layer, building the model included; None = until optimal.
    tolerance
        Relative gap at which a layer counts as optimal.
    workers
        CP-SAT threads per layer. One worker with a fixed ``seed`` is reproducible unless a time
        limit strikes.
    start
        A placement to start from (Placement or ``[layers, slots]``), or a Solution, whose bounds are
        used too; by default the swap descent's placement. The answer is never worse.
    seed
        Of every random choice, 0 to 2**31 - 1.
    jobs
        Layers at a time, through joblib, so that ``joblib.parallel_config`` chooses processes,
        threads or a cluster. None = as joblib is configured, one where it is not.
    budget
        Seconds for all layers together; layers not begun by then are left with what is known.
    progress
        Called with the number of layers that have just been finished.
    log
        Called with every line of CP-SAT's log; silent without.

    Returns
    -------
    Solution
        The best placement and bound of every layer, whatever time it took. A layer whose model would be too
        large to build is left with what is known, and a note.

    Raises
    ------
    InputError
        If an argument breaks its rule; PlacementError if the start is not feasible.
    ContradictionError
        If a first placement beats the start's bound; where a later one does, the layer's note says so.

    Notes
    -----
    Loads become integers, rounded down, so a bound of the model is a bound on the true problem:
    exact for counts of partitions, and with replicas where the least common multiple of the
    replica counts fits. The objective's domain is [best bound known, best placement known].

    References
    ----------
    .. [1] L. Perron, F. Didier, "CP-SAT", Google, https://developers.google.com/optimization

    Examples
    --------
    >>> from moeopt import PlacementProblem
    >>> from solvers import solve_cpsat
    >>> found = solve_cpsat(PlacementProblem([[9, 5, 4, 2, 1, 1]], num_gpus=2), time_limit=10)
    >>> found.status[0].name, found.makespan.tolist(), found.lower_bound.tolist()
    ('OPTIMAL', [11.0], [11.0])
    """
    if log is not None and not callable(log):
        raise InputError(f"log must be callable, got {shown(log)}")
    limits = Limits(time_limit, tolerance, workers, seed)
    method = solve_layer if log is None else partial(solve_layer, log=log)
    return drive(problem, method, limits, start=start, jobs=jobs, budget=budget, progress=progress)


def solve_layer(
    problem: PlacementProblem, known: Solution, limits: Limits, log: Callable[[str], None] | None = None
) -> Solution:
    """Solve one layer, given what is known about it."""
    data = layer_model(known)
    if data.too_large:
        return Solution(problem, stop=Stop.SKIPPED, note=data.too_large)
    model = _CpFlowModel(data) if problem.splits else CpModel(data)
    if not model.build(limits):
        return Solution(problem, stop=Stop.TIME_LIMIT)
    if problem.splits:
        limits = replace(limits, tolerance=max(limits.tolerance, _FLOW_GAP))
    solver = solver_within(limits)
    if problem.splits:  # without the linear relaxation the bound creeps up by single units of flow
        solver.parameters.linearization_level = 2
    if log is not None:
        solver.parameters.log_search_progress = True
        solver.parameters.log_to_stdout = False
        solver.log_callback = log
    closed = Closed(model, known) if problem.splits else None
    status = solved(solver, model.cp, closed)
    if status == cp_model.MODEL_INVALID:
        return Solution(problem, stop=Stop.ERROR, note=f"CP-SAT: {solver.status_name()}")
    if status == cp_model.INFEASIBLE:
        return Solution(problem, stop=Stop.INFEASIBLE)
    bound = Bound.of_layer(model.lower_bound(solver.best_objective_bound), "cpsat")
    done = status == cp_model.OPTIMAL or (closed is not None and closed.reached)
    stop = Stop.DONE if done else Stop.TIME_LIMIT
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Solution(problem, bound=bound, stop=stop)
    placement = Placement(model.phy2log(solver), problem.num_experts, problem.num_gpus)
    try:
        return Solution(problem, placement, bound, stop)
    except PlacementError as error:  # loads are rounded down, so a GPU may exceed a ceiling by that rounding
        return Solution(problem, bound=bound, stop=stop, note=f"CP-SAT's placement exceeds the ceiling: {error}")


class CpModel:
    """One layer: variables, then one method per numbered constraint that yields its rows."""

    def __init__(self, data: LayerModel) -> None:
        self.data = data
        self.problem = data.problem
        self.cp = cp_model.CpModel()

    def build(self, limits: Limits) -> bool:
        """Build the whole model; False if the time is over before."""
        self._scale_loads()
        if not build(self, limits):
            return False
        if self.problem.objective == "makespan":
            self.minimise_makespan()
        else:
            self.minimise_moves()
        if self.data.start is not None:
            self._add_start(self.data.start)
        return not limits.late

    def add_row(self, row: Any) -> None:
        """Add a row of a constraint."""
        self.cp.add(row)

    def _scale_loads(self) -> None:
        """Integer replica loads ``[expert][count]``, rounded down, and whether that was exact."""
        loads = [Fraction(value) for value in self.data.loads.tolist()]
        total = sum(loads) or Fraction(1)
        common = math.lcm(*{c for counts in self.data.counts for c in counts}, 1)
        self.exact = all(load.denominator == 1 for load in loads) and total * common <= _RESOLUTION
        self.scale = Fraction(common) if self.exact else _RESOLUTION / total
        self.weight = [
            {c: math.floor(load * self.scale / c) for c in counts}
            for load, counts in zip(loads, self.data.counts, strict=True)
        ]

    def add_variables(self) -> Iterator[None]:
        """Add the variables, expert by expert."""
        cp, data, problem = self.cp, self.data, self.problem
        gpus = range(problem.num_gpus)
        self.y, self.x, self.copies = [], [], []
        for e, counts in enumerate(data.counts):
            self.y.append({c: cp.new_bool_var(f"y[{e},{c}]") for c in counts})
            row = {
                c: [cp.new_int_var(0, min(c, data.max_copies_per_gpu), f"x[{e},{c},{g}]") for g in gpus] for c in counts
            }
            self.x.append(row)
            self.copies.append([cp_model.LinearExpr.sum([row[c][g] for c in counts]) for g in gpus])
            yield
        lowest = math.floor(Fraction(data.lower) * self.scale)
        if self.exact:
            # makespans are integers here, and the bound may be a rounding below one
            lowest = math.ceil(Fraction(data.lower) * self.scale * (1 - Fraction(1, 2**50)))
        else:
            lowest = max(lowest - problem.slots_per_gpu, 0)
        highest = sum(max(weights.values(), default=0) * max(weights, default=1) for weights in self.weight)
        if problem.max_makespan is not None:
            lowest = highest = math.floor(Fraction(data.upper) * self.scale)
        elif data.start is not None:
            highest = self._makespan(data.start)
        self._add_makespan_and_nodes(lowest, highest)

    def _add_makespan_and_nodes(self, lowest: int, highest: int) -> None:
        cp, problem = self.cp, self.problem
        self.makespan = cp.new_int_var(min(lowest, highest), highest, "T")
        if problem.hierarchical:
            self.b = [
                [cp.new_bool_var(f"b[{q},{n}]") for n in range(problem.num_nodes)] for q in range(problem.num_groups)
            ]

    def minimise_makespan(self) -> None:
        """(1) The fullest GPU has the least load."""
        self.cp.minimize(self.makespan)

    def one_replica_count(self) -> Iterator[Any]:
        """(2) Every expert has exactly one replica count."""
        for counts in self.y:
            yield cp_model.LinearExpr.sum(list(counts.values())) == 1

    def place_every_copy(self) -> Iterator[Any]:
        """(3) All copies of an expert are placed, and no others."""
        for expert, counts in enumerate(self.y):
            for c, chosen in counts.items():
                yield cp_model.LinearExpr.sum(self.x[expert][c]) == c * chosen

    def fill_every_slot(self) -> Iterator[Any]:
        """(4) Every slot of every GPU holds a copy, or at most that where slots may stay empty."""
        for g in range(self.problem.num_gpus):
            held = cp_model.LinearExpr.sum([copies[g] for copies in self.copies])
            if self.data.slots_may_be_left:
                yield held <= self.problem.slots_per_gpu
            else:
                yield held == self.problem.slots_per_gpu

    def no_colocation(self) -> Iterator[Any]:
        """(5) No GPU holds two copies of one expert."""
        for expert, counts in enumerate(self.y):
            for c, chosen in counts.items():
                for copies in self.x[expert][c]:
                    yield copies <= chosen

    def load_within_makespan(self) -> Iterator[Any]:
        """(6) No GPU's load exceeds the makespan."""
        for g in range(self.problem.num_gpus):
            variables = [row[c][g] for row in self.x for c in row]
            weights = [self.weight[e][c] for e, row in enumerate(self.x) for c in row]
            yield cp_model.LinearExpr.weighted_sum(variables, weights) <= self.makespan

    def one_node_per_group(self) -> Iterator[Any]:
        """(7) Every group lives on exactly one node."""
        for nodes in self.b:
            yield cp_model.LinearExpr.sum(nodes) == 1

    def equal_groups_per_node(self) -> Iterator[Any]:
        """(8) Every node hosts the same number of groups."""
        share = self.problem.num_groups // self.problem.num_nodes
        for n in range(self.problem.num_nodes):
            yield cp_model.LinearExpr.sum([nodes[n] for nodes in self.b]) == share

    def copies_stay_on_node(self) -> Iterator[Any]:
        """(9) Copies sit only on GPUs of their group's node."""
        group, node = self.problem.group_of_expert, self.problem.node_of_gpu
        for e, row in enumerate(self.copies):
            for g, copies in enumerate(row):
                yield copies <= self.data.max_copies_per_gpu * self.b[group[e]][node[g]]

    def keep_what_is_there(self) -> Iterator[Any]:
        """(10) Only copies that the reference has on a GPU, and the placement too, are kept."""
        reference = self.data.copies_in_reference()
        self.kept = {}
        for g, e in np.argwhere(reference > 0).tolist():
            kept = self.cp.new_int_var(0, int(reference[g, e]), f"k[{e},{g}]")
            self.kept[e, g] = kept
            yield kept <= self.copies[e][g]
        placed = cp_model.LinearExpr.sum([copies for row in self.copies for copies in row])
        self.moves = placed - cp_model.LinearExpr.sum(list(self.kept.values()))

    def limit_moves(self) -> Iterator[Any]:
        """(11) At most ``max_moves`` copies are new where they are."""
        yield self.moves <= self.problem.max_moves

    def minimise_moves(self) -> None:
        """(12) The fewest moves, the makespan being fixed at its ceiling."""
        self.cp.add_linear_constraint(self.moves, self.data.fewest_moves, self.data.most_moves)
        self.cp.minimize(self.moves)

    def order_gpus(self) -> Iterator[Any]:
        """(13) GPUs are numbered by the hottest expert they hold: symmetry breaking.

        Only the hottest experts take part: the rest break few ties at a quadratic cost.
        """
        node = self.problem.node_of_gpu if self.problem.hierarchical else np.zeros(self.problem.num_gpus)
        most = self.data.max_copies_per_gpu
        for g in range(1, self.problem.num_gpus):
            if node[g] != node[g - 1]:
                continue
            before: list[cp_model.LinearExprT] = []
            for e in self.data.by_load[: 2 * self.problem.num_gpus]:
                before.append(self.copies[e][g - 1])
                yield self.copies[e][g] <= most * cp_model.LinearExpr.sum(before)

    def order_nodes(self) -> Iterator[Any]:
        """(14) Nodes are numbered by the first group they host: symmetry breaking."""
        for n in range(1, self.problem.num_nodes):
            for q in range(self.problem.num_groups):
                yield self.b[q][n] <= cp_model.LinearExpr.sum([self.b[p][n - 1] for p in range(q)])

    def _makespan(self, placement: Placement) -> int:
        """Makespan of a placement in the model's rounded loads."""
        count, copies = placement.replica_count[0].tolist(), placement.copies[0]
        return max(sum(self.weight[e][count[e]] * int(row[e]) for e in np.flatnonzero(row)) for row in copies)

    def _add_start(self, start: Placement) -> None:
        """Give every variable its value in the placement known, the makespan included."""
        for variable, value in start_values(self, start):
            self.cp.add_hint(variable, int(value))
        if self.problem.objective == "makespan":
            self.cp.add_hint(self.makespan, self._makespan(start))

    def lower_bound(self, bound: float) -> float | None:
        """The model's bound in tokens (or moves), never above the true one; None if there is none."""
        if not math.isfinite(bound):
            return None
        whole = math.ceil(bound - 1e-6)
        if self.problem.objective == "moves":
            return float(whole)
        value = Fraction(whole) / self.scale
        return float(value) if Fraction(float(value)) <= value else math.nextafter(float(value), 0.0)

    def phy2log(self, solver: cp_model.CpSolver | cp_model.CpSolverSolutionCallback) -> np.ndarray:
        """The placement that the solver found."""
        copies = np.zeros((self.problem.num_gpus, self.problem.num_experts), dtype=np.int64)
        for e, row in enumerate(self.copies):
            for g, placed in enumerate(row):
                copies[g, e] = solver.value(placed)
        return slots_from_copies(self.problem, copies)


class _CpFlowModel(CpModel):
    """One layer whose tokens may go to any copy: hosts and flows where the other model has copies by count."""

    def _scale_loads(self) -> None:
        """Integer loads, rounded down; flows are integers too, so makespans are rounded up."""
        loads = [Fraction(value) for value in self.data.loads.tolist()]
        self.scale = _FLOW_RESOLUTION * self.problem.num_gpus / (sum(loads) or Fraction(1))
        if all(load.denominator == 1 for load in loads) and self.scale >= 1:
            self.scale = Fraction(math.floor(self.scale))
        self.load = np.array([math.floor(load * self.scale) for load in loads], dtype=np.int64)

    def add_variables(self) -> Iterator[None]:
        """Add the variables, expert by expert."""
        data, cp = self.data, self.cp
        gpus = range(self.problem.num_gpus)
        highest = int(self.load.sum()) if data.start is None else self._makespan(data.start)
        self.most = [min(load, highest) for load in self.load.tolist()]
        self.copies, self.f = [], []
        for e, most in enumerate(self.most):
            self.copies.append([cp.new_bool_var(f"y[{e},{g}]") for g in gpus])
            self.f.append([cp.new_int_var(0, most, f"f[{e},{g}]") for g in gpus])
            yield
        lowest = math.floor(Fraction(data.lower) * self.scale) - self.problem.slots_per_gpu
        self._add_makespan_and_nodes(max(lowest, 0), highest)

    def host_every_expert(self) -> Iterator[Any]:
        """(15) Every expert sits on as many GPUs as its tokens need at least."""
        for counts, hosts in zip(self.data.counts, self.copies, strict=True):
            yield cp_model.LinearExpr.sum(hosts) >= counts.start

    def flow_from_hosts(self) -> Iterator[Any]:
        """(16) Only GPUs that host an expert serve its tokens."""
        for most, hosts, flows in zip(self.most, self.copies, self.f, strict=True):
            for host, flow in zip(hosts, flows, strict=True):
                yield flow <= most * host

    def send_every_token(self) -> Iterator[Any]:
        """(17) All tokens of an expert are served."""
        for load, flows in zip(self.load.tolist(), self.f, strict=True):
            yield cp_model.LinearExpr.sum(flows) == load

    def flow_within_makespan(self) -> Iterator[Any]:
        """(18) No GPU serves more tokens than the makespan."""
        for g in range(self.problem.num_gpus):
            yield cp_model.LinearExpr.sum([flows[g] for flows in self.f]) <= self.makespan

    def lower_bound(self, bound: float) -> float | None:
        """The model's bound in tokens: makespans of fractional flows are less than 1 below those of whole ones."""
        return super().lower_bound(max(bound - 1, 0))

    def _makespan(self, placement: Placement) -> int:
        """Least makespan of a placement by whole flows, in the model's rounded loads."""
        load, gpus = least_makespans(self.load[None, None], placement)
        return -int(-load[0, 0] // gpus[0, 0])

    def start_flows(self, start: Placement) -> np.ndarray:
        """Whole flows of the placement known, ``[gpus, experts]``."""
        return whole_flows(self.load, start, self._makespan(start))[0]
