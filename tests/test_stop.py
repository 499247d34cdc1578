"""Compiled work ends at its deadline and with the thread that waits for it."""

import math
import os
import signal
import threading
import time

import numpy as np
import pytest

from moeopt._kernel import kernel
from moeopt._stop import never, raised, side_by_side, stoppable


@kernel
def spin(stop):  # type: ignore[no-untyped-def]
    """Return 1 once ``stop`` is raised, which nothing in this loop seems to do."""
    while not raised(stop):
        pass
    return 1


def test_a_flag_that_nobody_raises_stays_down_and_is_not_shared():
    first, second = never(), never()
    first[0] = 1
    assert second[0] == 0


def test_a_deadline_ends_work_without_end():
    assert stoppable(spin, time.perf_counter() + 0.05) == 1
    assert side_by_side([spin, spin, spin], time.perf_counter()) == [1, 1, 1]


def test_results_come_in_the_order_of_the_works():
    events = [threading.Event() for _ in range(3)]

    def work(number):
        def run(stop):
            if number < 2:
                events[number + 1].wait()  # the last one ends first
            events[number].set()
            return number

        return run

    assert side_by_side([work(number) for number in range(3)]) == [0, 1, 2]


def test_an_error_in_one_work_ends_the_others_and_is_raised():
    def fail(stop):
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        side_by_side([spin, fail])


def test_an_interrupt_ends_the_work_before_it_is_raised():
    ended = []

    def work(stop):
        ready.set()
        ended.append(spin(stop))

    ready = threading.Event()
    spin(np.ones(1, np.uint8))  # compiled before the signal comes
    threading.Thread(target=lambda: (ready.wait(), os.kill(os.getpid(), signal.SIGINT))).start()
    with pytest.raises(KeyboardInterrupt):
        stoppable(work)
    assert ended == [1]


def test_threads_that_run_works_at_once_do_not_stop_each_other():
    def call(deadline):
        results.append(stoppable(lambda stop: spin(stop) if deadline < math.inf else 7, deadline))

    results: list[int] = []
    soon = time.perf_counter() + 0.1
    threads = [threading.Thread(target=call, args=(deadline,)) for deadline in (soon, math.inf, soon, math.inf)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [1, 1, 7, 7]
