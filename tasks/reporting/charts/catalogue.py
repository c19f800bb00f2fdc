"""The figures of a study's report, in one list."""

from __future__ import annotations

from tasks.reporting.charts.accuracy import accuracy_pictures
from tasks.reporting.charts.curves import (
    angle_picture,
    cka_picture,
    cosine_profile_picture,
    outside_picture,
    spectra_picture,
    training_picture,
    trajectories_picture,
    truncation_picture,
)
from tasks.reporting.charts.heat_map import cosine_picture
from tasks.reporting.charts.paths import path_pictures
from tasks.reporting.charts.picture import Picture
from tasks.reporting.charts.why import why_picture
from tasks.reporting.views.study import Study


def pictures(study: Study) -> list[Picture]:
    """The figures that the study allows; one whose numbers were not measured is left out."""
    drawn = (
        *accuracy_pictures(study),
        cosine_picture(study),
        cosine_profile_picture(study),
        angle_picture(study),
        outside_picture(study),
        why_picture(study),
        truncation_picture(study),
        trajectories_picture(study),
        spectra_picture(study),
        training_picture(study),
        *path_pictures(study),
        cka_picture(study),
    )
    return [picture for picture in drawn if picture is not None]
