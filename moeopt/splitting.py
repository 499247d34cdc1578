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
    (Newton's method on the minimum cut [2]_). Flows are integers, multiples of one over the denominator of T:
    counts are exact where a layer's total times ``num_gpus`` is below 2**63, as it is up to 1023 GPUs. Other loads
    are first rounded to a multiple of about ``total * num_gpus / 2**62``.

    References
    ----------
    .. [1] D. Gale, "A theorem on flows in networks", Pacific J. Math. 7 (1957), doi 10.2140/pjm.1957.7.1073
    .. [2] T. Radzik, "Parametric flows, weighted means of cuts, and fractional combinatorial optimization", in
       Complexity in Numerical Optimization, 1993, doi 10.1142/9789814354363_0016
    """
    num_gpus = placement.num_gpus
    if (placement.replica_count == 0).any():
        steps = np.where(placement.replica_count > 0, steps, 0)
    total = steps.sum(axis=2, dtype=float)
    exponent = np.zeros(total.shape, dtype=np.int64)
    if steps.dtype.kind == "f" or total.max(initial=0) * num_gpus >= 2.0**63:
        exponent = 62 - num_gpus.bit_length() - np.frexp(total)[1].astype(np.int64)
        steps = np.rint(np.ldexp(steps.astype(float), exponent[:, :, None]))
    load = np.empty(total.shape, dtype=np.int64)
    gpus = np.empty(total.shape, dtype=np.int64)
    _split(steps.astype(np.int64), placement.phy2log, num_gpus, load, gpus)
    return np.ldexp(load.astype(float), -exponent), gpus


@kernel
def _split(steps, phy2log, num_gpus, load, gpus):  # type: ignore[no-untyped-def]
    """Fill ``load`` and ``gpus`` layer by layer, each layer's graph of experts and GPUs being built once."""
    num_steps, layers, experts = steps.shape
    size = phy2log.shape[1] // num_gpus
    for layer in range(layers):
        # edges, one per expert and GPU: of expert e from first[e], of GPU g those in at[begin[g] : begin[g + 1]]
        first = np.zeros(experts + 1, np.int64)
        seen = np.full(experts, -1)
        for slot in range(phy2log.shape[1]):
            e = phy2log[layer, slot]
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
        for slot in range(phy2log.shape[1]):
            e = phy2log[layer, slot]
            g = slot // size
            if e >= 0 and seen[e] != g:
                seen[e] = g
                expert[fresh[e]] = e
                host[fresh[e]] = g
                at[edges] = fresh[e]
                fresh[e] += 1
                edges += 1
            begin[g + 1] = edges
        for step in range(num_steps):
            load[step, layer], gpus[step, layer] = _least(steps[step, layer], first, expert, host, begin, at)


@kernel
def _least(weight, first, expert, host, begin, at):  # type: ignore[no-untyped-def]
    """Least T of one layer as ``top / bottom``; flows and GPU loads are in units of ``1 / bottom``."""
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
    flow = np.zeros(host.size, np.int64)
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
            if copies < 2:
                continue
            rest = weight[e] * bottom
            for k in range(first[e], first[e + 1]):
                flow[k] = flow[k] // old * bottom + flow[k] % old * bottom // old
                rest -= flow[k]
            flow[first[e]] += rest
            for k in range(first[e], first[e + 1]):
                load[host[k]] += flow[k]
