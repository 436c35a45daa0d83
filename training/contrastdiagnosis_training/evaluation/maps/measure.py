"""`Measure`: what one figure of a map says, as a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

What = Literal[
    "deletion", "insertion", "energy", "pointing", "correlation", "stability", "same label"
]
Place = Literal["centred", "off-centre"]
Score = Literal["", "distance", "vote", "raw distance"]

CONTROLS = ("gaussian", "mask", "random")
"""What a map must beat: a Gaussian at the centre, the network's own mask, chance."""


class Measure(NamedTuple):
    """What a figure says.

    Attributes:
        what: Is measured: the area under a deletion or insertion curve, the share of the energy
            inside the readers' mask, whether the highest voxel lies in it, the rank correlation
            with another network's map, that with the map of a changed patch, or whether the
            nearest case has the label that it has of the centred patch.
        of: The map, "different", one of `CONTROLS`, a randomised network, or a change.
        place: Of the nodule in the patch.
        score: That is watched while voxels go or come.
    """

    what: What
    of: str = "map"
    place: Place = "centred"
    score: Score = ""

    @property
    def lower_is_better(self) -> bool:
        """Whether a map that tells the truth has the lower figure."""
        if self.what == "insertion":
            return self.score == "raw distance"
        return self.what == "deletion" and self.score != "raw distance"

    @property
    def words(self) -> str:
        """For a line of a table, without what it is of."""
        place = "off-centre" if self.place == "off-centre" else ""
        if self.what in ("energy", "pointing"):
            place = self.place
        return " ".join(filter(None, (self.what, self.score, place)))


def as_records(values: Mapping[Measure, Any], key: str = "value") -> list[dict[str, Any]]:
    """For JSON: a record each, with the value under a key."""
    return [{**measure._asdict(), key: value} for measure, value in values.items()]


def of_records(records: Sequence[Mapping[str, Any]], key: str = "value") -> dict[Measure, Any]:
    """What `as_records` was given."""
    return {Measure(*(row[name] for name in Measure._fields)): row[key] for row in records}
