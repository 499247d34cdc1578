"""MILP through PuLP: the formulation of ``docs/formulations.md`` for HiGHS and CBC."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pulp

from moeopt.bounds import Bound
from moeopt.errors import InputError, PlacementError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_TOLERANCE, FLOAT_RESOLUTION, Solution, Stop
from moeopt.splitting import whole_flows, whole_loads
from solvers.cbc import StoppableCBC
from solvers.drive import Limits, Progress, Start, drive
from solvers.formulation import LayerModel, build, layer_model, slots_from_copies, start_values
from solvers.highs import load_highs, run

_UNIT = 1000.0
"""The makespan's bound in model units: well above the solvers' absolute tolerances."""

_MARGIN = 1e-7
"""Taken off a solver's bound: it is a floating-point claim within a feasibility tolerance."""


def solve_milp(
    problem: PlacementProblem,
    *,
    backend: str = "highs",
    time_limit: float | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    workers: int = 1,
    start: Start | None = None,
    seed: int = 0,
    jobs: int | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Solve every layer as a mixed-integer linear program.

    Parameters
    ----------
    problem
        ``[layers, experts]`` loads and the rules; every variant.
    backend
        ``"highs"`` or ``"cbc"``, both through PuLP. CBC reports no bound of its own: one follows
        only from its claim of optimality.
    time_limit, tolerance, workers, start, seed, jobs, budget, progress
        As in :func:`solvers.cpsat.solve_cpsat`.

    Raises
    ------
    InputError
        If an argument breaks its rule or the backend is unknown; PlacementError if the start is
        not feasible.
    ContradictionError
        If a first placement beats the start's bound; where a later one does, the layer's note says so.

    References
    ----------
    .. [1] Q. Huangfu, J. A. J. Hall, "Parallelizing the dual revised simplex method", Math.
       Prog. Comp. 10 (2018), doi 10.1007/s12532-017-0130-5
    .. [2] J. Forrest et al., "CBC", doi 10.5281/zenodo.2720283

    Examples
    --------
    >>> from moeopt import PlacementProblem
    >>> from solvers import solve_milp
    >>> found = solve_milp(PlacementProblem([[9, 5, 4, 2, 1, 1]], num_gpus=2), time_limit=10, backend="highs")
    >>> found.status[0].name, found.makespan.tolist(), found.lower_bound.tolist()
    ('OPTIMAL', [11.0], [11.0])
    """
    if backend not in BACKENDS:
        raise InputError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    limits = Limits(time_limit, tolerance, workers, seed)
    method = functools.partial(solve_layer, backend)
    return drive(problem, method, limits, start=start, jobs=jobs, budget=budget, progress=progress)


def solve_layer(backend: str, problem: PlacementProblem, known: Solution, limits: Limits) -> Solution:
    """Solve one layer, given what is known about it."""
    data = layer_model(known)
    if data.too_large:
        return Solution(problem, stop=Stop.SKIPPED, note=data.too_large)
    model = MilpFlowModel(data) if problem.splits else MilpModel(data)
    if not model.build(limits):
        return Solution(problem, stop=Stop.TIME_LIMIT)
    phy2log, bound, stop, note = BACKENDS[backend](model, limits)
    proven = Bound.of_layer(bound, backend)
    try:
        return Solution(problem, phy2log, proven, stop, note)
    except PlacementError as error:
        return Solution(problem, bound=proven, stop=stop, note=f"{backend} returned an infeasible vector: {error}")


Answer = tuple[np.ndarray | None, float | None, Stop, str]
"""What a back end says: slots or None, bound or None, why it ended, a note."""


class MilpModel:
    """One layer: variables, then one method per numbered constraint that yields its rows, as in ``cpsat.py``."""

    def __init__(self, data: LayerModel) -> None:
        self.data = data
        self.problem = data.problem
        self.lp = pulp.LpProblem("placement", pulp.LpMinimize)
        size = data.lower if data.lower > 0 else data.upper if math.isfinite(data.upper) else data.loads.sum()
        self.unit = float(size) / _UNIT or 1.0

    def build(self, limits: Limits) -> bool:
        """Build the whole model; False if the time is over before."""
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
        self.lp += row

    def add_variables(self) -> Iterator[None]:
        """Add the variables, expert by expert."""
        data, problem = self.data, self.problem
        gpus = range(problem.num_gpus)
        self.y, self.x, self.copies = [], [], []
        for e, counts in enumerate(data.counts):
            self.y.append({c: self.lp.add_variable(f"y_{e}_{c}", 0, 1, pulp.LpInteger) for c in counts})
            row = {
                c: [
                    self.lp.add_variable(f"x_{e}_{c}_{g}", 0, min(c, data.max_copies_per_gpu), pulp.LpInteger)
                    for g in gpus
                ]
                for c in counts
            }
            self.x.append(row)
            self.copies.append([pulp.lpSum(row[c][g] for c in row) for g in gpus])
            yield
        self._add_makespan_and_nodes()

    def _add_makespan_and_nodes(self) -> None:
        data, problem = self.data, self.problem
        lowest, highest = data.lower / self.unit * (1 - _MARGIN), None
        if math.isfinite(data.upper):
            highest = data.upper / self.unit * (1 + _MARGIN)
        if problem.objective == "moves":
            lowest = highest = data.upper / self.unit
        self.makespan = self.lp.add_variable("T", lowest, highest)
        if problem.hierarchical:
            self.b = [
                [self.lp.add_variable(f"b_{q}_{n}", 0, 1, pulp.LpInteger) for n in range(problem.num_nodes)]
                for q in range(problem.num_groups)
            ]

    def minimise_makespan(self) -> None:
        """(1) The fullest GPU has the least load."""
        self.lp.setObjective(self.makespan)

    def one_replica_count(self) -> Iterator[Any]:
        """(2) Every expert has exactly one replica count."""
        for counts in self.y:
            yield pulp.lpSum(counts.values()) == 1

    def place_every_copy(self) -> Iterator[Any]:
        """(3) All copies of an expert are placed, and no others."""
        for expert, counts in enumerate(self.y):
            for c, chosen in counts.items():
                yield pulp.lpSum(self.x[expert][c]) == c * chosen

    def fill_every_slot(self) -> Iterator[Any]:
        """(4) Every slot of every GPU holds a copy, or at most that where slots may stay empty."""
        for g in range(self.problem.num_gpus):
            held = pulp.lpSum(copies[g] for copies in self.copies)
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
        loads = self.data.loads / self.unit
        for g in range(self.problem.num_gpus):
            carried = pulp.lpSum((float(loads[e]) / c) * row[c][g] for e, row in enumerate(self.x) for c in row)
            yield carried - self.makespan <= 0

    def one_node_per_group(self) -> Iterator[Any]:
        """(7) Every group lives on exactly one node."""
        for nodes in self.b:
            yield pulp.lpSum(nodes) == 1

    def equal_groups_per_node(self) -> Iterator[Any]:
        """(8) Every node hosts the same number of groups."""
        share = self.problem.num_groups // self.problem.num_nodes
        for n in range(self.problem.num_nodes):
            yield pulp.lpSum(nodes[n] for nodes in self.b) == share

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
            kept = self.lp.add_variable(f"k_{e}_{g}", 0, int(reference[g, e]), pulp.LpInteger)
            yield kept <= self.copies[e][g]
            self.kept[e, g] = kept
        placed = pulp.lpSum(copies for row in self.copies for copies in row)
        self.moves = placed - pulp.lpSum(self.kept.values())

    def limit_moves(self) -> Iterator[Any]:
        """(11) At most ``max_moves`` copies are new where they are."""
        yield self.moves <= self.problem.max_moves

    def minimise_moves(self) -> None:
        """(12) The fewest moves, the makespan being fixed at its ceiling."""
        self.lp += self.moves >= self.data.fewest_moves
        self.lp.setObjective(self.moves)

    def order_gpus(self) -> Iterator[Any]:
        """(13) GPUs are numbered by the hottest expert they hold: symmetry breaking.

        Only the hottest experts take part: the rest break few ties at a quadratic cost.
        """
        node = self.problem.node_of_gpu if self.problem.hierarchical else np.zeros(self.problem.num_gpus)
        most = self.data.max_copies_per_gpu
        for g in range(1, self.problem.num_gpus):
            if node[g] != node[g - 1]:
                continue
            before: list[Any] = []
            for e in self.data.by_load[: 2 * self.problem.num_gpus]:
                before.append(self.copies[e][g - 1])
                yield self.copies[e][g] <= most * pulp.lpSum(before)

    def order_nodes(self) -> Iterator[Any]:
        """(14) Nodes are numbered by the first group they host: symmetry breaking."""
        for n in range(1, self.problem.num_nodes):
            for q in range(self.problem.num_groups):
                yield self.b[q][n] <= pulp.lpSum(self.b[p][n - 1] for p in range(q))

    def _add_start(self, start: Placement) -> None:
        """Give every variable its value in the placement known, the makespan included."""
        for variable, value in start_values(self, start):
            variable.setInitialValue(value)
        self.makespan.setInitialValue(self.data.upper / self.unit)

    def lower_bound(self, bound: float) -> float | None:
        """A solver's bound in tokens (or moves), less a margin for its tolerances."""
        if not math.isfinite(bound):
            return None
        if self.problem.objective == "moves":
            return float(math.ceil(bound - FLOAT_RESOLUTION))
        return bound * self.unit * (1 - _MARGIN)

    def phy2log(self) -> np.ndarray | None:
        """The placement in the solved variables, None where they hold none."""
        copies = np.zeros((self.problem.num_gpus, self.problem.num_experts), dtype=np.int64)
        for variable, g, e in self._copies():
            if variable.varValue is None:
                return None
            copies[g, e] += round(variable.varValue)
        return slots_from_copies(self.problem, copies)

    def _copies(self) -> Iterator[tuple[Any, int, int]]:
        """Every variable that counts copies, with its GPU and expert."""
        for e, row in enumerate(self.x):
            for placed in row.values():
                yield from ((variable, g, e) for g, variable in enumerate(placed))


class MilpFlowModel(MilpModel):
    """One layer whose tokens may go to any copy: hosts and flows where the other model has copies by count."""

    def add_variables(self) -> Iterator[None]:
        """Add the variables, expert by expert."""
        gpus = range(self.problem.num_gpus)
        self.load = (self.data.loads / self.unit).tolist()
        self.most = [min(load, self.data.upper / self.unit * (1 + _MARGIN)) for load in self.load]
        self.copies, self.f = [], []
        for e, most in enumerate(self.most):
            self.copies.append([self.lp.add_variable(f"y_{e}_{g}", 0, 1, pulp.LpInteger) for g in gpus])
            self.f.append([self.lp.add_variable(f"f_{e}_{g}", 0, most) for g in gpus])
            yield
        self._add_makespan_and_nodes()

    def host_every_expert(self) -> Iterator[Any]:
        """(15) Every expert sits on as many GPUs as its tokens need at least."""
        for counts, hosts in zip(self.data.counts, self.copies, strict=True):
            yield pulp.lpSum(hosts) >= counts.start

    def flow_from_hosts(self) -> Iterator[Any]:
        """(16) Only GPUs that host an expert serve its tokens."""
        for most, hosts, flows in zip(self.most, self.copies, self.f, strict=True):
            for host, flow in zip(hosts, flows, strict=True):
                yield flow - most * host <= 0

    def send_every_token(self) -> Iterator[Any]:
        """(17) All tokens of an expert are served."""
        for load, flows in zip(self.load, self.f, strict=True):
            yield pulp.lpSum(flows) == load

    def flow_within_makespan(self) -> Iterator[Any]:
        """(18) No GPU serves more tokens than the makespan."""
        for g in range(self.problem.num_gpus):
            yield pulp.lpSum(flows[g] for flows in self.f) - self.makespan <= 0

    def start_flows(self, start: Placement) -> np.ndarray:
        """Flows of the placement known, ``[gpus, experts]``."""
        whole, exponent = whole_loads(self.data.loads, self.problem.num_gpus)
        flow, unit = whole_flows(whole, start)
        return np.minimum(np.ldexp(flow / unit, -exponent) / self.unit, self.most)  # PuLP refuses a rounding too much

    def _copies(self) -> Iterator[tuple[Any, int, int]]:
        for e, hosts in enumerate(self.copies):
            yield from ((variable, g, e) for g, variable in enumerate(hosts))


class _WarmHiGHS(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's HiGHS, given the initial values that PuLP ignores."""

    def callSolver(self, lp: pulp.LpProblem) -> None:
        highspy = load_highs()
        variables = lp.variables()
        if all(variable.varValue is not None for variable in variables):
            start = highspy.HighsSolution()
            start.col_value = [float(variable.varValue) for variable in variables]
            lp.solverModel.setSolution(start)
        run(lp.solverModel, long=True)


def run_highs(model: MilpModel, limits: Limits) -> Answer:
    """Solve with HiGHS, started from the placement known."""
    highspy = load_highs()
    highspy.Highs.resetGlobalScheduler(True)  # else the first run's thread count holds for all
    solver = _WarmHiGHS(
        msg=False,
        gapRel=limits.tolerance / (1 + limits.tolerance),
        gapAbs=0.0 if model.problem.objective == "makespan" else 0.99,
        threads=limits.workers,
        timeLimit=limits.left if math.isfinite(limits.left) else None,
        random_seed=limits.seed,
    )
    model.lp.solve(solver)
    highs = model.lp.solverModel
    status = highs.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return None, None, Stop.INFEASIBLE, ""
    info = highs.getInfo()
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    known = {highspy.HighsModelStatus.kOptimal: Stop.DONE, highspy.HighsModelStatus.kTimeLimit: Stop.TIME_LIMIT}
    stop = known.get(status, Stop.ERROR)
    note = f"HiGHS: {highs.modelStatusToString(status)}" if stop is Stop.ERROR else ""
    return model.phy2log() if found else None, model.lower_bound(info.mip_dual_bound), stop, note


def run_cbc(model: MilpModel, limits: Limits) -> Answer:
    """Solve with CBC, a process of its own."""
    # so much finer that the bound which follows is still within the gap, once the margin is off it
    finer = max(max(limits.tolerance, FLOAT_RESOLUTION) - 3 * _MARGIN, 0.0)
    solver = StoppableCBC(
        timeMode="elapsed",
        path=pulp.PULP_CBC_CMD.pulp_cbc_path,
        msg=False,
        gapRel=finer / (1 + finer),
        threads=limits.workers if limits.workers > 1 else None,
        timeLimit=limits.left if math.isfinite(limits.left) else None,
        warmStart=model.data.start is not None,
        options=[f"randomCbcSeed {limits.seed}"] if limits.seed else None,
    )
    try:
        model.lp.solve(solver)
    except pulp.PulpSolverError as error:
        return None, None, Stop.ERROR, f"CBC: {error}"
    outcome = model.lp.sol_status
    if model.lp.status == pulp.LpStatusInfeasible:
        return None, None, Stop.INFEASIBLE, ""
    found = outcome in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    bound = None
    if outcome == pulp.LpSolutionOptimal:
        # CBC claims that nothing is better by more than the gap; it reports no bound of its own
        bound = model.lower_bound(pulp.value(model.lp.objective) / (1 + finer))
    stop = Stop.DONE if outcome == pulp.LpSolutionOptimal else limits.stop
    return model.phy2log() if found else None, bound, stop, ""


BACKENDS: dict[str, Callable[[MilpModel, Limits], Answer]] = {"highs": run_highs, "cbc": run_cbc}
"""MILP solvers by name."""
