"""Plain, slow, obviously right versions of what the package does fast; written from the papers' words."""

import math
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement

import torch


def plain_pack(weight, num_packs):
    """EPLB's balanced packing: heaviest first into the lightest pack that still has room."""
    items = weight.shape[1]
    per_pack = items // num_packs
    pack = torch.zeros(weight.shape, dtype=torch.int64)
    rank = torch.zeros(weight.shape, dtype=torch.int64)
    for row in range(len(weight)):
        if per_pack == 1:
            pack[row] = torch.arange(items)
            continue
        filled, total = [0] * num_packs, [torch.tensor(0.0)] * num_packs
        for item in weight[row].sort(descending=True).indices.tolist():
            lightest = min((p for p in range(num_packs) if filled[p] < per_pack), key=lambda p: total[p])
            pack[row, item], rank[row, item] = lightest, filled[lightest]
            total[lightest] = total[lightest] + weight[row, item]
            filled[lightest] += 1
    return pack, rank


def plain_replicate(weight, num_replicas):
    """EPLB's greedy: the next copy goes to the expert with the largest load per copy."""
    experts = weight.shape[1]
    replicas = torch.arange(num_replicas).repeat(len(weight), 1)
    rank = torch.zeros_like(replicas)
    count = torch.ones(weight.shape, dtype=torch.int64)
    for row in range(len(weight)):
        for replica in range(experts, num_replicas):
            hottest = int((weight[row] / count[row]).argmax())
            replicas[row, replica] = hottest
            rank[row, replica] = count[row, hottest]
            count[row, hottest] += 1
    return replicas, rank, count


def plain_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """EPLB layer by layer: groups to nodes, replicas inside nodes, replicas to GPUs."""
    weight = torch.as_tensor(weight).float()
    if num_groups % num_nodes:
        num_groups = num_nodes = 1
    layers, experts = weight.shape
    group_size, per_node = experts // num_groups, num_replicas // num_nodes
    per_gpu = num_replicas // num_gpus
    phy2log = torch.zeros((layers, num_replicas), dtype=torch.int64)
    ranks = torch.zeros_like(phy2log)
    group_node, group_rank = plain_pack(weight.unflatten(1, (num_groups, group_size)).sum(-1), num_nodes)
    for layer in range(layers):
        for node in range(num_nodes):
            groups = [g for g in range(num_groups) if group_node[layer, g] == node]
            groups.sort(key=lambda g: int(group_rank[layer, g]))
            members = torch.tensor([g * group_size + i for g in groups for i in range(group_size)])
            local = weight[layer, members][None]
            replicas, rank, count = plain_replicate(local, per_node)
            gpu, place = plain_pack((local / count).gather(1, replicas), num_gpus // num_nodes)
            slots = node * per_node + gpu[0] * per_gpu + place[0]
            phy2log[layer, slots] = members[replicas[0]]
            ranks[layer, slots] = rank[0]
    count = torch.stack([torch.bincount(row, minlength=experts) for row in phy2log])
    log2phy = torch.full((layers, experts, int(count.max())), -1, dtype=torch.int64)
    for layer in range(layers):
        for slot in range(num_replicas):
            log2phy[layer, phy2log[layer, slot], ranks[layer, slot]] = slot
    return phy2log, log2phy, count


def plain_bldm(weights, num_packs):
    """BLDM on one list of weights: packs as lists of item indices."""
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    cut = range(0, len(order), num_packs)
    parts = [[([i], weights[i]) for i in order[start : start + num_packs]] for start in cut]
    while len(parts) > 1:
        parts.sort(key=lambda part: -(part[0][1] - part[-1][1]))
        first, second, *rest = parts
        merged = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(first, reversed(second), strict=True)]
        parts = [sorted(merged, key=lambda pack: -pack[1]), *rest]
    return [sorted(pack[0]) for pack in parts[0]]


@cache
def layouts(experts, gpus, size, colocated, empty):
    """Contents of all GPUs, as tuples of tuples, such that every expert has a copy; -1 is an empty slot."""
    items = range(-1 if empty else 0, experts)
    contents = list(combinations_with_replacement(items, size))
    if not colocated:
        contents = [c for c in contents if max(Counter(e for e in c if e >= 0).values(), default=1) == 1]
    found = []

    def extend(chosen, missing):
        left = gpus - len(chosen)
        if not left:
            found.append(chosen)
            return
        for content in contents:
            rest = missing.difference(content)
            if len(rest) <= (left - 1) * size:
                extend((*chosen, content), rest)

    extend((), frozenset(range(experts)))
    return found


def outcomes(problem):
    """The set of (makespan, moves) of all placements of a one-layer problem, ceilings and limits aside.

    Exact fractions; moves are 0 where there is no reference.
    """
    loads = [Fraction(w) for w in problem.load.values[0].tolist()]
    scale = math.lcm(*(w.denominator for w in loads))
    unit = math.lcm(*range(1, problem.max_replicas + 1))
    whole = [int(w * scale) for w in loads]
    reference = None
    if problem.reference is not None:
        reference = [Counter(e for e in gpu if e >= 0) for gpu in problem.reference.by_gpu[0].tolist()]
    every = layouts(
        problem.num_experts, problem.num_gpus, problem.slots_per_gpu, problem.allow_colocated, problem.allow_empty_slots
    )
    seen = set()
    for gpus in every:
        if problem.hierarchical and not keeps_groups(problem, gpus):
            continue
        if problem.split == "optimal":
            makespan = plain_split(whole, gpus) * unit
        else:
            count = Counter(e for gpu in gpus for e in gpu)
            share = [w * unit // count[e] for e, w in enumerate(whole)]
            makespan = max(sum(share[e] for e in gpu if e >= 0) for gpu in gpus)
        moves = 0
        if reference is not None:
            pairs = zip(gpus, reference, strict=True)
            moves = sum(sum((Counter(e for e in gpu if e >= 0) - held).values()) for gpu, held in pairs)
        seen.add((makespan, moves))
    return {(Fraction(makespan, unit * scale), moves) for makespan, moves in seen}


def keeps_groups(problem, gpus):
    """Whether every group lies whole on one node, and every node has as many."""
    size, per_node = problem.num_experts // problem.num_groups, problem.num_gpus // problem.num_nodes
    nodes = [set() for _ in range(problem.num_nodes)]
    for g, gpu in enumerate(gpus):
        nodes[g // per_node].update(e // size for e in gpu if e >= 0)
    share = problem.num_groups // problem.num_nodes
    return all(len(node) == share for node in nodes) and len(set().union(*nodes)) == problem.num_groups


def plain_split(loads, gpus):
    """Least makespan when tokens go to any copy: the largest load of a set of experts per GPU that hosts it.

    ``gpus`` are the contents of all GPUs, -1 = empty; over all sets of the experts hosted, exact for whole loads.
    """
    hosts = {e: {g for g, gpu in enumerate(gpus) if e in gpu} for gpu in gpus for e in gpu if e >= 0}
    sets = [(0, frozenset())]
    for e, where in hosts.items():
        sets += [(load + loads[e], known | where) for load, known in sets]
    heaviest = {}  # by number of GPUs
    for load, where in sets:
        heaviest[len(where)] = max(load, heaviest.get(len(where), 0))
    return max((Fraction(load) / gpus for gpus, load in heaviest.items() if gpus), default=Fraction(0))
