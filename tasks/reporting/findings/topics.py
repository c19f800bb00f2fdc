"""What a sentence of a report is about: the section that it stands in."""

CLAIMS, ACCURACY, GEOMETRY, PATHS, FUNCTIONS, DATA = (
    "The paper's claims",
    "Accuracy",
    "Geometry of the updates",
    "Paths between the updates",
    "What the models compute",
    "Data and checks",
)
STUDY = "The study"
"""Titles of the sections of a study's page."""

PAIRS = "Pairs"
"""Of a comparison's."""

STUDIES, DIRECTIONS, RATES, MIDPOINTS = "The studies", "Directions", "Learning rates", "Paths"
MANY_CLAIMS = "The paper's claims over the studies"
"""Of a page of many studies, and `ACCURACY`."""
