"""The best split of tokens: each expert's tokens shared among its copies so that the fullest GPU has the least."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._kernel import kernel
from moeopt.placement import Placement


def least_makespans(steps: NDArray[Any], placement: Placement) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Least load of the fullest GPU over all splits, ``[steps, layers]`` as quotients of two numbers.

    Parameters
    ----------
    steps
        ``[steps, layers, experts]`` loads, finite and >= 0.
    placement
        An expert that it has in no slot counts nowhere.

    Returns
    -------
    load, gpus
        ``[steps, layers]`` the load of a set of experts and the number of GPUs that host one of them, where
        the quotient is the largest; a smaller set may have an equal one.

    Notes
    -----
    A split within ``T`` exists if and only if every set A of experts has ``load(A) <= T * |GPUs that host A|`` [1]_,
    so the least T is the largest of these quotients. ``T`` starts from such quotients (all experts, each expert, the
    experts that only one GPU hosts); the excess of GPUs above T flows along paths GPU - expert - GPU to GPUs below.
    Where no path is left, the GPUs reached and the experts they serve are a set with a larger quotient, the next T
    (Newton's method for the largest quotient [2]_). Flows are integers, multiples of one over the denominator of T:
    counts are exact where a layer's total times ``num_gpus`` is below 2**63, as it is up to 1023 GPUs. Other loads
    are first rounded to a multiple of about ``total * num_gpus / 2**62``.

    References
    ----------
    .. [1] D. Gale, "A theorem on flows in networks", Pacific J. Math. 7 (1957), doi 10.2140/pjm.1957.7.1073
    .. [2] W. Dinkelbach, "On nonlinear fractional programming", Management Science 13 (1967),
       doi 10.1287/mnsc.13.7.492
    """
    if (placement.replica_count == 0).any():
        steps = np.where(placement.replica_count > 0, steps, 0)
    weight, exponent = whole_loads(steps, placement.num_gpus)
    load = np.empty(exponent.shape, dtype=np.int64)
    gpus = np.empty(exponent.shape, dtype=np.int64)
    _split(weight, placement.phy2log, placement.num_gpus, load, gpus)
    return np.ldexp(load.astype(float), -exponent), gpus


def split_loads(values: NDArray[Any], placement: Placement) -> NDArray[np.float64]:
    """Load of every GPU in one of the best splits, ``[layers, gpus]``; the fullest has the least makespan."""
    weight, exponent = whole_loads(np.where(placement.replica_count > 0, values, 0), placement.num_gpus)
    result = np.empty((placement.num_layers, placement.num_gpus))
    for layer in range(placement.num_layers):
        flow, unit = whole_flows(weight[layer], placement[layer])
        result[layer] = np.ldexp(flow.sum(axis=1).astype(float), -exponent[layer]) / unit
    return result


def whole_flows(weight: NDArray[np.int64], placement: Placement, at_least: int = 0) -> tuple[NDArray[np.int64], int]:
    """Tokens that every GPU has from every expert in a best split of a layer, ``[gpus, experts]``, and their unit.

    Flows are multiples of ``1 / unit``. With ``at_least``, an integer not below the least makespan, GPUs may have as
    much as that, and flows are whole (``unit = 1``).
    """
    num_gpus, experts = placement.num_gpus, placement.num_experts
    first, expert, host, begin, at = _graph(placement.phy2log[0], num_gpus, experts)
    flow = np.zeros(host.size, dtype=np.int64)
    _, unit = _least(weight, first, expert, host, begin, at, at_least, flow)
    table = np.zeros((num_gpus, experts), dtype=np.int64)
    table[host, expert] = flow
    return table, unit


def whole_loads(values: NDArray[Any], num_gpus: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Loads times a power of two, rounded, such that totals times ``num_gpus`` fit 64 bits; and its exponent.

    Counts are left alone where they fit.
    """
    total = values.sum(axis=-1, dtype=float)
    if values.dtype.kind != "f" and total.max(initial=0) * num_gpus < 2.0**63:
        return values.astype(np.int64, order="C"), np.zeros(total.shape, dtype=np.int64)
    exponent = 62 - num_gpus.bit_length() - np.frexp(total)[1].astype(np.int64)
    return np.rint(np.ldexp(values.astype(float), exponent[..., None])).astype(np.int64, order="C"), exponent


@kernel
def _split(steps, phy2log, num_gpus, load, gpus):  # type: ignore[no-untyped-def]
    """Fill ``load`` and ``gpus`` layer by layer, each layer's graph of experts and GPUs being built once."""
    for layer in range(steps.shape[1]):
        first, expert, host, begin, at = _graph(phy2log[layer], num_gpus, steps.shape[2])
        flow = np.zeros(host.size, np.int64)
        for step in range(steps.shape[0]):
            load[step, layer], gpus[step, layer] = _least(
                steps[step, layer], first, expert, host, begin, at, np.int64(0), flow
            )


@kernel
def _graph(slots, num_gpus, experts):  # type: ignore[no-untyped-def]
    """Edges between experts and their GPUs: of expert e from ``first[e]`` on, of GPU g those ``at[begin[g]]`` on."""
    size = slots.size // num_gpus
    first = np.zeros(experts + 1, np.int64)
    seen = np.full(experts, -1)
    for slot in range(slots.size):
        e = slots[slot]
        if e >= 0 and seen[e] != slot // size:
            seen[e] = slot // size
            first[e + 1] += 1
    first = np.cumsum(first)
    begin = np.zeros(num_gpus + 1, np.int64)
    at = np.empty(first[experts], np.int64)
    expert = np.empty(first[experts], np.int64)
    host = np.empty(first[experts], np.int64)
    fresh = first[:experts].copy()
    seen[:] = -1
    edges = 0
    for slot in range(slots.size):
        e = slots[slot]
        g = slot // size
        if e >= 0 and seen[e] != g:
            seen[e] = g
            expert[fresh[e]] = e
            host[fresh[e]] = g
            at[edges] = fresh[e]
            fresh[e] += 1
            edges += 1
        begin[g + 1] = edges
    return first, expert, host, begin, at


@kernel
def _least(weight, first, expert, host, begin, at, at_least, flow):  # type: ignore[no-untyped-def]
    """Least T >= ``at_least`` of one layer as ``top / bottom``; flows and GPU loads are in units of ``1 / bottom``."""
    experts, num_gpus = weight.size, begin.size - 1
    alone = np.zeros(num_gpus, np.int64)
    top, bottom = 0, num_gpus
    for e in range(experts):
        copies = first[e + 1] - first[e]
        if copies == 1:
            alone[host[first[e]]] += weight[e]
        if copies > 0:
            top += weight[e]
    for e in range(experts):
        copies = first[e + 1] - first[e]
        if copies > 1 and weight[e] * bottom > top * copies:
            top, bottom = weight[e], copies
    for g in range(num_gpus):
        if alone[g] * bottom > top:
            top, bottom = alone[g], 1
    if at_least * bottom >= top:
        top, bottom = at_least, 1
    load = alone * bottom
    for e in range(experts):
        copies = first[e + 1] - first[e]
        for k in range(first[e], first[e + 1]):
            flow[k] = weight[e] * bottom // copies + (k - first[e] < weight[e] * bottom % copies)
            if copies > 1:
                load[host[k]] += flow[k]
    giver = np.empty(num_gpus, np.int64)
    taker = np.empty(num_gpus, np.int64)
    queue = np.empty(num_gpus, np.int64)
    reached = np.empty(num_gpus, np.bool_)
    asked = np.empty(experts, np.bool_)
    while True:
        reached[:] = False
        asked[:] = False
        count = 0
        for g in range(num_gpus):
            if load[g] > top:
                reached[g] = True
                giver[g] = -1
                queue[count] = g
                count += 1
        if count == 0:
            return top, bottom
        pushed = False
        done = 0
        while done < count:
            g = queue[done]
            done += 1
            for i in range(begin[g], begin[g + 1]):
                e = expert[at[i]]
                if flow[at[i]] == 0 or asked[e]:
                    continue
                asked[e] = True
                for k in range(first[e], first[e + 1]):
                    h = host[k]
                    if reached[h]:
                        continue
                    reached[h] = True
                    giver[h] = at[i]
                    taker[h] = k
                    if load[h] >= top:
                        queue[count] = h
                        count += 1
                        continue
                    # push along the path that led here
                    amount = top - load[h]
                    source = h
                    while giver[source] >= 0:
                        amount = min(amount, flow[giver[source]])
                        source = host[giver[source]]
                    amount = min(amount, load[source] - top)
                    if amount <= 0:
                        continue
                    pushed = True
                    load[h] += amount
                    load[source] -= amount
                    source = h
                    while giver[source] >= 0:
                        flow[giver[source]] -= amount
                        flow[taker[source]] += amount
                        source = host[giver[source]]
        if pushed:
            continue
        # the GPUs reached have all the tokens of the experts they serve: their mean is the next T
        held, old = 0, bottom
        for i in range(count):
            held += load[queue[i]]
        top, bottom = held // old, count
        for g in range(num_gpus):
            load[g] = alone[g] * bottom
        for e in range(experts):
            copies = first[e + 1] - first[e]
            if copies == 0:
                continue
            rest = weight[e] * bottom
            for k in range(first[e], first[e + 1]):
                flow[k] = flow[k] // old * bottom + flow[k] % old * bottom // old
                rest -= flow[k]
            flow[first[e]] += rest
            if copies > 1:
                for k in range(first[e], first[e + 1]):
                    load[host[k]] += flow[k]
