"""Replay: policies over time, held against a plain simulator, and never looking ahead."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from moeopt import InputError, Placement, PlacementError, PlacementProblem, Solution, balancers, replay
from moeopt.balancers import contiguous, eplb, repair
from moeopt.policies import METHODS, NEVER, Policy, keep, parse_policy, relabelled, standard_policies
from moeopt.replay import prices, serve, usual_waits, with_baselines
from moeopt.traces import Trace, generate

ONCE = Policy(eplb, name="once")  # EPLB instead of search: quick, and held against itself


@pytest.fixture(scope="module")
def trace():
    return generate("decode", num_layers=2, num_experts=12, tokens=60, num_windows=30, seed=3)


def plain_cost(window, phy2log, gpus):
    """Sum over layers of the fullest GPU, by counting."""
    total = 0.0
    for load, slots in zip(window.tolist(), phy2log.tolist(), strict=True):
        fill = [0.0] * gpus
        for slot, expert in enumerate(slots):
            fill[slot // (len(slots) // gpus)] += load[expert] / slots.count(expert)
        total += max(fill)
    return total


def plain_moves(old, new, gpus):
    """Copies that are not yet on their GPU, and slots whose expert changes."""
    moved = 0
    for before, after in zip(old.tolist(), new.tolist(), strict=True):
        size = len(before) // gpus
        for gpu in range(gpus):
            there = before[gpu * size : (gpu + 1) * size]
            for expert in after[gpu * size : (gpu + 1) * size]:
                if expert in there:
                    there.remove(expert)
                else:
                    moved += 1
    return moved, int((old != new).sum())


def test_costs_agree_with_a_plain_simulator(trace):
    every, window, warmup, gpus, slots, price = 5, 7, 6, 4, 16, 0.25
    policy = Policy(eplb, every=every, window=window, name="mine")
    table = replay(trace, [ONCE, policy], gpus, slots, move_price=price, warmup=warmup, competition=True)
    row = table.set_index("policy").loc["mine"]

    loads = trace.windows
    in_force, cost, moved, rewritten, fullest, ratios, seen, seen_mean = None, 0.0, 0, 0, 0.0, [], 0.0, 0.0
    layer_step = loads[warmup:].sum() / gpus / (len(loads) - warmup) / 2
    for step in range(warmup, len(loads)):
        if (step - warmup) % every == 0:
            past = loads[max(0, step - window) : step]
            weight = past.sum(axis=0)
            found = balancers.eplb(PlacementProblem(weight, gpus, slots)).phy2log
            if in_force is not None:
                moves, slot_moves = plain_moves(in_force, found, gpus)
                moved, rewritten, cost = moved + moves, rewritten + slot_moves, cost + price * moves * layer_step
            in_force = found
            seen += sum(plain_cost(old, found, gpus) for old in past)
            seen_mean += past.sum() / gpus
        cost += plain_cost(loads[step], in_force, gpus)
        fullest += plain_cost(loads[step], in_force, gpus)
        for layer in range(2):
            one = plain_cost(loads[step, layer : layer + 1], in_force[layer : layer + 1], gpus)
            ratios.append(one / (loads[step, layer].sum() / gpus))
    mean = loads[warmup:].sum() / gpus
    assert row.moves == moved > 0
    assert row.step_ratio == pytest.approx(fullest / mean)
    assert row.cost == pytest.approx(cost / mean)
    assert row.in_sample == pytest.approx(seen / seen_mean)
    assert row.competition_seconds == pytest.approx(60 * np.mean(ratios) + rewritten * 88_080_384 / 9e11)


def test_nothing_looks_into_the_future(trace):
    policies = [
        ONCE,
        Policy(eplb, every=4),
        Policy(repair, every=8, max_moves=2),
        Policy(eplb, every=4, trigger=0.01),
    ]
    later = trace.windows.copy()
    later[18:] = later[18:][::-1]
    later[18:, :, ::2] += 50
    plain = serve(trace, policies, 4, 16, warmup=6)
    other = serve(Trace(later), policies, 4, 16, warmup=6)
    for one, two in zip(plain.served, other.served, strict=True):
        known = [plan for plan in one.plans if plan.step <= 18]
        assert len(known) >= 1
        for a, b in zip(known, two.plans, strict=False):
            assert a.placement == b.placement
        assert np.array_equal(one.makespans[:12], two.makespans[:12])


def test_a_method_is_given_the_latest_steps_and_the_placement_in_force(trace):
    asked = []

    def mine(problem):
        asked.append(problem)
        return eplb(replace(problem, max_moves=None))

    found = serve(trace, [Policy(mine, every=10, window=8, max_moves=16, name="mine")], 4, 16, warmup=6)
    plans = found.served[-1].plans
    planned = [problem for problem in asked if problem.num_layers == 2 and problem.max_moves is not None]
    for plan, problem in zip(plans[1:], planned, strict=True):
        assert np.array_equal(problem.steps, trace.windows[plan.step - 8 : plan.step])
    assert planned[0].reference == plans[0].placement
    assert planned[1].reference == plans[1].placement


def test_never_keeps_the_placement_in_force_and_pays_nothing(trace):
    table = replay(trace, [ONCE], 4, 16, move_price=5, warmup=6).set_index("policy")
    never = serve(trace, [ONCE], 4, 16, warmup=6).served[0]
    assert never.policy is NEVER
    assert never.plans[0].placement.phy2log[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3]
    assert table.cost["never"] == table.step_ratio["never"] == table.hindsight["never"]
    assert table.moves["never"] == 0


def test_first_plans_are_paid_for_where_a_placement_is_in_force(trace):
    home = np.arange(16) % 12
    free = replay(trace, [ONCE], 4, 16, move_price=1, warmup=6).set_index("policy")
    paid = replay(trace, [ONCE], 4, 16, move_price=1, warmup=6, reference=[home, home]).set_index("policy")
    assert free.moves["once"] == 0 < paid.moves["once"]
    assert paid.cost["once"] > free.cost["once"]
    assert paid.step_ratio["once"] == free.step_ratio["once"]
    assert paid.moves["never"] == 0


def test_a_limit_on_moves_holds_in_every_plan(trace):
    found = serve(trace, [Policy(balancers.repair, every=6, max_moves=1)], 4, 16, warmup=6).served[-1]
    assert len(found.plans) == 4
    assert all((plan.moves <= 1).all() for plan in found.plans)
    assert any(plan.moves.any() for plan in found.plans)


def test_a_trigger_keeps_layers_that_would_gain_less(trace):
    def served(trigger):
        return serve(trace, [Policy(eplb, every=3, trigger=trigger, name="mine")], 4, 16, warmup=6).served[-1]

    assert sum(plan.moves.sum() for plan in served(10.0).plans) == 0
    always, sometimes = served(None), served(0.02)
    moved = [sum(int(plan.moves.sum()) for plan in one.plans) for one in (always, sometimes)]
    assert 0 < moved[1] < moved[0]
    assert sometimes.plans[-1].in_sample.sum() <= 1.02 * always.plans[-1].in_sample.sum() * 1.05


def test_no_policy_beats_the_bound_for_a_placement_of_its_own_in_every_step(trace):
    hot = trace.windows.copy()
    hot[::3, :, 5] += 900  # more than the copies on all GPUs can even out
    found = serve(Trace(hot), [ONCE, Policy(eplb, every=1)], 4, 12, warmup=6)
    for one in found.served:
        assert (one.makespans >= found.per_step_bound * (1 - 1e-12)).all()
    assert (found.per_step_bound >= found.means * (1 - 1e-12)).all()
    assert (found.per_step_bound > found.means).any()


def test_intervals_are_those_of_a_ratio_over_windows_that_do_not_overlap(trace):
    found = serve(trace, [ONCE, Policy(eplb, every=4)], 4, 16, warmup=6)
    assert [len(block) for block in found.blocks] == [4] * 6
    cost, mean = np.arange(24.0), np.full(24, 2.0)
    ratio, half = found.interval(cost, mean)
    blocks = cost.reshape(6, 4).sum(axis=1) / 8
    assert ratio == pytest.approx(blocks.mean())
    assert half == pytest.approx(2.570582 * blocks.std(ddof=1) / np.sqrt(6), rel=1e-6)
    assert found.interval(3 * mean, mean) == (3.0, 0.0)
    few = serve(trace[:9], [ONCE], 4, 16, warmup=6)
    assert np.isnan(few.interval(np.ones(3), np.ones(3))[1])


def test_the_policy_chosen_on_the_first_half_is_the_cheapest_there(trace):
    table = replay(trace, [ONCE, Policy(eplb, every=4), Policy(eplb, every=12)], 4, 16, move_price=0.1, warmup=6)
    assert table.chosen.sum() == 1
    assert table.first_half[table.chosen].item() == table.first_half.min()
    whole = serve(trace, [ONCE], 4, 16, warmup=6)
    means = whole.means.sum(axis=1)
    row = table[table.policy == "once"].iloc[0]
    halves = row.first_half * means[:12].sum() + row.second_half * means[12:].sum()
    assert row.cost == pytest.approx(halves / means.sum())
    assert row.saving == 0


def test_a_move_costs_bytes_over_bandwidth_in_balanced_layer_steps():
    assert prices(None, 90e6, 9e11, 2e-4) == (pytest.approx(0.5), 5000.0)
    assert prices(0.3, None, None, None) == (0.3, None)
    with pytest.raises(InputError, match="bandwidth is missing"):
        prices(None, 90e6, None, 1e-4)
    with pytest.raises(InputError, match="move_price is given"):
        prices(0.3, None, 9e11, 1e-4)
    with pytest.raises(InputError, match="bandwidth must be > 0, got 0"):
        prices(None, 90e6, 0, 1e-4)


def test_planning_is_charged_where_asked(trace):
    asked = partial(replay, trace, [ONCE, Policy(eplb, every=8)], 4, 16, warmup=6, layer_step_seconds=1e-4)
    free, charged = asked(), asked(charge_planning=True)
    assert charged.cost[1] == free.cost[1]  # made beforehand
    assert charged.cost[2] > free.cost[2]
    with pytest.raises(InputError, match="charge_planning needs layer_step_seconds"):
        replay(trace, [ONCE], 4, 16, charge_planning=True)


def test_a_relabelled_method_moves_less_for_the_same_balance(trace):
    found = serve(trace, [ONCE, Policy(eplb, every=6), Policy(relabelled(eplb), every=6)], 4, 16, warmup=6)
    plain, named = found.served[-2:]
    assert sum(plan.moves.sum() for plan in named.plans) < sum(plan.moves.sum() for plan in plain.plans)
    assert np.allclose(named.makespans, plain.makespans)
    assert named.policy.name == "relabelled eplb every 6"


def test_a_relabelled_method_without_a_placement_is_named(trace):
    nothing = Policy(relabelled(lambda problem: Solution(problem)), name="mine")
    with pytest.raises(InputError, match="policy 'mine' before step 6: returned Solution without a placement"):
        replay(trace, [ONCE, nothing], 4, 16, warmup=6)


def test_standard_policies_have_names_of_their_own():
    names = [policy.name for policy in with_baselines(standard_policies((4, 16)))]
    assert len(set(names)) == len(names)
    assert {"never", "once", "eplb every 16", "scenario repair every 4, 2 moves"} <= set(names)
    assert usual_waits(449) == (16, 64)
    assert usual_waits(24) == (1, 4)
    assert usual_waits(1) == (1,)


def test_policies_can_be_said_in_words():
    policy = parse_policy("relabelled eplb every=16 window=64 trigger=0.02", METHODS)
    assert (policy.every, policy.window, policy.trigger) == (16, 64, 0.02)
    assert policy.name == "relabelled eplb every 16, window 64, trigger 2 %"
    assert parse_policy("repair every=8 moves=2", METHODS).max_moves == 2
    assert parse_policy("never", METHODS).method is keep


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic every=2", "methods 'magic' is unknown; there are never, eplb"),
        ("eplb often", "'often' is none of every=STEPS"),
        ("eplb every=x", "'every=x' is none of"),
        ("eplb every=0", "every must be >= 1, got 0"),
        (" ", "policy must name a method"),
    ],
)
def test_words_that_are_no_policy_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_policy(text, METHODS)


def test_what_cannot_be_replayed_is_refused_in_one_line(trace):
    with pytest.raises(InputError, match="warmup=30 leaves none of 30 steps to serve"):
        replay(trace, [ONCE], 4, 16, warmup=30)
    with pytest.raises(InputError, match="trace must have at least 2 steps in time order, got 1"):
        replay(trace[:1], [ONCE], 4, 16)
    with pytest.raises(InputError, match="policies must have different names, got 'once' twice"):
        replay(trace, [ONCE, ONCE], 4, 16)
    with pytest.raises(InputError, match="num_slots=15 is not a multiple of num_gpus=4"):
        replay(trace, [ONCE], 4, 15)
    with pytest.raises(InputError, match="policy 'eplb every 4, 2 moves': eplb counts no moves"):
        replay(trace, [Policy(eplb, every=4, max_moves=2)], 4, 16)
    with pytest.raises(InputError, match="method must be callable, got 'eplb'"):
        Policy("eplb")
    with pytest.raises(InputError, match="trigger must be >= 0"):
        Policy(eplb, trigger=-0.1)


def test_a_method_that_breaks_a_rule_is_named_with_the_step(trace):
    def lazy(problem):
        return Placement(
            np.zeros((problem.num_layers, problem.slots), dtype=int), problem.num_experts, problem.num_gpus
        )

    with pytest.raises(PlacementError, match="policy 'mine' before step 6: layer 0: expert 1 has no slot"):
        replay(trace, [ONCE, Policy(lazy, name="mine")], 4, 16, warmup=6)
    with pytest.raises(InputError, match="policy 'mine' before step 6: returned list without a placement"):
        replay(trace, [ONCE, Policy(lambda problem: [], name="mine")], 4, 16, warmup=6)


def test_groups_stay_whole_over_time(trace):
    found = serve(trace, [ONCE, Policy(eplb, every=8)], 4, 16, warmup=6, num_nodes=2, num_groups=4)
    placement = found.served[-1].plans[-1].placement
    nodes = placement.phy2log.reshape(2, 2, 8) // 3
    for layer in nodes:
        assert not set(layer[0].tolist()) & set(layer[1].tolist())


def test_contiguous_never_pays_for_itself_even_said_as_a_method(trace):
    table = replay(trace, [ONCE, Policy(partial(contiguous), every=4, name="vanilla")], 4, 16, move_price=1, warmup=6)
    rows = table.set_index("policy")
    assert rows.cost["vanilla"] == rows.cost["never"]


def test_a_policy_may_name_a_function_in_a_file(trace, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from moeopt.balancers import eplb\n\ndef plan(problem):\n    return eplb(problem)\n"
    )
    mine = parse_policy(f"{tmp_path / 'mine.py'}:plan every=6", METHODS)
    assert mine.name == "mine.plan every 6"
    rows = replay(trace, [ONCE, mine, Policy(eplb, every=6)], 4, 16, warmup=6)
    assert rows.step_ratio[2] == rows.step_ratio[3]
