"""`contrastdiagnosis-train degrade`: a CT on its own grid, a sheet of all, nothing by halves."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import tyro
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import write_image
from contrastdiagnosis.imaging.phantom import make_phantom
from contrastdiagnosis.imaging.reading.scan_image import LOWEST_HU
from contrastdiagnosis.imaging.volume import Volume, read_volume
from contrastdiagnosis_training.commands import degrade as command
from contrastdiagnosis_training.commands.degrade import Degrade
from contrastdiagnosis_training.data.degradations.degrade import DEGRADATIONS, degrade
from contrastdiagnosis_training.data.degradations.volume import degraded_hu
from contrastdiagnosis_training.evaluation import degradation_sheet as sheet_module
from contrastdiagnosis_training.evaluation.degradation_sheet import degradation_sheet
from engine.test_dicom_phantom import write_scan
from PIL import Image
from scipy.spatial.transform import Rotation

from training.conftest import write_case_folder

SPACING_MM = (1.25, 0.7, 0.8)


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Small tensors."""


@pytest.fixture(scope="module")
def volume():
    """A part of the phantom on an oblique grid of three unequal sides and spacings."""
    hu = make_phantom([], shape=(30, 80, 200), spacing_mm=SPACING_MM).volume.hu[:, 10:50, 18:82]
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (20, -15, 40), degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag([-0.8, -0.7, 1.25])
    affine[:3, 3] = (31.5, -40.25, 112.0)
    return Volume(np.ascontiguousarray(hu), affine)


@pytest.fixture
def ct(tmp_path, volume):
    file = tmp_path / "ct.nrrd"
    write_image(file, volume.hu, volume.ijk_to_ras)
    return file


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return write_case_folder(tmp_path_factory.mktemp("degrade") / "cases", patients=1, context=True)


def parsed(*arguments):
    return tyro.cli(Degrade, args=[str(a) for a in arguments])


# A CT


@pytest.mark.parametrize("operation", DEGRADATIONS)
def test_the_ct_is_degraded_on_its_own_oblique_grid(tmp_path, ct, volume, capsys, operation):
    out = tmp_path / "new" / "poor.nii.gz"
    parsed(ct, "--operation", operation, "--severity", 4, "--seed", 9, "--out", out).run()
    written = read_volume(out)
    assert written.hu.dtype == np.int16
    np.testing.assert_allclose(written.ijk_to_ras, volume.ijk_to_ras, atol=1e-4)
    assert np.allclose(written.spacing_mm, SPACING_MM, atol=1e-5)
    hu = torch.from_numpy(volume.hu).float()[None]
    wanted = degrade(hu, [operation], torch.tensor([4]), SPACING_MM, [9])[0]
    assert np.abs(written.hu - wanted.clamp(min=LOWEST_HU).numpy()).max() < 0.6
    told = capsys.readouterr().out
    assert told == f"wrote {out}: {ct} with {operation} 4 of 5, seed 9\n"
    assert os.listdir(out.parent) == [out.name]


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_both_kinds_of_file_hold_the_same(tmp_path, ct, suffix):
    out = tmp_path / f"poor{suffix}"
    Degrade(ct, "low_dose", 5, out).run()
    image = sitk.ReadImage(str(out))
    assert image.GetPixelID() == sitk.sitkInt16
    first = sitk.GetArrayFromImage(image)
    Degrade(ct, "low_dose", 5, out).run()  # What was written there before may be written again.
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out))), first)
    Degrade(ct, "low_dose", 5, out, seed=1).run()
    assert not np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out))), first)


def test_a_folder_of_dicom_slices_is_degraded(tmp_path, volume):
    folder = write_scan(tmp_path / "dicom", volume.hu[:6])
    Degrade(folder, "blur", 2, tmp_path / "poor.nrrd").run()
    before, after = read_volume(folder), read_volume(tmp_path / "poor.nrrd")
    np.testing.assert_allclose(after.ijk_to_ras, before.ijk_to_ras, atol=1e-6)
    assert after.hu.shape == before.hu.shape
    assert after.hu.std() < before.hu.std()


def test_a_missing_intercept_can_be_mended(tmp_path, volume):
    write_image(tmp_path / "raw.nrrd", volume.hu + np.int16(1024), volume.ijk_to_ras)
    out = tmp_path / "poor.nrrd"
    with pytest.raises(InputError, match="add -1024 to its voxels"):
        Degrade(tmp_path / "raw.nrrd", "blur", 1, out).run()
    assert not out.exists()
    Degrade(tmp_path / "raw.nrrd", "blur", 1, out, hu_offset=-1024).run()
    assert np.array_equal(read_volume(out).hu, degraded_hu(volume, "blur", 1, 0))


@pytest.mark.parametrize("operation", ["blur", "sharp_kernel", "motion", "thick_slices"])
@pytest.mark.parametrize(("padding", "dtype"), [(-2000, np.int16), (62512, np.int32)])
def test_padding_stays_padding_and_does_not_leak(volume, operation, padding, dtype):
    hu = volume.hu.astype(dtype)
    hu[:, :, -12:] = padding
    air = np.where(hu == padding, -1000, hu)
    made = degraded_hu(Volume(hu, volume.ijk_to_ras), operation, 5, 3)
    wanted = degraded_hu(Volume(air, volume.ijk_to_ras), operation, 5, 3)
    assert (made[:, :, -12:] == -32768).all()
    assert np.array_equal(made[:, :, :-12], wanted[:, :, :-12])


def test_what_was_measured_is_not_taken_for_padding(volume):
    hu = volume.hu.copy()
    hu[:, ::4] = -1490
    hu[0, 1, 0] = 32767
    made = degraded_hu(Volume(hu, volume.ijk_to_ras), "low_dose", 5, 0)
    assert made.min() == LOWEST_HU
    assert made[0, 1, 0] > 32000  # Not gone round to -32768.


# A sheet


def test_the_sheet_has_a_row_an_operation_and_a_column_a_severity(tmp_path, cases, capsys):
    out = tmp_path / "sheet.png"
    parsed("--sheet", out, "--cases", cases, "--nodule", 2, "--seed", 4).run()
    assert capsys.readouterr().out == f"wrote {out}: P000_1 in every degradation, seed 4\n"
    sheet = np.asarray(Image.open(out))
    scan = read_scan(read_case_folder(cases)[1])
    assert np.array_equal(sheet, np.asarray(degradation_sheet(scan, 4)))
    tiles = tiles_of(sheet)
    for row, operation in enumerate(DEGRADATIONS):
        same = np.array_equal(tiles[row][0], tiles[0][0])
        assert same == (operation != "thick_slices")
        changes = [np.abs(t.astype(int) - tiles[row][0]).mean() for t in tiles[row]]
        assert changes[5] > changes[1] > 0
        if operation != "thick_slices":
            assert changes == sorted(changes)


def tiles_of(sheet):
    size, step = sheet_module.TILE_PX, sheet_module.TILE_PX + sheet_module.GAP_PX
    top, left = sheet_module.HEAD_PX, sheet_module.SIDE_PX
    assert sheet.shape == (top + len(DEGRADATIONS) * step, left + 6 * step, 3)
    return [
        [sheet[top + r * step :, left + c * step :][:size, :size] for c in range(6)]
        for r in range(len(DEGRADATIONS))
    ]


def test_a_tile_shows_the_nodule_in_its_middle_in_millimetres():
    """A box of 6 x 10 x 20 mm, its ends told apart, on a grid of three spacings."""
    spacing_mm = (1.25, 0.5, 0.8)
    hu = np.full((60, 160, 90), -850, dtype=np.int16)
    hu[20:25, 90:110, 31:56] = 150
    hu[24, 90:110, 31:56] = -300
    share = np.zeros(hu.shape, dtype=np.float32)
    share[20:25, 90:110, 31:56] = 1
    affine = np.diag([-0.8, -0.5, 1.25, 1])
    sheet = degradation_sheet(sheet_module.NoduleScan(Volume(hu, affine), share), 0)
    shown = [DEGRADATIONS.index(name) for name in ("low_dose", "thick_slices")]
    axial, coronal = (tiles_of(np.asarray(sheet))[r][0][..., 0] > 130 for r in shown)
    scale = sheet_module.TILE_PX / sheet_module.SHOWN_MM
    for tile, down_mm in ((axial, 10.0), (coronal, 5 * spacing_mm[0])):
        rows, columns = np.flatnonzero(tile.any(axis=1)), np.flatnonzero(tile.any(axis=0))
        assert len(rows) / scale == pytest.approx(down_mm, abs=0.8)
        assert len(columns) / scale == pytest.approx(20, abs=0.8)
        assert columns.mean() / scale == pytest.approx(23, abs=1)
        assert rows.mean() / scale == pytest.approx(23, abs=1)
    # The slice nearest to the head, here the dim one, is on top.
    grey = tiles_of(np.asarray(sheet))[shown[1]][0][..., 0].astype(int)
    rows = np.flatnonzero(coronal.any(axis=1))
    assert grey[rows[2], 75] < grey[rows[-3], 75] - 40


def test_padding_is_air_on_the_sheet(cases):
    scan = read_scan(read_case_folder(cases)[0])
    hu = scan.volume.hu.copy()
    hu[:, :, :30] = -3024
    padded = sheet_module.NoduleScan(Volume(hu, scan.volume.ijk_to_ras), scan.share)
    hu = np.where(hu == -3024, np.int16(-1000), hu)
    air = sheet_module.NoduleScan(Volume(hu, scan.volume.ijk_to_ras), scan.share)
    assert degradation_sheet(padded, 0).tobytes() == degradation_sheet(air, 0).tobytes()


# What is refused, and what is left behind


@pytest.mark.parametrize(
    "change",
    [
        {"out": None}, {"severity": None}, {"operation": None}, {"ct": None}, {"sheet": "s.png"},
        {"cases": "c"}, {"ct": None, "operation": None, "severity": None, "out": None},
        {"ct": None, "operation": None, "severity": None, "out": None, "sheet": "s.png"},
        {"ct": None, "operation": None, "severity": None, "sheet": "s.png", "cases": "c"},
    ],
)  # fmt: skip
def test_one_of_both_is_wanted_whole(tmp_path, ct, change):
    whole = {"ct": ct, "operation": "ring", "severity": 3, "out": tmp_path / "poor.nrrd"}
    change = {n: tmp_path / v if v is not None else v for n, v in change.items()}
    with pytest.raises(InputError, match="wanted a CT with --operation, --severity and --out, or"):
        Degrade(**{**whole, **change}).run()
    assert os.listdir(tmp_path) == ["ct.nrrd"]


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_a_severity_beyond_the_scale_is_refused(tmp_path, ct, severity):
    with pytest.raises(InputError, match=f"wanted a severity from 1 to 5, got {severity}"):
        Degrade(ct, "ring", severity, tmp_path / "poor.nrrd").run()


def test_an_unknown_operation_is_refused(ct, capsys):
    with pytest.raises(SystemExit):
        parsed(ct, "--operation", "rain", "--severity", 3, "--out", "poor.nrrd")
    assert "rain" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["poor.png", "poor", "poor.dcm", "poor.mhd"])
def test_a_name_that_no_image_format_has_is_refused(tmp_path, ct, name):
    with pytest.raises(InputError, match="its name must end in .nii.gz"):
        Degrade(ct, "ring", 3, tmp_path / name).run()


def test_the_input_is_never_written_over(tmp_path, ct):
    before = ct.read_bytes()
    os.link(ct, tmp_path / "linked.nrrd")
    (tmp_path / "pointer.nrrd").symlink_to(ct)
    for name in ("ct.nrrd", "linked.nrrd", "pointer.nrrd"):
        with pytest.raises(InputError, match="cannot write the degraded CT .* part of the input"):
            Degrade(ct, "ring", 3, tmp_path / name).run()
    assert ct.read_bytes() == before


def test_what_is_not_there_is_told_also_where_the_output_is(tmp_path, ct):
    missing = tmp_path / "missing.nrrd"
    with pytest.raises(InputError, match=f"no file or folder at {missing}"):
        Degrade(missing, "ring", 3, ct).run()
    (tmp_path / "sheet.png").touch()
    with pytest.raises(InputError, match=f"no file or folder at {missing}"):
        Degrade(sheet=tmp_path / "sheet.png", cases=missing).run()


@pytest.mark.parametrize("failing", ["degraded_hu", "write_image"])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, ct, monkeypatch, failing):
    out = tmp_path / "poor.nrrd"
    out.write_bytes(b"old")

    def fail(*_):
        raise InputError("full")

    monkeypatch.setattr(command, failing, fail)
    with pytest.raises(InputError, match="full"):
        Degrade(ct, "ring", 3, out).run()
    assert out.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["ct.nrrd", "poor.nrrd"]


def test_a_sheet_is_a_png(tmp_path, cases):
    with pytest.raises(InputError, match="its name must end in .png"):
        Degrade(sheet=tmp_path / "sheet.jpg", cases=cases).run()


@pytest.mark.parametrize("nodule", [0, 3, -1])
def test_a_nodule_that_the_folder_does_not_hold_is_refused(tmp_path, cases, nodule):
    with pytest.raises(InputError, match=f"wanted a nodule from 1 to 2 of .*, got {nodule}"):
        Degrade(sheet=tmp_path / "sheet.png", cases=cases, nodule=nodule).run()
    assert not (tmp_path / "sheet.png").exists()


def test_no_file_of_the_case_folder_is_written_over(tmp_path, cases):
    picture = io.BytesIO()
    Image.new("L", (2, 2)).save(picture, format="PNG")
    (cases / "seen.png").write_bytes(picture.getvalue())
    with pytest.raises(InputError, match="cannot write the sheet .* part of the input"):
        Degrade(sheet=cases / "seen.png", cases=cases).run()
    assert (cases / "seen.png").read_bytes() == picture.getvalue()
