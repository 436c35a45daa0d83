"""The command `contrastdiagnosis diagnose`: a point of a CT, and what is written about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import tyro

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_image_name, check_outputs, write_file, write_image
from contrastdiagnosis.protocol.map_variant import SIGNS, LocalCam, Sign, checked_signs

if TYPE_CHECKING:
    from contrastdiagnosis.diagnosis.diagnoser import Diagnoser, Diagnosis
    from contrastdiagnosis.imaging.volume import Volume
    from contrastdiagnosis.maps.explanation import Explanation

Point = tuple[float, float, float]


class Answer(NamedTuple):
    """A diagnosis with what it came from."""

    diagnosis: Diagnosis
    volume: Volume
    diagnoser: Diagnoser


@dataclass(frozen=True)
class Diagnose:
    """Diagnose the nodule at a point of a CT."""

    ct: tyro.conf.Positional[Path]
    """NRRD, NIfTI, MetaImage or multi-frame DICOM file, or a folder or .zip of DICOM slices."""
    ras: Point | None = None
    """The point in RAS millimetres, as Slicer shows it."""
    lps: Point | None = None
    """The point in LPS millimetres, as DICOM and ITK have it."""
    ijk: Point | None = None
    """The point as voxel indices (i, j, k)."""
    json: Path | None = None
    """Write the diagnosis here."""
    report: Path | None = None
    """Write the HTML report here."""
    mask: Path | None = None
    """Write the nodule's mask here, on the CT's own grid (.nii.gz, .nrrd, .mha)."""
    maps: Path | None = None
    """Folder for the maps of similar and different evidence against each shown case, on the CT's
    own grid."""
    signs: tuple[Sign, ...] = SIGNS
    """Which of them --maps writes."""
    map: LocalCam = LocalCam()
    """How the maps of --maps and --report are made."""
    bundle: Path | None = None
    """Bundle folder; the one that comes with the program if not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs."""
    series: str | None = None
    """Series UID, where a DICOM folder holds several."""
    hu_offset: float = 0
    """Added to every voxel; -1024 mends a CT stored without its rescale intercept."""
    patient: str | None = None
    """Patient id of the CT, if its own nodules may be among the cases."""

    anonymous: bool = False
    """Leave the CT's file name and series UID out of everything that is written and printed. The
    cases that are shown are the bundle's, and stay."""

    def run(self) -> None:
        """Reads, diagnoses, prints, writes."""
        write_outputs(self, self.answer())

    def outputs(self) -> dict[str, Path | None]:
        """Every file that will be written, by what it is."""
        from contrastdiagnosis.diagnosis.diagnoser import SHOWN_CASES

        maps = []
        if self.maps is not None:
            numbers = range(1, SHOWN_CASES + 1)
            maps = [self.maps / map_file(n, sign) for n in numbers for sign in self.signs]
        given = {"the JSON": self.json, "the report": self.report, "the mask": self.mask}
        return given | {f"the map {file.name}": file for file in maps}

    def answer(self, also_read: Sequence[Path] = ()) -> Answer:
        """Reads and diagnoses; refuses outputs that could not be written before the work.

        Args:
            also_read: Files besides the CT that no output may overwrite.
        """
        from contrastdiagnosis.bundle.bundle import INFO_FILE, default_bundle_folder, load_bundle
        from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
        from contrastdiagnosis.imaging.volume import read_volume
        from contrastdiagnosis.model.device import choose_device

        self._check_map_options()
        check_image_name(self.mask)
        folder = self.bundle or default_bundle_folder()
        check_outputs(self.outputs(), [self.ct, folder, folder / INFO_FILE, *also_read])
        choose_device(self.device)
        bundle = load_bundle(folder)
        volume = read_volume(self.ct, self.series, self.hu_offset)
        point = self._point_ras_mm(volume)
        diagnoser = Diagnoser(bundle, self.device)
        diagnosis = diagnoser.diagnose(volume, point, self.patient)
        if self.anonymous:
            volume = replace(volume, name="", series_uid="")
        return Answer(diagnosis, volume, diagnoser)

    def _check_map_options(self) -> None:
        checked_signs(self.signs)
        if self.maps is None and self.signs != SIGNS:
            raise InputError("--signs says which maps --maps writes, and there is no --maps")
        if self.maps is None and self.report is None and self.map != LocalCam():
            raise InputError("--map says how maps are made: wanted --maps or --report with it")

    def _point_ras_mm(self, volume: Volume) -> np.ndarray:
        given = [p for p in (self.ras, self.lps, self.ijk) if p is not None]
        if len(given) != 1:
            raise InputError(f"wanted one of --ras, --lps and --ijk, got {len(given)}")
        if self.ijk is not None:
            return volume.ras_from_ijk(self.ijk)
        return np.array(given[0]) * ([-1, -1, 1] if self.lps is not None else [1, 1, 1])


def write_outputs(wanted: Diagnose, answer: Answer, more: Mapping[str, Any] | None = None) -> None:
    """Writes what was asked for and prints the diagnosis.

    Args:
        wanted: Names the files.
        answer: What they are about.
        more: Goes into the JSON too.
    """
    from contrastdiagnosis.report.screen import render_report
    from contrastdiagnosis.report.summary import summarise, summary_text

    diagnosis, volume, diagnoser = answer
    explanations: Sequence[Explanation] = ()
    if wanted.report or wanted.maps:
        explanations = diagnoser.explain(diagnosis, wanted.map)
    summary = summarise(diagnosis, volume, diagnoser.bundle.info, explanations)
    # Pictures of the bundle may be damaged: nothing is written before all have been read.
    html = ""
    if wanted.report:
        html = render_report(diagnosis, volume, diagnoser.bundle, explanations)
    if wanted.json:
        document = {**summary, **(more or {})}
        write_file(wanted.json, (json.dumps(document, indent=1) + "\n").encode())
    if wanted.report:
        write_file(wanted.report, html.encode())
    if wanted.mask:
        write_image(wanted.mask, diagnosis.mask.full().astype(np.uint8), volume.ijk_to_ras)
    if wanted.maps:
        write_maps(wanted.maps, diagnosis, explanations, volume, wanted.signs)
    print(summary_text(summary))
    for file in (wanted.json, wanted.report, wanted.mask, wanted.maps):
        if file:
            print(f"wrote {file}")


def map_file(number: int, sign: Sign) -> str:
    """Name of the map of a shown case, from 1 on."""
    return f"case{number}_{sign}.nrrd"


def write_maps(
    folder: Path,
    diagnosis: Diagnosis,
    explanations: Sequence[Explanation],
    volume: Volume,
    signs: Sequence[Sign] = SIGNS,
) -> None:
    """One NRRD a case and sign on the CT's own grid: case1_similar.nrrd, case1_different.nrrd..."""
    from contrastdiagnosis.maps.explanation import map_on_volume

    for number, explanation in enumerate(explanations, start=1):
        for sign in checked_signs(signs):
            evidence = explanation.query.of_sign(sign)
            placed = map_on_volume(evidence, diagnosis.encoding.patch, volume).full()
            write_image(
                folder / map_file(number, sign), placed.astype(np.float32), volume.ijk_to_ras
            )
