"""Fuzz in a process of its own, so that what it must survive is its own limits: ``python -m tests.fuzz.child``.

Prints one JSON line a target: cases, seconds, how many were accepted and how many refused. A case that is neither ends
the process with exit code 1 and the shortest such case that hypothesis finds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tasks.core.errors import LONGEST_MESSAGE, InputError
from tests.fuzz.guards import Watch, confine
from tests.fuzz.targets import TARGETS, Run

BATCH = 1000
"""Cases of one run of hypothesis, which remembers all of them."""


def judge(run: Run, case: object, watch: Watch) -> str:
    """``accepted`` or ``refused``; raises for everything else."""
    with watch.case():
        try:
            run(case)
        except InputError as error:
            said = str(error)
        else:
            return "accepted"
    assert said.isprintable(), said
    assert 0 < len(said) <= LONGEST_MESSAGE, said
    return "refused"


def fuzz(name: str, cases: int, number: int, watch: Watch) -> dict[str, object]:
    strategy, run = TARGETS[name].make()
    found: Counter[str] = Counter()
    began = time.monotonic()
    for start in range(0, cases, BATCH):

        @seed(number * 1_000_003 + start)
        @settings(
            max_examples=min(BATCH, cases - start), deadline=None, database=None, report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
        )  # fmt: skip
        @given(st.shared(strategy, key=name))
        def batch(case: object) -> None:
            found[judge(run, case, watch)] += 1

        batch()
    return {"target": name, "cases": found.total(), "seconds": round(time.monotonic() - began, 1), **found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--cases", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--only", action="append", choices=TARGETS)
    given_words = parser.parse_args()
    warnings.simplefilter("ignore")
    watch = confine(given_words.scratch)
    for name in given_words.only or TARGETS:
        found = fuzz(name, max(1, round(given_words.cases * TARGETS[name].share)), given_words.seed, watch)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
