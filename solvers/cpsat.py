"""CP-SAT: the formulation of ``docs/formulations.md`` in integers, solved exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from ortools.sat.python import cp_model

from moeopt.placement import Placement
from moeopt.problem import PlacementProblem
from moeopt.solution import DEFAULT_GAP, LayerOutcome, Solution, SolveStatus
from solvers.formulation import LayerModel, layer_model, slots_from_copies
from solvers.layers import Limits, solve_layers

_RESOLUTION = 2**45

_STATUS = {
    cp_model.OPTIMAL: None,
    cp_model.FEASIBLE: None,
    cp_model.INFEASIBLE: SolveStatus.INFEASIBLE,
    cp_model.UNKNOWN: SolveStatus.NO_SOLUTION,
    cp_model.MODEL_INVALID: SolveStatus.ERROR,
}


def solve_cpsat(
    problem: PlacementProblem,
    *,
    time_limit: float | None = None,
    gap: float = DEFAULT_GAP,
    workers: int = 1,
    hint: Placement | None = None,
    seed: int = 0,
    jobs: int = 1,
    log: Callable[[str], None] | None = None,
) -> Solution:
    """Solve every layer to proven optimality with OR-tools' CP-SAT.

    Parameters
    ----------
    time_limit
        Seconds a layer; None = until optimal.
    gap
        Relative gap at which a layer counts as optimal.
    workers
        CP-SAT threads a layer. One worker with a fixed ``seed`` is reproducible unless the time
        limit strikes.
    hint
        A placement to start from; by default the best heuristic's. Never returns a worse one.
    jobs
        Layers solved side by side, in processes.
    log
        Called with every line of CP-SAT's log; silent without.

    Raises
    ------
    InputError
        If an argument breaks its rule; PlacementError if the hint is not feasible.
    UnsupportedError
        If the model would be too large to build.

    Notes
    -----
    Loads become integers, rounded down, so a bound of the model is a bound on the true problem:
    exact for counts of partitions, and with replicas where the least common multiple of the
    replica counts fits. The makespan's domain is [combinatorial bound, makespan of the hint].

    References
    ----------
    .. [1] L. Perron, F. Didier, "CP-SAT", Google, https://developers.google.com/optimization
    """
    limits = Limits(time_limit, gap, workers, seed)
    return solve_layers(problem, _SolveLayer(log), limits, hint, jobs)


class _SolveLayer:
    """Solves one layer; an object, so that it can travel to a worker process."""

    def __init__(self, log: Callable[[str], None] | None) -> None:
        self.log = log

    def __call__(self, problem: PlacementProblem, hint: Placement | None, limits: Limits) -> LayerOutcome:
        model = _CpModel(layer_model(problem, hint))
        solver = cp_model.CpSolver()
        parameters = solver.parameters
        parameters.num_workers = limits.workers
        parameters.random_seed = limits.seed
        parameters.relative_gap_limit = limits.gap / (1 + limits.gap)
        parameters.catch_sigint_signal = False
        if limits.time_limit is not None:
            parameters.max_time_in_seconds = limits.time_limit
        if self.log is not None:
            parameters.log_search_progress = True
            parameters.log_to_stdout = False
            solver.log_callback = self.log
        status = solver.solve(model.cp)
        found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
        infeasible = status == cp_model.INFEASIBLE
        return LayerOutcome(
            phy2log=model.phy2log(solver) if found else None,
            lower_bound=None if infeasible else model.lower_bound(solver.best_objective_bound),
            bound_source="cpsat",
            status=_STATUS[status],
            note=solver.status_name() if status == cp_model.MODEL_INVALID else "",
        )


class _CpModel:
    """One layer: variables, then one method a numbered constraint."""

    def __init__(self, data: LayerModel) -> None:
        self.data = data
        self.problem = data.problem
        self.cp = cp_model.CpModel()
        self._scale_loads()
        self._add_variables()
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
        if data.gpus_are_alike:
            self.order_gpus()
            if self.problem.hierarchical:
                self.order_nodes()
        if self.problem.objective == "makespan":
            self.minimise_makespan()
        else:
            self.minimise_moves()
        if data.hint is not None:
            self._add_hint(data.hint)

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

    def _add_variables(self) -> None:
        cp, data, problem = self.cp, self.data, self.problem
        gpus = range(problem.num_gpus)
        self.y = [{c: cp.new_bool_var(f"y[{e},{c}]") for c in counts} for e, counts in enumerate(data.counts)]
        self.x = [
            {c: [cp.new_int_var(0, min(c, data.max_copies_per_gpu), f"x[{e},{c},{g}]") for g in gpus] for c in counts}
            for e, counts in enumerate(data.counts)
        ]
        self.copies = [
            [cp_model.LinearExpr.sum([self.x[e][c][g] for c in counts]) for g in gpus]
            for e, counts in enumerate(data.counts)
        ]
        lowest = math.floor(Fraction(data.lower) * self.scale)
        if self.exact:
            # makespans are integers here, and the bound may be a rounding below one
            lowest = math.ceil(Fraction(data.lower) * self.scale * (1 - Fraction(1, 2**50)))
        else:
            lowest = max(lowest - problem.slots_per_gpu, 0)
        highest = sum(max(weights.values(), default=0) * max(weights, default=1) for weights in self.weight)
        if data.hint is not None:
            highest = self._makespan(data.hint)
        if problem.max_makespan is not None:
            ceiling = Fraction(problem.max_makespan[0]) * (1 + Fraction(1, 2**40))
            lowest = highest = math.floor(ceiling * self.scale)
        self.makespan = cp.new_int_var(min(lowest, highest), highest, "T")
        if problem.hierarchical:
            self.b = [
                [cp.new_bool_var(f"b[{q},{n}]") for n in range(problem.num_nodes)] for q in range(problem.num_groups)
            ]

    def minimise_makespan(self) -> None:
        """(1) The fullest GPU has the least load."""
        self.cp.minimize(self.makespan)

    def one_replica_count(self) -> None:
        """(2) Every expert has exactly one replica count."""
        for counts in self.y:
            self.cp.add_exactly_one(counts.values())

    def place_every_copy(self) -> None:
        """(3) All copies of an expert are placed, and no others."""
        for expert, counts in enumerate(self.y):
            for c, chosen in counts.items():
                self.cp.add(cp_model.LinearExpr.sum(self.x[expert][c]) == c * chosen)

    def fill_every_slot(self) -> None:
        """(4) Every slot of every GPU holds a copy, or at most that where slots may stay empty."""
        for g in range(self.problem.num_gpus):
            held = cp_model.LinearExpr.sum([copies[g] for copies in self.copies])
            if self.problem.allow_empty_slots:
                self.cp.add(held <= self.problem.slots_per_gpu)
            else:
                self.cp.add(held == self.problem.slots_per_gpu)

    def no_colocation(self) -> None:
        """(5) No GPU holds two copies of one expert."""
        for expert, counts in enumerate(self.y):
            for c, chosen in counts.items():
                for copies in self.x[expert][c]:
                    self.cp.add_implication(copies, chosen)

    def load_within_makespan(self) -> None:
        """(6) No GPU's load exceeds the makespan."""
        for g in range(self.problem.num_gpus):
            variables = [row[c][g] for row in self.x for c in row]
            weights = [self.weight[e][c] for e, row in enumerate(self.x) for c in row]
            self.cp.add(cp_model.LinearExpr.weighted_sum(variables, weights) <= self.makespan)

    def one_node_per_group(self) -> None:
        """(7) Every group lives on exactly one node."""
        for nodes in self.b:
            self.cp.add_exactly_one(nodes)

    def equal_groups_per_node(self) -> None:
        """(8) Every node hosts the same number of groups."""
        share = self.problem.num_groups // self.problem.num_nodes
        for n in range(self.problem.num_nodes):
            self.cp.add(cp_model.LinearExpr.sum([nodes[n] for nodes in self.b]) == share)

    def copies_stay_on_node(self) -> None:
        """(9) Copies sit only on GPUs of their group's node."""
        group, node = self.problem.group_of_expert, self.problem.node_of_gpu
        for e, row in enumerate(self.copies):
            for g, copies in enumerate(row):
                self.cp.add(copies <= self.data.max_copies_per_gpu * self.b[group[e]][node[g]])

    def keep_what_is_there(self) -> None:
        """(10) Only copies that the reference has on a GPU, and the placement too, are kept."""
        reference = self.data.copies_in_reference()
        self.kept = {}
        for g, e in np.argwhere(reference > 0).tolist():
            kept = self.cp.new_int_var(0, int(reference[g, e]), f"k[{e},{g}]")
            self.cp.add(kept <= self.copies[e][g])
            self.kept[e, g] = kept
        placed = cp_model.LinearExpr.sum([copies for row in self.copies for copies in row])
        self.moves = placed - cp_model.LinearExpr.sum(list(self.kept.values()))

    def limit_moves(self) -> None:
        """(11) At most ``max_moves`` copies are new where they are."""
        self.cp.add(self.moves <= self.problem.max_moves)

    def minimise_moves(self) -> None:
        """(12) The fewest moves, the makespan being fixed at its ceiling."""
        self.cp.minimize(self.moves)

    def order_gpus(self) -> None:
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
                self.cp.add(self.copies[e][g] <= most * cp_model.LinearExpr.sum(before))

    def order_nodes(self) -> None:
        """(14) Nodes are numbered by the first group they host: symmetry breaking."""
        for n in range(1, self.problem.num_nodes):
            for q in range(self.problem.num_groups):
                self.cp.add(self.b[q][n] <= cp_model.LinearExpr.sum([self.b[p][n - 1] for p in range(q)]))

    def _makespan(self, placement: Placement) -> int:
        """Makespan of a placement in the model's rounded loads."""
        count, copies = placement.replica_count[0].tolist(), placement.copies[0]
        return max(sum(self.weight[e][count[e]] * int(row[e]) for e in np.flatnonzero(row)) for row in copies)

    def _add_hint(self, hint: Placement) -> None:
        """Give every variable its value in the hint, the makespan included."""
        count, copies = hint.replica_count[0], hint.copies[0]
        for e, counts in enumerate(self.y):
            for c, chosen in counts.items():
                self.cp.add_hint(chosen, int(count[e] == c))
                for g, placed in enumerate(self.x[e][c]):
                    self.cp.add_hint(placed, int(copies[g, e]) if count[e] == c else 0)
        if self.problem.objective == "makespan":
            self.cp.add_hint(self.makespan, self._makespan(hint))
        if self.problem.hierarchical:
            node, group = self.problem.node_of_gpu, self.problem.group_of_expert
            hosted = {(int(group[e]), int(node[g])) for g, e in np.argwhere(copies > 0)}
            for q, nodes in enumerate(self.b):
                for n, hosts in enumerate(nodes):
                    self.cp.add_hint(hosts, int((q, n) in hosted))
        if not self.data.gpus_are_alike:
            reference = self.data.copies_in_reference()
            for (e, g), kept in self.kept.items():
                self.cp.add_hint(kept, int(min(reference[g, e], copies[g, e])))

    def lower_bound(self, bound: float) -> float | None:
        """The model's bound in tokens (or moves), never above the true one; None if there is none."""
        if not math.isfinite(bound):
            return None
        if self.problem.objective == "moves":
            return bound
        value = Fraction(math.ceil(bound - 1e-6)) / self.scale
        return float(value) if Fraction(float(value)) <= value else math.nextafter(float(value), 0.0)

    def phy2log(self, solver: cp_model.CpSolver) -> np.ndarray:
        """The placement that the solver found."""
        copies = np.zeros((self.problem.num_gpus, self.problem.num_experts), dtype=np.int64)
        for e, row in enumerate(self.x):
            for placed in row.values():
                for g, variable in enumerate(placed):
                    copies[g, e] += solver.value(variable)
        return slots_from_copies(self.problem, copies)
