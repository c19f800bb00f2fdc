"""CKA over the layers: every run against the base and against the reference."""

from __future__ import annotations

from tasks.reporting.charts.lines import crowd_note, few, lines_views, run_lines
from tasks.reporting.charts.picture import Picture, label_of
from tasks.reporting.charts.style import panels, quantity
from tasks.reporting.charts.svg import WIDTH
from tasks.reporting.views.join import StudyTables, base_of
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.similarity import POOLINGS, similarity_of


def cka_picture(tables: StudyTables, view: Geometry) -> Picture | None:
    """Two panels of debiased CKA; a layer without a value is a gap."""
    found = similarity_of(tables.cka)
    if found is None:
        return None
    base = base_of(tables).run
    names = {base: base, **({view.reference.run: label_of(view.reference, view)} if view.reference else {})}
    drawn = {}
    for other in names:
        runs = [info.run for info in view.runs if info.run != other and found.profile(info.run, other)]
        points = {run: [(layer, found.value(run, other, layer)) for layer in found.layers] for run in runs}
        if points:
            drawn[other] = run_lines(points, view)
    if not drawn:
        return None
    x = quantity("x", "Layer (0 = the embedding)", values=few(found.layers), format="d")
    y = quantity("y", "CKA, debiased", pad=4, grid=True, tickCount=5, minExtent=26)
    views = [
        {"title": f"Against {names[other]}", "width": WIDTH - 56, "height": 100, **lines}
        for other, lines in zip(drawn, lines_views(list(drawn.values()), x, y), strict=True)
    ]
    note = (
        f"Debiased linear CKA of the hidden states at {POOLINGS.get(found.pooling, found.pooling)}, {found.rows} rows; "
        f"1 = equal up to rotation and scale. Black broken line: noise floor. The table has the biased values and the "
        f"reasons for gaps.{crowd_note(next(iter(drawn.values())))}"
    )
    label = "CKA of hidden states over the layers"
    return Picture("cka", "Do they represent the problems alike?", label, panels(views), note, "cka")
