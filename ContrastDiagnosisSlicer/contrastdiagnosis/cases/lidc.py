"""LIDC-IDRI as a source of cases: what its four readers rated (Armato et al., Med Phys 2011)."""

from __future__ import annotations

from contrastdiagnosis.cases.source import CaseSource, Finding, RatingScale

LIDC = CaseSource(
    name="LIDC-IDRI",
    short_name="LIDC",
    scales=(
        RatingScale("subtlety", "Subtlety", 1, 5, "extremely subtle", "obvious"),
        # The form ends at 4, but readers gave a 5 too.
        RatingScale(
            "internalStructure", "Internal structure", 1, 4, "soft tissue", "air", accepted_to=5
        ),
        RatingScale("calcification", "Calcification", 1, 6, "popcorn", "absent"),
        RatingScale("sphericity", "Sphericity", 1, 5, "linear", "round"),
        RatingScale("margin", "Margin", 1, 5, "poorly defined", "sharp"),
        RatingScale("lobulation", "Lobulation", 1, 5, "none", "marked"),
        RatingScale("spiculation", "Spiculation", 1, 5, "none", "marked"),
        RatingScale("texture", "Texture", 1, 5, "non-solid", "solid"),
        RatingScale("malignancy", "Malignancy", 1, 5, "highly unlikely", "highly suspicious"),
    ),
    malignancy="malignancy",
    malignant_above=3.0,  # arXiv:2403.05280
    # Ours, not of the form (docs/methods.md 6.1). Heads are trained in this order.
    findings=(
        Finding("spiculated", "spiculation", at_least=3),
        Finding("lobulated", "lobulation", at_least=3),
        Finding("ill-defined margin", "margin", at_most=3),
        Finding("sub-solid", "texture", at_most=3),
        Finding("calcified", "calcification", at_most=5),
        Finding("non-spherical", "sphericity", at_most=3),
    ),
    citation=(
        "ContrastDiagnosis, arXiv:2403.05280. Data: Armato et al., Data From LIDC-IDRI, TCIA 2015,"
        " doi:10.7937/K9/TCIA.2015.LO9QL9SX (CC BY 3.0); Clark et al., J Digit Imaging"
        " 2013;26:1045."
    ),
)
"""What a case folder or a bundle is that does not say where its cases come from."""
