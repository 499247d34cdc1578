"""MILP through PuLP: the formulation of ``docs/formulations.md`` for HiGHS and CBC."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pulp

from moeopt.errors import InputError, PlacementError
from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_GAP, LayerOutcome, Solution, SolveStatus
from solvers.formulation import LayerModel, layer_model, slots_from_copies
from solvers.highs import load_highs
from solvers.layers import Limits, solve_layers

_UNIT = 1000.0
"""The makespan's bound in model units: well above the solvers' absolute tolerances."""

_MARGIN = 1e-7
"""Taken off a solver's bound: it is a floating-point claim within a feasibility tolerance."""


def solve_milp(
    problem: PlacementProblem,
    *,
    backend: str = "highs",
    time_limit: float | None = None,
    gap: float = DEFAULT_GAP,
    workers: int = 1,
    hint: Placement | None = None,
    seed: int = 0,
    jobs: int = 1,
) -> Solution:
    """Solve every layer as a mixed-integer linear program.

    Parameters
    ----------
    backend
        ``"highs"`` or ``"cbc"``, both through PuLP. CBC reports no bound of its own: one follows
        only from its claim of optimality.
    time_limit, gap, workers, hint, seed, jobs
        As in :func:`solvers.cpsat.solve_cpsat`.

    Raises
    ------
    InputError
        If an argument breaks its rule or the backend is unknown; PlacementError if the hint is
        not feasible.

    References
    ----------
    .. [1] Q. Huangfu, J. A. J. Hall, "Parallelizing the dual revised simplex method", Math.
       Prog. Comp. 10 (2018), doi 10.1007/s12532-017-0130-5
    .. [2] J. Forrest et al., "CBC", doi 10.5281/zenodo.2720283
    """
    if backend not in BACKENDS:
        raise InputError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    limits = Limits(time_limit, gap, workers, seed)
    return solve_layers(problem, functools.partial(_solve_layer, backend), limits, hint, jobs)


def _solve_layer(backend: str, problem: PlacementProblem, hint: Placement | None, limits: Limits) -> LayerOutcome:
    model = _MilpModel(layer_model(problem, hint))
    outcome = BACKENDS[backend](model, limits)
    if outcome.phy2log is not None:
        try:
            problem.check(Placement(outcome.phy2log, problem.num_experts, problem.num_gpus))
        except PlacementError as error:
            return LayerOutcome(
                lower_bound=outcome.lower_bound,
                bound_source=outcome.bound_source,
                status=SolveStatus.NO_SOLUTION,
                note=f"{backend} returned an infeasible vector: {error}",
            )
    return outcome


class _MilpModel:
    """One layer: variables, then one method a numbered constraint, as in ``cpsat.py``."""

    def __init__(self, data: LayerModel) -> None:
        self.data = data
        self.problem = data.problem
        self.lp = pulp.LpProblem("placement", pulp.LpMinimize)
        size = data.lower if data.lower > 0 else data.upper if math.isfinite(data.upper) else data.loads.sum()
        self.unit = float(size) / _UNIT or 1.0
        self._add_variables()
        if self.problem.objective == "makespan":
            self.minimise_makespan()
        self.one_replica_count()
        self.place_every_copy()
        self.fill_every_slot()
        if not self.problem.allow_colocated:
            self.no_colocation()
        self.load_within_makespan()
        if self.problem.hierarchical:
            self.one_node_per_group()
            self.equal_groups_per_node()
            self.copies_stay_on_node()
        if not data.gpus_are_alike:
            self.keep_what_is_there()
        if self.problem.max_moves is not None:
            self.limit_moves()
        if self.problem.objective == "moves":
            self.minimise_moves()
        if data.gpus_are_alike:
            self.order_gpus()
            if self.problem.hierarchical:
                self.order_nodes()
        if data.hint is not None:
            self._add_hint(data.hint)

    def _add_variables(self) -> None:
        data, problem = self.data, self.problem
        gpus = range(problem.num_gpus)
        self.y = [
            {c: self.lp.add_variable(f"y_{e}_{c}", 0, 1, pulp.LpInteger) for c in counts}
            for e, counts in enumerate(data.counts)
        ]
        self.x = [
            {
                c: [
                    self.lp.add_variable(f"x_{e}_{c}_{g}", 0, min(c, data.max_copies_per_gpu), pulp.LpInteger)
                    for g in gpus
                ]
                for c in counts
            }
            for e, counts in enumerate(data.counts)
        ]
        self.copies = [[pulp.lpSum(row[c][g] for c in row) for g in gpus] for row in self.x]
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

    def one_replica_count(self) -> None:
        """(2) Every expert has exactly one replica count."""
        for counts in self.y:
            self.lp += pulp.lpSum(counts.values()) == 1

    def place_every_copy(self) -> None:
        """(3) All copies of an expert are placed, and no others."""
        for expert, counts in enumerate(self.y):
            for c, chosen in counts.items():
                self.lp += pulp.lpSum(self.x[expert][c]) == c * chosen

    def fill_every_slot(self) -> None:
        """(4) Every slot of every GPU holds a copy, or at most that where slots may stay empty."""
        for g in range(self.problem.num_gpus):
            held = pulp.lpSum(copies[g] for copies in self.copies)
            if self.problem.allow_empty_slots:
                self.lp += held <= self.problem.slots_per_gpu
            else:
                self.lp += held == self.problem.slots_per_gpu

    def no_colocation(self) -> None:
        """(5) No GPU holds two copies of one expert."""
        for expert, counts in enumerate(self.y):
            for c, chosen in counts.items():
                for copies in self.x[expert][c]:
                    self.lp += copies <= chosen

    def load_within_makespan(self) -> None:
        """(6) No GPU's load exceeds the makespan."""
        loads = self.data.loads / self.unit
        for g in range(self.problem.num_gpus):
            carried = pulp.lpSum((float(loads[e]) / c) * row[c][g] for e, row in enumerate(self.x) for c in row)
            self.lp += carried - self.makespan <= 0

    def one_node_per_group(self) -> None:
        """(7) Every group lives on exactly one node."""
        for nodes in self.b:
            self.lp += pulp.lpSum(nodes) == 1

    def equal_groups_per_node(self) -> None:
        """(8) Every node hosts the same number of groups."""
        share = self.problem.num_groups // self.problem.num_nodes
        for n in range(self.problem.num_nodes):
            self.lp += pulp.lpSum(nodes[n] for nodes in self.b) == share

    def copies_stay_on_node(self) -> None:
        """(9) Copies sit only on GPUs of their group's node."""
        group, node = self.problem.group_of_expert, self.problem.node_of_gpu
        for e, row in enumerate(self.copies):
            for g, copies in enumerate(row):
                self.lp += copies <= self.data.max_copies_per_gpu * self.b[group[e]][node[g]]

    def keep_what_is_there(self) -> None:
        """(10) Only copies that the reference has on a GPU, and the placement too, are kept."""
        reference = self.data.copies_in_reference()
        self.kept = {}
        for g, e in np.argwhere(reference > 0).tolist():
            kept = self.lp.add_variable(f"k_{e}_{g}", 0, int(reference[g, e]), pulp.LpInteger)
            self.lp += kept <= self.copies[e][g]
            self.kept[e, g] = kept
        placed = pulp.lpSum(copies for row in self.copies for copies in row)
        self.moves = placed - pulp.lpSum(self.kept.values())

    def limit_moves(self) -> None:
        """(11) At most ``max_moves`` copies are new where they are."""
        self.lp += self.moves <= self.problem.max_moves

    def minimise_moves(self) -> None:
        """(12) The fewest moves, the makespan being fixed at its ceiling."""
        self.lp.setObjective(self.moves)

    def order_gpus(self) -> None:
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
                self.lp += self.copies[e][g] <= most * pulp.lpSum(before)

    def order_nodes(self) -> None:
        """(14) Nodes are numbered by the first group they host: symmetry breaking."""
        for n in range(1, self.problem.num_nodes):
            for q in range(self.problem.num_groups):
                self.lp += self.b[q][n] <= pulp.lpSum(self.b[p][n - 1] for p in range(q))

    def _add_hint(self, hint: Placement) -> None:
        """Give every variable its value in the hint, the makespan included."""
        count, copies = hint.replica_count[0], hint.copies[0]
        for e, counts in enumerate(self.y):
            for c, chosen in counts.items():
                chosen.setInitialValue(int(count[e] == c))
                for g, placed in enumerate(self.x[e][c]):
                    placed.setInitialValue(int(copies[g, e]) if count[e] == c else 0)
        self.makespan.setInitialValue(self.data.upper / self.unit)
        if self.problem.hierarchical:
            node, group = self.problem.node_of_gpu, self.problem.group_of_expert
            hosted = {(int(group[e]), int(node[g])) for g, e in np.argwhere(copies > 0)}
            for q, nodes in enumerate(self.b):
                for n, hosts in enumerate(nodes):
                    hosts.setInitialValue(int((q, n) in hosted))
        if not self.data.gpus_are_alike:
            reference = self.data.copies_in_reference()
            for (e, g), kept in self.kept.items():
                kept.setInitialValue(int(min(reference[g, e], copies[g, e])))

    def lower_bound(self, bound: float) -> float | None:
        """A solver's bound in tokens (or moves), less a margin for its tolerances."""
        if not math.isfinite(bound):
            return None
        if self.problem.objective == "moves":
            return bound
        return bound * self.unit * (1 - _MARGIN)

    def phy2log(self) -> np.ndarray | None:
        """The placement in the solved variables, None where they hold none."""
        copies = np.zeros((self.problem.num_gpus, self.problem.num_experts), dtype=np.int64)
        for e, row in enumerate(self.x):
            for placed in row.values():
                for g, variable in enumerate(placed):
                    if variable.varValue is None:
                        return None
                    copies[g, e] += round(variable.varValue)
        return slots_from_copies(self.problem, copies)


class _WarmHiGHS(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's HiGHS, given the initial values that PuLP ignores."""

    def callSolver(self, lp: pulp.LpProblem) -> None:
        highspy = load_highs()
        variables = lp.variables()
        if all(variable.varValue is not None for variable in variables):
            start = highspy.HighsSolution()
            start.col_value = [float(variable.varValue) for variable in variables]
            lp.solverModel.setSolution(start)
        super().callSolver(lp)


def _run_highs(model: _MilpModel, limits: Limits) -> LayerOutcome:
    highspy = load_highs()
    highspy.Highs.resetGlobalScheduler(True)  # else the first run's thread count holds for all
    solver = _WarmHiGHS(
        msg=False,
        gapRel=limits.gap / (1 + limits.gap),
        gapAbs=0.0 if model.problem.objective == "makespan" else 0.99,
        threads=limits.workers,
        timeLimit=limits.time_limit,
        random_seed=limits.seed,
    )
    model.lp.solve(solver)
    highs = model.lp.solverModel
    status = highs.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return LayerOutcome(status=SolveStatus.INFEASIBLE)
    info = highs.getInfo()
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    stopped = status in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kTimeLimit)
    return LayerOutcome(
        phy2log=model.phy2log() if found else None,
        lower_bound=model.lower_bound(info.mip_dual_bound),
        bound_source="highs",
        status=SolveStatus.NO_SOLUTION if stopped else SolveStatus.ERROR,
        note="" if stopped else f"HiGHS: {highs.modelStatusToString(status)}",
    )


def _run_cbc(model: _MilpModel, limits: Limits) -> LayerOutcome:
    solver = pulp.COIN_CMD(
        path=pulp.PULP_CBC_CMD.pulp_cbc_path,
        msg=False,
        gapRel=limits.gap / (1 + limits.gap),
        threads=limits.workers if limits.workers > 1 else None,
        timeLimit=limits.time_limit,
        warmStart=model.data.hint is not None,
        options=[f"randomCbcSeed {limits.seed}"] if limits.seed else None,
    )
    try:
        model.lp.solve(solver)
    except pulp.PulpSolverError as error:
        return LayerOutcome(status=SolveStatus.ERROR, note=f"CBC: {error}")
    outcome = model.lp.sol_status
    if model.lp.status == pulp.LpStatusInfeasible:
        return LayerOutcome(status=SolveStatus.INFEASIBLE)
    found = outcome in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    bound = None
    if outcome == pulp.LpSolutionOptimal:
        # CBC claims that nothing is better by more than the gap; it reports no bound of its own
        bound = model.lower_bound(pulp.value(model.lp.objective) / (1 + limits.gap))
    return LayerOutcome(
        phy2log=model.phy2log() if found else None,
        lower_bound=bound,
        bound_source="cbc",
        status=SolveStatus.NO_SOLUTION,
    )


BACKENDS: dict[str, Callable[[_MilpModel, Limits], LayerOutcome]] = {"highs": _run_highs, "cbc": _run_cbc}
"""MILP solvers by name."""
