"""Migration: from one placement to another in rounds, each of which leaves a placement that can serve."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeopt import _arguments
from moeopt._kernel import copy_into, kernel
from moeopt.errors import InputError
from moeopt.placement import Placement


def migration_rounds(reference: Placement, placement: Placement, per_round: int = 1) -> list[Placement]:
    """Go from ``reference`` to ``placement`` with at most ``per_round`` arrivals on a GPU in every round.

    Parameters
    ----------
    reference, placement
        ``[layers, slots]`` the placement in force and the one wanted, of equal shape.
    per_round
        Copies that a GPU may receive in one round, >= 1: it needs room for as many beside its slots.

    Returns
    -------
    list of Placement
        The placement after every round; the last holds the same copies on every GPU as ``placement``,
        and what a GPU keeps stays in its slot. All layers move side by side; a layer takes
        ``ceil(D / per_round)`` rounds, ``D`` being the most arrivals on one of its GPUs, which no
        schedule undercuts. Empty where every GPU holds already what it should.

    Raises
    ------
    InputError
        If the placements differ in shape, or ``per_round`` is below 1.

    Notes
    -----
    After every round each expert that both placements hold has a copy, and a GPU has filled at most as
    many slots as it has; where both placements are full, every slot is full after every round.

    *Proof.* Pair departures of an expert with arrivals of the same expert: these copies move. What remains of
    an expert are either departures, drops, or arrivals, new copies. Give every arrival on a GPU a
    slot of that GPU: of a departure, or an empty one where it has fewer departures. Departures left over by that
    need no arrival; they wait for the round in which their copy arrives elsewhere, drops for the last round.
    Every other copy that moves is an edge from the GPU it leaves to the one where it arrives; other slots
    are joined to other arrivals at will. So every GPU has as many outgoing as incoming edges, and with loops ``D``
    of both: a bipartite graph of degree ``D`` (leaving, arriving), whose edges can be coloured with
    ``D`` colours such that no two of one GPU's outgoing or incoming edges have the same (König [1]_). The
    colours are the rounds, or ``per_round`` of them one round. Every GPU that receives then frees a slot in the
    same round. A copy that moves leaves in the round in which it arrives; an expert that drops copies has no new
    ones, so all that it ends with are kept or move, and one of them exists at any time. And a GPU with ``D``
    arrivals needs ``D / per_round`` rounds.

    An edge is coloured by swapping two colours along an alternating path: O(slots * GPUs) per layer.

    References
    ----------
    .. [1] D. König, "Über Graphen und ihre Anwendung auf Determinantentheorie und Mengenlehre", Math. Annalen
       77 (1916), doi 10.1007/BF01456961

    Examples
    --------
    >>> from moeopt import Placement
    >>> old, new = (Placement([slots], num_experts=4, num_gpus=2) for slots in ([0, 1, 2, 3], [0, 3, 2, 1]))
    >>> [step.phy2log.tolist() for step in migration_rounds(old, new)]
    [[[0, 3, 2, 1]]]
    """
    per_round = _arguments.integer("per_round", per_round, 1)
    _check_alike(reference, placement)
    before, after = reference.phy2log, placement.phy2log
    arrivals = np.maximum(placement.copies - reference.copies, 0).sum(axis=2).max(axis=1)
    changed = (placement.copies != reference.copies).any(axis=(1, 2))
    rounds = np.where(changed, np.maximum(-(-arrivals // per_round), 1), 0)
    states = np.repeat(before[None], int(rounds.max()), axis=0)
    _fill_rounds(before, after, np.int64(reference.num_gpus), arrivals, np.int64(per_round), rounds, states)
    return [Placement(state, reference.num_experts, reference.num_gpus) for state in states]


def migration_senders(reference: Placement, placement: Placement) -> NDArray[np.int64]:
    """GPU that every transferred copy is read from in one round, ``[layers, slots]`` by ``placement``'s slots.

    -1 where nothing is received: in slots of experts that their GPU held before, further slots of an expert that
    it receives already, and empty ones. Every copy is read from a GPU that holds the expert in
    ``reference``, the one with the fewest sends so far; experts with few holders choose first.
    O(slots * GPUs) per layer.

    Raises
    ------
    InputError
        If the placements differ in shape, or an expert arrives that no GPU held.

    Examples
    --------
    >>> from moeopt import Placement
    >>> old, new = (Placement([slots], num_experts=4, num_gpus=2) for slots in ([0, 1, 2, 3], [0, 3, 2, 1]))
    >>> migration_senders(old, new).tolist()
    [[-1, 1, -1, 0]]
    """
    _check_alike(reference, placement)
    senders = np.full(placement.phy2log.shape, -1, dtype=np.int64)
    _choose_senders(reference.copies > 0, placement.phy2log, senders)
    if (senders == -2).any():
        layer, slot = (int(i) for i in np.argwhere(senders == -2)[0])
        raise InputError(f"placement has expert {placement.phy2log[layer, slot]} in layer {layer}, reference has not")
    return senders


def _check_alike(reference: Placement, placement: Placement) -> None:
    shapes = [(p.num_layers, p.num_gpus, p.num_slots, p.num_experts) for p in (reference, placement)]
    if shapes[0] != shapes[1]:
        raise InputError(f"placements must agree in layers, GPUs, slots and experts, got {shapes[0]} and {shapes[1]}")


@kernel
def _fill_rounds(before, after, gpus, arrivals, per_round, rounds, states):  # type: ignore[no-untyped-def]
    """Fill ``states [rounds, layers, slots]`` with the slots after every round."""
    for layer in range(before.shape[0]):
        if rounds[layer] == 0:
            continue
        state = before[layer].copy()
        k = state.size // gpus
        expert, gpu, leaves = _differences(state, after[layer], gpus)
        pair = _pairs(expert, state, leaves)
        slot, freed = _slots_for_arrivals(gpu, state, leaves, pair, gpus)
        colour, leaving = _coloured(slot, gpu, k, gpus, arrivals[layer])
        emptied = np.full(state.size, rounds[layer] - 1)
        for s in range(state.size):
            if pair[s] >= 0:
                emptied[s] = colour[pair[s]] // per_round
        for t in range(states.shape[0]):
            for s in range(state.size):
                if leaves[s] and not freed[s] and emptied[s] == t:
                    state[s] = -1
            for i in range(expert.size):
                if colour[i] // per_round == t:
                    state[slot[leaving[gpu[i], colour[i]]]] = expert[i]
            copy_into(state, states[t, layer])


@kernel
def _differences(old, new, gpus):  # type: ignore[no-untyped-def]
    """Expert and GPU of every arrival, and which of the old slots hold a copy that leaves."""
    n = old.size
    k = n // gpus
    expert = np.empty(n, np.int64)
    gpu = np.empty(n, np.int64)
    leaves = old >= 0
    count = 0
    for s in range(n):
        if new[s] < 0:
            continue
        g = s // k
        arrives = True
        for t in range(g * k, (g + 1) * k):
            if leaves[t] and old[t] == new[s]:
                leaves[t] = arrives = False
                break
        if arrives:
            expert[count] = new[s]
            gpu[count] = g
            count += 1
    return expert[:count], gpu[:count], leaves


@kernel
def _pairs(expert, old, leaves):  # type: ignore[no-untyped-def]
    """Arrival for which every old slot's copy leaves; -1 for drops and for slots that nothing leaves."""
    pair = np.full(old.size, -1)
    for i in range(expert.size):
        for s in range(old.size):
            if leaves[s] and pair[s] < 0 and old[s] == expert[i]:
                pair[s] = i
                break
    return pair


@kernel
def _slots_for_arrivals(gpu, old, leaves, pair, gpus):  # type: ignore[no-untyped-def]
    """Old slot at the start of every arrival's edge, and which slots are at one."""
    n = old.size
    k = n // gpus
    freed = np.zeros(n, np.bool_)
    slot = np.full(gpu.size, -1)
    left = np.zeros(gpus, np.int64)
    for g in gpu:
        left[g] += 1
    for rank in range(3):  # copies that move, drops, empty slots
        for s in range(n):
            kind = 0 if pair[s] >= 0 else 1 if leaves[s] else 2 if old[s] < 0 else 3
            if kind == rank and left[s // k] > 0:
                left[s // k] -= 1
                freed[s] = True
                if rank == 0:
                    slot[pair[s]] = s
    open_slots = freed & (pair < 0)
    for anywhere in range(2):  # a slot of the arrival's own GPU, else any
        for i in range(gpu.size):
            if slot[i] >= 0:
                continue
            for s in range(0 if anywhere else gpu[i] * k, n if anywhere else (gpu[i] + 1) * k):
                if open_slots[s]:
                    slot[i] = s
                    open_slots[s] = False
                    break
    return slot, freed


@kernel
def _coloured(slot, gpu, k, gpus, degree):  # type: ignore[no-untyped-def]
    """Colour of every arrival's edge, and the edge that leaves every GPU in every colour; loops pad to ``degree``."""
    size = gpus * degree
    source = np.empty(size, np.int64)
    target = np.empty(size, np.int64)
    held = np.zeros(gpus, np.int64)
    count = gpu.size
    for i in range(count):
        source[i], target[i] = slot[i] // k, gpu[i]
        held[gpu[i]] += 1
    for g in range(gpus):
        for _ in range(degree - held[g]):
            source[count] = target[count] = g
            count += 1
    leaving = np.full((gpus, degree), -1)
    entering = np.full((gpus, degree), -1)
    colour = np.full(size, -1)
    path = np.empty(size, np.int64)
    for edge in range(size):
        u, v = source[edge], target[edge]
        a = b = 0
        while leaving[u, a] >= 0:
            a += 1
        while entering[v, b] >= 0:
            b += 1
        length = 0
        at = entering[v, a]
        while at >= 0:  # swap a and b along the path from v, so that a becomes free there
            path[length] = at
            length += 1
            at = leaving[source[at], b] if length % 2 else entering[target[at], a]
        for i in range(length):
            leaving[source[path[i]], colour[path[i]]] = entering[target[path[i]], colour[path[i]]] = -1
        for i in range(length):
            colour[path[i]] = a + b - colour[path[i]]
            leaving[source[path[i]], colour[path[i]]] = entering[target[path[i]], colour[path[i]]] = path[i]
        colour[edge] = a
        leaving[u, a] = entering[v, a] = edge
    return colour, leaving


@kernel
def _choose_senders(holds, slots, senders):  # type: ignore[no-untyped-def]
    """Fill ``senders`` layer by layer; -2 where an expert has no holder."""
    layers, gpus, experts = holds.shape
    k = slots.shape[1] // gpus
    holders = np.zeros(experts, np.int64)
    sends = np.empty(gpus, np.int64)
    for layer in range(layers):
        for e in range(experts):
            holders[e] = 0
            for g in range(gpus):
                holders[e] += int(holds[layer, g, e])
        sends[:] = 0
        received = holds[layer].copy()
        waits = np.zeros(slots.shape[1], np.bool_)
        for s in range(waits.size):
            e = slots[layer, s]
            if e >= 0 and not received[s // k, e]:
                received[s // k, e] = waits[s] = True
                if holders[e] == 0:
                    senders[layer, s] = -2
        for number in range(1, gpus + 1):
            for s in range(waits.size):
                e = slots[layer, s]
                if not waits[s] or holders[e] != number:
                    continue
                best = -1
                for g in range(gpus):
                    if holds[layer, g, e] and (best < 0 or sends[g] < sends[best]):
                        best = g
                senders[layer, s] = best
                sends[best] += 1
