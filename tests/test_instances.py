"""Named instances are the same everywhere, and their records hold."""

import hashlib
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from moeopt import InputError, instance, instances
from moeopt.instances import INSTANCES, MEDIAN, loads
from moeopt.records import RECORDS, rules, table


def test_every_instance_is_what_its_hash_says_and_they_cover_the_variants():
    problems = {name: instance(name) for name in INSTANCES}
    assert all(problem.load.is_integer and problem.num_layers == 1 for problem in problems.values())
    told = {word for problem in problems.values() for word in rules(problem).split(", ")}
    assert {"partition", "replicas", "8 groups on 4 nodes", "copies apart", "slots may be empty"} <= told
    assert {"optimal split", "at most 8 moves"} <= told
    assert any(problem.objective == "moves" for problem in problems.values())


def test_loads_are_what_the_page_says():
    for expert, tokens in enumerate(loads(40, 700, seed=5, drift=300, window=2)):
        digests = [hashlib.sha256(text.encode()).digest() for text in (f"5/{expert}", f"5/{expert}/2")]
        own, drift = (sum(int.from_bytes(d[i : i + 2], "big") for i in range(0, 32, 2)) - 524_280 for d in digests)
        x = math.floor((700 * own + 300 * drift) / 1000 * 81881) / 2**32
        assert abs(tokens - math.floor(4096 * 2**x)) <= 1


def test_loads_are_log_normal_in_whole_numbers():
    values = loads(6_000, 700, seed=3)
    logs = np.log(np.array(values) / MEDIAN)
    assert all(type(value) is int for value in values)
    assert abs(logs.mean()) < 0.02
    assert abs(logs.std() - 0.7) < 0.02
    assert abs((logs < -0.7).mean() - 0.1587) < 0.015


def test_powers_of_two_are_exact_to_the_last_of_60_bits():
    for part in (0, 1, 12345, 2**31, 2**32 - 1):
        assert math.isclose(instances._power_of_two(part), 2 ** (60 + part / 2**32), rel_tol=1e-14)


def test_drift_changes_loads_from_window_to_window_and_nothing_else():
    first, second = (loads(500, 700, seed=1, drift=200, window=window) for window in (0, 1))
    still = [loads(500, 700, seed=1, window=window) for window in (0, 1)]
    assert still[0] == still[1]
    assert abs(np.log(np.array(first) / np.array(second)).std() - 0.2 * math.sqrt(2)) < 0.03


def test_an_instance_that_is_another_one_here_is_refused(monkeypatch):
    name = "pairs-40-on-24"
    monkeypatch.setitem(INSTANCES, name, replace(INSTANCES[name], seed=1))
    with pytest.raises(InputError, match=f"instance {name}: its hash is .* this is not the same instance"):
        instance(name)
    with pytest.raises(InputError, match="instance 'nobody' is unknown; there are partition-32-on-8, "):
        instance("nobody")


def test_the_page_shows_the_records():
    assert f"\n{table()}\n" in RECORDS.with_suffix(".md").read_text()
    assert {path.stem for path in RECORDS.iterdir()} <= set(INSTANCES)


@pytest.mark.slow
def test_every_record_is_proven_by_the_standard_library_alone():
    script, files = RECORDS.parent / "verify.py", sorted(RECORDS.glob("*.json"))
    done = subprocess.run([sys.executable, "-I", "-S", script, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(f"bounds: {len(files)} proven; 0 rejected\n")
