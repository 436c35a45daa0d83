"""`contrastdiagnosis-train degrade`: a CT as poorer scans show it, or a sheet of all."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import tyro
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_image_name, check_outputs, write_file, write_image
from contrastdiagnosis.imaging.volume import read_volume

from contrastdiagnosis_training.data.degradations.degrade import WORST, Operation
from contrastdiagnosis_training.data.degradations.volume import degraded_hu
from contrastdiagnosis_training.evaluation.degradation_sheet import degradation_sheet


@dataclass(frozen=True)
class Degrade:
    """Degrade a CT, or draw a sheet of a nodule in all degradations.

    For a CT give CT, --operation, --severity and --out; for a sheet --sheet and --cases.
    """

    ct: tyro.conf.Positional[Path | None] = None
    """NRRD, NIfTI, MetaImage or multi-frame DICOM file, or a folder or .zip of DICOM slices."""
    operation: Operation | None = None
    """What is done to the CT."""
    severity: int | None = None
    """How badly, from 1 to 5."""
    out: Path | None = None
    """Write the degraded CT here, on the CT's own grid (.nii.gz, .nrrd, .mha)."""
    sheet: Path | None = None
    """Write the picture sheet here (.png)."""
    cases: Path | None = None
    """Case folder with the nodule of the sheet."""
    nodule: int = 1
    """Which row of its nodules.csv, from 1 on."""
    seed: int = 0
    """Fixes what is drawn: noise, places, directions."""
    series: str | None = None
    """Series UID, where a DICOM folder holds several."""
    hu_offset: float = 0
    """Added to every voxel before; -1024 mends a CT stored without its rescale intercept."""

    def run(self) -> None:
        """Reads, degrades, writes, and says what was done."""
        match self.ct, self.operation, self.severity, self.out, self.sheet, self.cases:
            case Path() as ct, str() as operation, int() as severity, Path() as out, None, None:
                self._write_ct(ct, operation, severity, out)
            case None, None, None, None, Path() as sheet, Path() as cases:
                self._write_sheet(sheet, cases)
            case _:
                raise InputError(
                    "wanted a CT with --operation, --severity and --out, or --sheet and --cases"
                    " alone"
                )

    def _write_ct(self, ct: Path, operation: Operation, severity: int, out: Path) -> None:
        if not 1 <= severity <= WORST:
            raise InputError(f"wanted a severity from 1 to {WORST}, got {severity}")
        check_image_name(out)
        _check_output("the degraded CT", out, ct)
        volume = read_volume(ct, self.series, self.hu_offset)
        hu = degraded_hu(volume, operation, severity, self.seed)
        write_image(out, hu, volume.ijk_to_ras)
        print(f"wrote {out}: {ct} with {operation} {severity} of {WORST}, seed {self.seed}")

    def _write_sheet(self, sheet: Path, cases: Path) -> None:
        if sheet.suffix != ".png":
            raise InputError(f"cannot write {sheet}: its name must end in .png")
        _check_output("the sheet", sheet, cases)
        nodules = read_case_folder(cases)
        if not 1 <= self.nodule <= len(nodules):
            raise InputError(
                f"wanted a nodule from 1 to {len(nodules)} of {cases}, got {self.nodule}"
            )
        nodule = nodules[self.nodule - 1]
        stream = io.BytesIO()
        degradation_sheet(read_scan(nodule), self.seed).save(stream, format="PNG")
        write_file(sheet, stream.getvalue())
        print(f"wrote {sheet}: {nodule.case_id} in every degradation, seed {self.seed}")


def _check_output(name: str, file: Path, given: Path) -> None:
    if not given.exists():
        raise InputError(f"no file or folder at {given}")
    check_outputs({name: file}, [given])
