"""The figures of a study's report, in one list."""

from __future__ import annotations

from tasks.reporting.charts.accuracy import accuracy_pictures
from tasks.reporting.charts.cka import cka_picture
from tasks.reporting.charts.heat_map import cosine_picture
from tasks.reporting.charts.paths import path_pictures
from tasks.reporting.charts.picture import Picture
from tasks.reporting.charts.profiles import angle_picture, cosine_profile_picture, outside_picture
from tasks.reporting.charts.spectra import spectra_picture
from tasks.reporting.charts.training import training_picture
from tasks.reporting.views.join import StudyTables
from tasks.reporting.views.pairs import Geometry


def pictures(tables: StudyTables, view: Geometry) -> list[Picture]:
    """The figures that these tables allow; one whose numbers were not measured is left out."""
    drawn = (
        *accuracy_pictures(tables, view),
        cosine_picture(view),
        cosine_profile_picture(tables.pair_metrics, view),
        angle_picture(tables.pair_metrics, view),
        outside_picture(tables.pair_metrics, view),
        spectra_picture(tables.spectra, view),
        training_picture(tables, view),
        *path_pictures(tables, view),
        cka_picture(tables, view),
    )
    return [picture for picture in drawn if picture is not None]
