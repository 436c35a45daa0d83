"""The command `contrastdiagnosis`: demo, diagnose, revise, serve, cases, bundle, clients."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from contrastdiagnosis import RESEARCH_USE_NOTICE
from contrastdiagnosis.commands.bundle import BundleCommand
from contrastdiagnosis.commands.command_line import (
    exit_code_of,
    speak_to_any_terminal,
    tells_version,
)
from contrastdiagnosis.commands.diagnose import Diagnose
from contrastdiagnosis.commands.revise import Revise
from contrastdiagnosis.commands.serve import Serve
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_writable, write_image
from contrastdiagnosis.service.clients import ClientsCommand


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
        from contrastdiagnosis.imaging.phantom import DEMO_NODULES, make_phantom

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
        from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle

        bundle = load_bundle(self.bundle or default_bundle_folder())
        told = bundle.info.case_source.malignancy
        width = max(len(told), 10)
        print(f"{'case':24} {'label':10} {'mm':>5} {told:>{width}}  pixels  series")
        shown = 0
        for case in bundle.library.cases:
            kind = "malignant" if case.malignant else "benign"
            if self.label in ("all", kind):
                shown += 1
                rating = case.ratings.get(told, float("nan"))
                pixels = "yes" if bundle.pixels.has(case.case_id) else "no"
                print(
                    f"{case.case_id:24} {kind:10} {case.diameter_mm:5.1f} {rating:{width}.2f}  "
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
        """Samples and stores the patch of every case that the folder holds."""
        from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
        from contrastdiagnosis.cases.case_folder import case_pixels, read_case_folder

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
    | Annotated[Revise, tyro.conf.subcommand("revise")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Cases, tyro.conf.subcommand("cases")]
    | Annotated[BundleCommand, tyro.conf.subcommand("bundle")]
    | Annotated[ClientsCommand, tyro.conf.subcommand("clients")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 on success, 2 where the user must mend something."""
    speak_to_any_terminal()
    if tells_version(arguments, "contrastdiagnosis"):
        return 0
    command = tyro.cli(
        Command, prog="contrastdiagnosis", description=RESEARCH_USE_NOTICE, args=arguments
    )
    return exit_code_of(command, "contrastdiagnosis")


if __name__ == "__main__":
    sys.exit(main())
