"""The command `contrastdiagnosis`: demo, diagnose, serve, cases, bundle."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

from contrastdiagnosis import RESEARCH_USE_NOTICE
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.output import check_image_name, check_writable, write_file, write_image
from contrastdiagnosis.serve import Serve

if TYPE_CHECKING:
    from contrastdiagnosis.bundle import Bundle
    from contrastdiagnosis.diagnoser import Diagnosis
    from contrastdiagnosis.explanation import Explanation
    from contrastdiagnosis.volume import Volume

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Diagnose:
    """Diagnose the nodule at a point of a CT."""

    ct: tyro.conf.Positional[Path]
    """NRRD, NIfTI or MetaImage file, or a folder of DICOM slices."""
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

    def run(self) -> None:
        """Reads, diagnoses, prints, writes."""
        from contrastdiagnosis.bundle import default_bundle_folder, load_bundle
        from contrastdiagnosis.diagnoser import Diagnoser, choose_device
        from contrastdiagnosis.volume import read_volume

        for path in (self.json, self.report, self.mask, self.maps and self.maps / "maps"):
            check_writable(path)
        check_image_name(self.mask)
        choose_device(self.device)
        bundle = load_bundle(self.bundle or default_bundle_folder())
        volume = read_volume(self.ct, self.series, self.hu_offset)
        point = self._point_ras_mm(volume)
        diagnoser = Diagnoser(bundle, self.device)
        diagnosis = diagnoser.diagnose(volume, point, self.patient)
        explained = self.report or self.maps
        explanations = diagnoser.explain(diagnosis) if explained else ()
        write_outputs(self, diagnosis, explanations, volume, bundle)

    def _point_ras_mm(self, volume: Volume) -> np.ndarray:
        given = [p for p in (self.ras, self.lps, self.ijk) if p is not None]
        if len(given) != 1:
            raise InputError(f"wanted one of --ras, --lps and --ijk, got {len(given)}")
        if self.ijk is not None:
            return volume.ras_from_ijk(self.ijk)
        return np.array(given[0]) * ([-1, -1, 1] if self.lps is not None else [1, 1, 1])


@dataclass(frozen=True)
class Demo:
    """Draw a phantom chest CT, diagnose one of its nodules, write the report."""

    out: Path = Path("out/demo")
    """Folder for the CT, the mask, the JSON and the report."""
    nodule: int = 0
    """Which of the phantom's nodules: 0 spiculated, 1 calcified, 2 ground-glass, 3 smooth."""
    seed: int = 0
    """Draws another patient."""
    bundle: Path | None = None
    """Bundle folder; the one that comes with the program if not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs."""

    def run(self) -> None:
        """Makes the CT and goes the way of every diagnosis."""
        from contrastdiagnosis.phantom import DEMO_NODULES, make_phantom

        if not 0 <= self.nodule < len(DEMO_NODULES):
            raise InputError(f"nodule must be 0 to {len(DEMO_NODULES) - 1}, got {self.nodule}")
        ct = self.out / "phantom.nii.gz"
        check_writable(ct)
        print("Drawing a phantom chest CT ...")
        phantom = make_phantom(seed=self.seed)
        write_image(ct, phantom.volume.hu, phantom.volume.ijk_to_ras)
        r, a, s = DEMO_NODULES[self.nodule].center_ras_mm
        print(f"{ct}: diagnosing the nodule at {r:g} {a:g} {s:g} mm RAS\n")
        Diagnose(
            ct,
            ras=(r, a, s),
            json=self.out / "diagnosis.json",
            report=self.out / "report.html",
            mask=self.out / "mask.nii.gz",
            bundle=self.bundle,
            device=self.device,
        ).run()


@dataclass(frozen=True)
class ListCases:
    """List the cases of a bundle."""

    bundle: Path | None = None
    """Bundle folder; the one that comes with the program if not given."""
    label: Literal["all", "malignant", "benign"] = "all"
    """Only cases of this label."""

    def run(self) -> None:
        """Prints one line a case."""
        from contrastdiagnosis.bundle import default_bundle_folder, load_bundle

        bundle = load_bundle(self.bundle or default_bundle_folder())
        print(f"{'case':24} {'label':10} {'mm':>5} {'malignancy':>10}  pixels  series")
        shown = 0
        for case in bundle.library.cases:
            kind = "malignant" if case.malignant else "benign"
            if self.label in ("all", kind):
                shown += 1
                rating = case.ratings.get("malignancy", float("nan"))
                pixels = "yes" if bundle.pixels.has(case.case_id) else "no"
                print(
                    f"{case.case_id:24} {kind:10} {case.diameter_mm:5.1f} {rating:10.2f}  "
                    f"{pixels:6}  {case.series_uid}"
                )
        print(f"{shown} of {len(bundle.library)} cases")


@dataclass(frozen=True)
class AddPixels:
    """Add pictures of a bundle's cases from a local copy of their images."""

    source: Annotated[Path, tyro.conf.arg(name="from")]
    """Case folder: nodules.csv, image/ and votes/ or mask/."""
    bundle: Path | None = None
    """Bundle folder; the one that comes with the program if not given."""

    def run(self) -> None:
        """Crops and stores the patch of every case that the folder holds."""
        from contrastdiagnosis.bundle import default_bundle_folder, load_bundle
        from contrastdiagnosis.case_folder import case_pixels, read_case_folder

        bundle = load_bundle(self.bundle or default_bundle_folder())
        wanted = {case.case_id for case in bundle.library.cases}
        found = [nodule for nodule in read_case_folder(self.source) if nodule.case_id in wanted]
        if not found:
            raise InputError(
                f"{self.source} holds none of the bundle's {len(wanted)} cases; case ids look like"
                f" {bundle.library.cases[0].case_id}"
            )
        check_writable(bundle.pixels.folder / "pixels")
        for nodule in found:
            bundle.pixels.write(nodule.case_id, case_pixels(nodule, bundle.info.geometry))
        print(f"pixels of {len(found)} of {len(wanted)} cases are now in {bundle.pixels.folder}")


@dataclass(frozen=True)
class BundleCommand:
    """Check a bundle: schema, checksums, shapes, cases."""

    action: tyro.conf.Positional[Literal["verify"]]
    """What to do."""
    folder: tyro.conf.Positional[Path]
    """Bundle folder."""

    def run(self) -> None:
        """Loads it the way a diagnosis does and says what it holds."""
        from contrastdiagnosis.bundle import load_bundle

        bundle = load_bundle(self.folder)
        malignant = int(bundle.library.malignant.sum())
        size = sum(f.stat().st_size for f in self.folder.iterdir() if f.is_file()) / 1e6
        print(
            f"{self.folder}: {bundle.info.name} {bundle.info.version} is sound: {size:.1f} MB,"
            f" {len(bundle.library)} cases, {malignant} malignant"
        )


@dataclass(frozen=True)
class Cases:
    """List the cases of a bundle, or add their pictures."""

    command: Annotated[
        Annotated[ListCases, tyro.conf.subcommand("list")]
        | Annotated[AddPixels, tyro.conf.subcommand("add-pixels")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        """Runs the chosen command."""
        self.command.run()


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Cases, tyro.conf.subcommand("cases")]
    | Annotated[BundleCommand, tyro.conf.subcommand("bundle")]
)


def write_outputs(
    wanted: Diagnose,
    diagnosis: Diagnosis,
    explanations: Sequence[Explanation],
    volume: Volume,
    bundle: Bundle,
) -> None:
    """Writes what was asked for and prints the diagnosis."""
    from contrastdiagnosis.report import render_report
    from contrastdiagnosis.summary import summarise, summary_text

    summary = summarise(diagnosis, volume, bundle.info, explanations)
    if wanted.json:
        write_file(wanted.json, (json.dumps(summary, indent=1) + "\n").encode())
    if wanted.report:
        html = render_report(diagnosis, volume, bundle, explanations)
        write_file(wanted.report, html.encode())
    if wanted.mask:
        write_image(wanted.mask, diagnosis.mask.full().astype(np.uint8), volume.ijk_to_ras)
    if wanted.maps:
        write_maps(wanted.maps, diagnosis, explanations, volume)
    print(summary_text(summary))
    for file in (wanted.json, wanted.report, wanted.mask, wanted.maps):
        if file:
            print(f"wrote {file}")


def write_maps(
    folder: Path, diagnosis: Diagnosis, explanations: Sequence[Explanation], volume: Volume
) -> None:
    """One NRRD a case and sign on the CT's own grid: case1_similar.nrrd, case1_different.nrrd..."""
    from contrastdiagnosis.explanation import SIGNS, map_on_volume

    for number, explanation in enumerate(explanations, start=1):
        for sign in SIGNS:
            evidence = explanation.query.of_sign(sign)
            placed = map_on_volume(evidence, diagnosis.encoding.patch, volume).full()
            file = folder / f"case{number}_{sign}.nrrd"
            write_image(file, placed.astype(np.float32), volume.ijk_to_ras)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 on success, 2 where the user must mend something."""
    command = tyro.cli(
        Command, prog="contrastdiagnosis", description=RESEARCH_USE_NOTICE, args=arguments
    )
    try:
        command.run()
    except InputError as error:
        print(f"contrastdiagnosis: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("contrastdiagnosis: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
