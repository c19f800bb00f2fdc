"""The sentences at the top of a report, generated from the numbers: what they say is what the tables show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tasks.reporting.findings.doubts import DOUBTS, lost, not_measured
from tasks.reporting.findings.lead import lead
from tasks.reporting.findings.sentences import (
    ACCURACY,
    CLAIMS,
    DATA,
    FUNCTIONS,
    PATHS,
    WHY,
    barrier_finding,
    cka_finding,
    depth_finding,
    divergence_finding,
)
from tasks.reporting.findings.why import why_finding
from tasks.reporting.tables.retention import retention_finding
from tasks.reporting.tables.soups import soups_finding
from tasks.reporting.tables.trajectories import trajectories_finding
from tasks.reporting.tables.truncation import truncation_finding
from tasks.reporting.views.study import Study


@dataclass(frozen=True)
class Findings:
    """``warnings``: what a reader must know before trusting a number; ``lead``: the short sentences of the first
    screen; ``found``: what else was found, each with the section that it stands in. Empty sentences do not count."""

    warnings: tuple[str, ...]
    lead: tuple[str, ...]
    found: tuple[tuple[str, str], ...]

    def on(self, section: str) -> tuple[str, ...]:
        """The sentences of one section."""
        return tuple(said for topic, said in self.found if topic == section and said)

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(said for _, said in self.found if said)

    @property
    def said(self) -> tuple[str, ...]:
        """Every sentence, those of the first screen in front."""
        return (*self.lead, *self.sentences)


FOUND: tuple[tuple[str, Callable[[Study], str]], ...] = (
    (ACCURACY, retention_finding),
    (WHY, why_finding),
    (WHY, truncation_finding),
    (WHY, trajectories_finding),
    (WHY, soups_finding),
    (PATHS, barrier_finding),
    (FUNCTIONS, cka_finding),
    (FUNCTIONS, divergence_finding),
    (FUNCTIONS, depth_finding),
    (DATA, lost),
    (DATA, not_measured),
)
"""The section that a sentence stands in, and what says it; empty where there is nothing to say."""


def findings(study: Study, claims: str = "") -> Findings:
    """The headline of a study, in plain sentences with their numbers; ``claims``: the sentence on the paper's."""
    warnings = tuple(sentence for doubt in DOUBTS for sentence in doubt(study))
    found = ((section, say(study)) for section, say in FOUND)
    return Findings(warnings, lead(study), (*found, (CLAIMS, claims)))
