"""Facts of a run that never was, for pages made from studies alone."""

from dataclasses import replace

from moeopt.report.facts import Arguments, Facts
from moeopt.report.machine import Machine
from moeopt.report.study import Effort


def facts_of(**changes):
    arguments = Arguments(
        trace=(), gpus=None, slots=None, nodes=None, groups=None, methods=None, layers=None, time_limit=None, jobs=None,
        cluster=None, repeats=1, reference=None, seed=0, out="report", quiet=True, verify=False,
    )  # fmt: skip
    facts = Facts(
        arguments, command=(), effort=Effort(), versions={}, machine=Machine("p", "c", 2), cluster=None, traces=(),
        small=(), impossible=(),
    )  # fmt: skip
    return replace(facts, **changes)
