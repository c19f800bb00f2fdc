"""The kills of a session, and the table of them at its end."""

from __future__ import annotations

from collections import Counter
from statistics import median

import pytest

from tests.faults.chain import Kill

DONE: list[Kill] = []


@pytest.fixture
def kills() -> list[Kill]:
    """Where tests note what they killed."""
    return DONE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not DONE:
        return
    terminalreporter.section(f"{len(DONE)} kills")
    for line in table(DONE):
        terminalreporter.write_line(line)


def table(kills: list[Kill]) -> list[str]:
    """One line a kind, then each kill."""
    lines = []
    for kind in sorted({kill.fault.kind for kill in kills}):
        mine = [kill for kill in kills if kill.fault.kind == kind]
        stages = Counter(kill.fault.stage for kill in mine)
        codes = Counter(kill.run.process.returncode for kill in mine if kill.run)
        lost = [kill.lost for kill in mine]
        lines.append(
            f"{kind:14} {len(mine):3} times ({', '.join(f'{stage} {n}' for stage, n in stages.items())}); "
            f"exit codes {dict(codes)}; lost {median(lost):.1f} s of work (most {max(lost):.1f} s); "
            f"all ended {max(kill.gone for kill in mine):.1f} s later at most"
        )
    for kill in kills:
        code, said = (kill.run.process.returncode, kill.run.said) if kill.run else ("?", "")
        at = f"{kill.fault.kind:14} {kill.fault.stage:9} after {kill.moment:6.1f} s"
        work = kill.struck or "nothing"
        lines.append(f"  {at}; at work: {work}; exit {code}; lost {kill.lost:.1f} s{said and '; '}{said}")
    return lines
