"""The one evaluator: every number about a placement is computed here, for every method."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments
from moeopt._arrays import to_numpy
from moeopt.dispatch import DRAWS, fullest
from moeopt.errors import InputError
from moeopt.load import MAX_TOTAL, LoadMatrix, as_load
from moeopt.placement import Placement
from moeopt.splitting import split_loads

Floats = NDArray[np.float64]

FLOAT_SLACK = 1e-9
"""Relative slack when two floating-point sums of the same loads are compared."""


def slot_load(load: LoadMatrix | Any, placement: Placement) -> Floats:
    """Load of every slot, ``[layers, slots]``, in tokens; 0 where a slot is empty.

    Every copy of an expert serves an equal share of its tokens (an assumption; ``dispatch_makespan``
    knows other rules). O(layers * slots).

    Raises
    ------
    InputError
        If loads and placement differ in layers or experts.

    Examples
    --------
    >>> from moeopt import Placement, metrics
    >>> placement = Placement([[0, 1, 0, -1]], num_experts=2, num_gpus=2)
    >>> metrics.slot_load([[8, 2]], placement).tolist()
    [[4.0, 2.0, 4.0, 0.0]]
    """
    load = as_load(load)
    _same_shape(load, placement)
    share = load.values / np.maximum(placement.replica_count, 1)
    slots = np.take_along_axis(share, np.maximum(placement.phy2log, 0), axis=1)
    slots[placement.phy2log < 0] = 0.0
    return slots


def gpu_load(load: LoadMatrix | Any, placement: Placement) -> Floats:
    """Load of every GPU, ``[layers, gpus]``, in tokens: the sum of ``slot_load``. O(layers * slots).

    Raises
    ------
    InputError
        If loads and placement differ in layers or experts.

    Examples
    --------
    >>> from moeopt import Placement, metrics
    >>> placement = Placement([[0, 1, 0, 2]], num_experts=3, num_gpus=2)
    >>> metrics.gpu_load([[8, 2, 3]], placement).tolist()
    [[6.0, 7.0]]
    """
    return slot_load(load, placement).reshape(placement.num_layers, placement.num_gpus, -1).sum(axis=2)


def _same_shape(load: LoadMatrix, placement: Placement) -> None:
    if (load.num_layers, load.num_experts) != (placement.num_layers, placement.num_experts):
        raise InputError(
            f"load is {load.num_layers} layers x {load.num_experts} experts, "
            f"placement is {placement.num_layers} x {placement.num_experts}"
        )


def makespan(gpu_load: Floats) -> Floats:
    """Load of the fullest GPU, ``[layers]``: it sets the pace of the layer.

    Examples
    --------
    >>> import numpy as np
    >>> from moeopt import metrics
    >>> metrics.makespan(np.array([[6.0, 7.0], [4.0, 2.0]])).tolist()
    [7.0, 4.0]
    """
    return gpu_load.max(axis=-1)


def mean_load(gpu_load: Floats) -> Floats:
    """Mean load of the GPUs, ``[layers]``.

    Examples
    --------
    >>> import numpy as np
    >>> from moeopt import metrics
    >>> metrics.mean_load(np.array([[6.0, 7.0], [4.0, 2.0]])).tolist()
    [6.5, 3.0]
    """
    return gpu_load.mean(axis=-1)


def imbalance(gpu_load: Floats) -> Floats:
    """Max / mean GPU load, ``[layers]``, >= 1; 1 for a layer without load.

    Examples
    --------
    >>> import numpy as np
    >>> from moeopt import metrics
    >>> metrics.imbalance(np.array([[6.0, 2.0], [0.0, 0.0]])).tolist()
    [1.5, 1.0]
    """
    mean = mean_load(gpu_load)
    return np.divide(makespan(gpu_load), mean, out=np.ones_like(mean), where=~(mean <= 0))


def balancedness(gpu_load: Floats) -> Floats:
    """Mean / max GPU load, ``[layers]``, in (0, 1]; 1 for a layer without load.

    Examples
    --------
    >>> import numpy as np
    >>> from moeopt import metrics
    >>> metrics.balancedness(np.array([[6.0, 2.0], [4.0, 4.0]])).round(3).tolist()
    [0.667, 1.0]
    """
    return 1.0 / imbalance(gpu_load)


def normalised(gpu_load: Floats) -> Floats:
    """Share of the layer's load on every GPU, ``[layers, gpus]``; 1/gpus is ideal.

    Examples
    --------
    >>> import numpy as np
    >>> from moeopt import metrics
    >>> metrics.normalised(np.array([[6.0, 2.0]])).tolist()
    [[0.75, 0.25]]
    """
    total = gpu_load.sum(axis=-1, keepdims=True)
    ideal = np.full_like(gpu_load, 1.0 / gpu_load.shape[-1])
    return np.divide(gpu_load, total, out=ideal, where=total > 0)


def sigma(gpu_load: Floats) -> float:
    """Standard deviation of the normalised GPU loads over all layers and GPUs.

    Examples
    --------
    >>> import numpy as np
    >>> from moeopt import metrics
    >>> metrics.sigma(np.array([[6.0, 2.0]]))
    0.25
    """
    return float(normalised(gpu_load).std())


def split_makespan(load: LoadMatrix | Any, placement: Placement) -> Floats:
    """Least load of the fullest GPU over all ways to split experts' tokens among their copies, ``[layers]``.

    It is the largest of ``load(A) / number of GPUs that host A`` over all sets A of experts: a copy on another
    GPU helps, a second one on the same GPU does not. For counts it is that quotient, correctly rounded (up to
    1023 GPUs); other loads are right up to rounding. See ``moeopt.splitting``; microseconds per layer.

    Raises
    ------
    InputError
        If loads and placement differ in layers or experts.

    Examples
    --------
    >>> from moeopt import Placement, metrics
    >>> placement = Placement([[0, 1, 0, 2]], num_experts=3, num_gpus=2)
    >>> metrics.split_makespan([[8, 2, 5]], placement).tolist()
    [7.5]
    """
    return dispatch_makespan(load, placement, "optimal")


def split_gpu_load(load: LoadMatrix | Any, placement: Placement) -> Floats:
    """Load of every GPU, ``[layers, gpus]``, in one of the splits whose fullest GPU has ``split_makespan``.

    Raises
    ------
    InputError
        If loads and placement differ in layers or experts.

    Examples
    --------
    >>> from moeopt import Placement, metrics
    >>> placement = Placement([[0, 1, 0, 2]], num_experts=3, num_gpus=2)
    >>> metrics.split_gpu_load([[8, 2, 5]], placement).tolist()
    [[7.5, 7.5]]
    """
    load = as_load(load)
    _same_shape(load, placement)
    return split_loads(load.values, placement)


def dispatch_makespan(
    load: LoadMatrix | Any, placement: Placement, dispatch: str = "even", *, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """Load of the fullest GPU under a rule of dispatch, ``[layers]``, in tokens.

    Parameters
    ----------
    dispatch
        ``"even"``: every copy serves an equal share, the makespan of ``gpu_load``. ``"random"``: every token
        picks one of the copies by chance; the mean over draws of the fullest GPU. ``"local"``: equally many
        tokens come from every GPU, a GPU with a copy serves its own, and the other GPUs' are split evenly
        among the copies. ``"optimal"``: the split with the least makespan, ``split_makespan``.
    draws, seed
        Of ``random``: how many multinomial draws, and where they begin. Equal seeds give equal results.

    Raises
    ------
    InputError
        If loads and placement differ in layers or experts, the rule is unknown, or it is ``random`` and the
        loads are no counts.

    Examples
    --------
    >>> from moeopt import Placement, metrics
    >>> placement = Placement([[0, 1, 0, 2]], num_experts=3, num_gpus=2)
    >>> {rule: metrics.dispatch_makespan([[8, 2, 5]], placement, rule).tolist() for rule in ("even", "optimal")}
    {'even': [9.0], 'optimal': [7.5]}
    """
    load = as_load(load)
    if dispatch == "even":
        return makespan(gpu_load(load, placement))
    _same_shape(load, placement)
    return step_makespans(load.values[None], placement, dispatch, draws=draws, seed=seed)[0]


def step_makespans(
    steps: Any, placement: Placement, dispatch: str = "even", *, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """Load of the fullest GPU in every step, ``[steps, layers]``, in tokens.

    Parameters
    ----------
    steps
        ``[steps, layers, experts]`` loads, as ``PlacementProblem.steps`` or ``Trace.windows``.
    dispatch, draws, seed
        As for ``dispatch_makespan``; the best split is found for every step by itself.

    Raises
    ------
    InputError
        If steps and placement differ in layers or experts, a load is not between 0 and 2**53, the rule is
        unknown, or it is ``random`` and the loads are no counts.

    Notes
    -----
    Even and local: O(steps * layers * gpus * experts), as one product of matrices per layer. Random:
    O(steps * layers * draws * (gpus + copies of replicated experts)).

    Examples
    --------
    >>> from moeopt import Placement, metrics
    >>> placement = Placement([[0, 1, 0, 2]], num_experts=3, num_gpus=2)
    >>> metrics.step_makespans([[[8, 2, 3]], [[0, 4, 1]]], placement).tolist()  # [steps, layers]
    [[7.0], [4.0]]
    """
    array = to_numpy("steps", steps)
    expected = (placement.num_layers, placement.num_experts)
    if array.ndim != 3 or array.shape[1:] != expected:
        raise InputError(f"steps must be [steps, {expected[0]}, {expected[1]}], got shape {array.shape}")
    if not np.all((array >= 0) & (array <= MAX_TOTAL)):
        raise InputError("steps must be loads from 0 to 2**53")
    draws, seed = _arguments.integer("draws", draws, 1), _arguments.seed(seed)
    return fullest(array, placement, dispatch, draws, seed)


def step_means(steps: Any, num_gpus: int) -> Floats:
    """Mean load of the GPUs in every step, ``[steps, layers]``: what a perfect balance would take.

    Examples
    --------
    >>> from moeopt import metrics
    >>> metrics.step_means([[[8, 2, 3]], [[0, 4, 1]]], num_gpus=2).tolist()  # [steps, layers]
    [[6.5], [2.5]]
    """
    return np.asarray(steps).sum(axis=2, dtype=float) / num_gpus


def step_ratio(makespans: Floats, means: Floats) -> float:
    """What the steps cost, 1 = perfect: the sum of ``step_makespans`` over the sum of ``step_means``.

    Layers and steps run one after another, so sums are compared: a step with more tokens weighs more. With
    one step's rows, or one layer's columns, it is the ratio of that step or layer; 1 where nothing is routed.

    Examples
    --------
    >>> import numpy as np
    >>> from moeopt import metrics
    >>> round(metrics.step_ratio(np.array([[7.0], [4.0]]), np.array([[6.5], [2.5]])), 4)
    1.2222
    """
    total = float(np.sum(means))
    return float(np.sum(makespans)) / total if total > 0 else 1.0


def moves(reference: Placement, placement: Placement) -> NDArray[np.int64]:
    """Copies that ``placement`` puts on a GPU that does not hold them yet, ``[layers]``: slots to be written.

    The multiset difference per GPU: a second copy of an expert on the same GPU counts.

    Examples
    --------
    >>> from moeopt import Placement, metrics
    >>> old = Placement([[0, 1, 2, 0]], num_experts=3, num_gpus=2)
    >>> new = Placement([[2, 2, 1, 0]], num_experts=3, num_gpus=2)
    >>> metrics.moves(old, new).tolist()
    [3]
    """
    layer, _, new, old = _changes(reference, placement)
    return _sums(layer, np.maximum(new - old, 0), placement)


def transfers(reference: Placement, placement: Placement) -> NDArray[np.int64]:
    """Distinct experts that GPUs must receive, ``[layers]``: what crosses the network.

    The set difference per GPU: further copies of an expert that a GPU holds or receives are written from memory.
    Never above ``moves``, and equal to it where no GPU holds an expert twice.

    Examples
    --------
    >>> from moeopt import Placement, metrics
    >>> old = Placement([[0, 1, 2, 0]], num_experts=3, num_gpus=2)
    >>> new = Placement([[2, 2, 1, 0]], num_experts=3, num_gpus=2)
    >>> metrics.transfers(old, new).tolist()
    [2]
    """
    layer, _, _, old = _changes(reference, placement)
    return _sums(layer, old == 0, placement)


def transfers_between_nodes(reference: Placement, placement: Placement, num_nodes: int) -> NDArray[np.int64]:
    """Transfers of experts that no GPU of the receiver's node held before, ``[layers]``.

    Nodes are equal runs of GPUs. All other transfers can stay within a node.

    Raises
    ------
    InputError
        If the placements differ in layers, GPUs or experts, or ``num_nodes`` does not divide the GPUs.

    Examples
    --------
    >>> from moeopt import Placement, metrics
    >>> old = Placement([[0, 1, 2, 0]], num_experts=3, num_gpus=2)
    >>> new = Placement([[2, 2, 1, 0]], num_experts=3, num_gpus=2)
    >>> metrics.transfers_between_nodes(old, new, num_nodes=2).tolist()
    [2]
    """
    num_nodes = _arguments.integer("num_nodes", num_nodes, 1)
    gpus, experts = placement.num_gpus, placement.num_experts
    if gpus % num_nodes:
        raise InputError(f"num_gpus={gpus} is not a multiple of num_nodes={num_nodes}")
    layer, keys, _, _ = _changes(reference, placement)

    def on_node(keys: NDArray[np.int64]) -> NDArray[np.int64]:
        return keys // experts // (gpus // num_nodes) * experts + keys % experts

    return _sums(layer, ~np.isin(on_node(keys), on_node(reference.held[0])), placement)


def transfer_bytes(reference: Placement, placement: Placement, expert_bytes: int) -> NDArray[np.int64]:
    """Bytes that GPUs must receive, ``[layers]``: ``transfers`` of experts of ``expert_bytes`` each.

    Examples
    --------
    >>> from moeopt import Placement, metrics
    >>> old = Placement([[0, 1, 2, 0]], num_experts=3, num_gpus=2)
    >>> new = Placement([[2, 2, 1, 0]], num_experts=3, num_gpus=2)
    >>> metrics.transfer_bytes(old, new, expert_bytes=44_040_192).tolist()
    [88080384]
    """
    return transfers(reference, placement) * _arguments.integer("expert_bytes", expert_bytes, 1)


def _changes(reference: Placement, placement: Placement) -> tuple[NDArray[np.int64], ...]:
    """Of all experts on GPUs in ``placement``: layer, key (see ``Placement.held``), copies now, copies before."""
    shapes = [(p.num_layers, p.num_gpus, p.num_experts) for p in (placement, reference)]
    if shapes[0] != shapes[1]:
        raise InputError(f"placements must agree in [layers, gpus, experts], got {shapes[0]} and {shapes[1]}")
    (keys, new), (before, counts) = placement.held, reference.held
    at = np.minimum(np.searchsorted(before, keys), max(len(before) - 1, 0))
    old = np.where(before[at] == keys, counts[at], 0) if len(before) else np.zeros_like(new)
    return keys // (placement.num_gpus * placement.num_experts), keys, new, old


def _sums(layer: NDArray[np.int64], values: NDArray[Any], placement: Placement) -> NDArray[np.int64]:
    return np.bincount(layer, weights=values, minlength=placement.num_layers).astype(np.int64)


def gap(makespan: Any, lower_bound: Any) -> Floats:
    """``makespan / lower_bound - 1``: at most this far above the best possible.

    0 where both are zero (or equal up to float rounding), NaN where either is unknown.

    Examples
    --------
    >>> from moeopt import metrics
    >>> metrics.gap([11, 10], [10, float("nan")]).round(3).tolist()
    [0.1, nan]
    """
    makespan, lower_bound = np.asarray(makespan, dtype=float), np.asarray(lower_bound, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(makespan == lower_bound, 0.0, makespan / lower_bound - 1.0)
    return np.where(np.abs(value) < FLOAT_SLACK, 0.0, value)


def step_gap(makespan: Any, lower_bound: Any) -> float:
    """Gap of the sums over layers: layers run one after another, so this is the step's loss.

    Examples
    --------
    >>> from moeopt import metrics
    >>> round(metrics.step_gap([11, 10], [10, 10]), 3)
    0.05
    """
    return float(gap(np.sum(makespan), np.sum(lower_bound)))
