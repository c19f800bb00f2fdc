"""The figures of a study's report, in one list."""

from __future__ import annotations

from tasks.reporting.accuracy_figure import accuracy_picture
from tasks.reporting.cka_figure import cka_picture
from tasks.reporting.heat_map import cosine_picture
from tasks.reporting.join import StudyTables
from tasks.reporting.pairs import Geometry
from tasks.reporting.path_figures import path_pictures
from tasks.reporting.picture import Picture
from tasks.reporting.profile_figures import angle_picture, cosine_profile_picture, outside_picture
from tasks.reporting.spectra_figure import spectra_picture
from tasks.reporting.training_figure import training_picture


def pictures(tables: StudyTables, view: Geometry) -> list[Picture]:
    """The figures that these tables allow; one whose numbers were not measured is left out."""
    drawn = (
        accuracy_picture(tables, view),
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
