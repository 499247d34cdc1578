"""The best split of tokens among copies, in Python integers: the exact makespan of a placement under it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction


def split_makespan(loads: Sequence[int], gpus: Iterable[Iterable[int]]) -> Fraction:
    """Least load of the fullest GPU when tokens may go to any copy.

    ``loads`` by expert, whole numbers; ``gpus`` the experts on every GPU, whose loads count. Tries thresholds,
    from the mean up: tokens that no GPU can take below a threshold prove a higher one, see ``docs/problem.md``.
    """
    hosts: dict[int, list[int]] = {}
    num_gpus = 0
    for gpu, held in enumerate(gpus):
        num_gpus += 1
        for expert in set(held):
            hosts.setdefault(expert, []).append(gpu)
    threshold = Fraction(sum(loads[expert] for expert in hosts), num_gpus)
    while crowded := _crowded(loads, hosts, num_gpus, threshold):
        where = {gpu for expert in crowded for gpu in hosts[expert]}
        threshold = Fraction(sum(loads[expert] for expert in crowded), len(where))
    return threshold


def _crowded(loads: Sequence[int], hosts: dict[int, list[int]], num_gpus: int, threshold: Fraction) -> set[int]:
    """Experts whose GPUs cannot take all their tokens within ``threshold``; empty if all tokens fit.

    Tokens are counted in units of ``1 / threshold.denominator``.
    """
    room = [threshold.numerator] * num_gpus
    served: list[dict[int, int]] = [{} for _ in range(num_gpus)]
    for expert in hosts:
        left = loads[expert] * threshold.denominator
        while left:
            pushed, asked = _push(expert, left, hosts, room, served)
            if not pushed:
                return asked
            left -= pushed
    return set()


def _push(
    expert: int, left: int, hosts: dict[int, list[int]], room: list[int], served: list[dict[int, int]]
) -> tuple[int, set[int]]:
    """Bring tokens of an expert to the nearest GPU with room, moving others on the way: how many, and who was asked."""
    via: dict[int, tuple[int, int]] = {}  # of a GPU: whose tokens it could take, from which GPU (-1: from nowhere)
    asked = {expert}
    waiting = [(expert, -1)]
    for e, source in waiting:
        for gpu in hosts[e]:
            if gpu in via:
                continue
            via[gpu] = e, source
            if room[gpu]:
                path = [(gpu, e, source)]
                while path[-1][2] >= 0:
                    path.append((path[-1][2], *via[path[-1][2]]))
                amount = min([left, room[gpu], *(served[start][e] for _, e, start in path if start >= 0)])
                room[gpu] -= amount
                for end, e, start in path:
                    served[end][e] = served[end].get(e, 0) + amount
                    if start >= 0:
                        served[start][e] -= amount
                return amount, asked
            for other, tokens in served[gpu].items():
                if tokens and other not in asked:
                    asked.add(other)
                    waiting.append((other, gpu))
    return 0, asked
