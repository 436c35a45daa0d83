"""NIfTI: what leaves the geometry open, or is not all there, is refused by its true reason."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.files import read_file
from scipy.spatial.transform import Rotation

HU = (np.arange(60).reshape(3, 4, 5) * 7 - 900).astype("<i2")
RAS_TO_LPS = np.diag([-1.0, -1, 1, 1])


def affine(turn_deg=(0, 0, 0), flips=(1, 1, 1), spacing=(0.7, 0.8, 2.5)):
    """ijk to RAS."""
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
    matrix[:3, :3] = turn * np.multiply(spacing, flips)
    matrix[:3, 3] = 12, -34, 56.5
    return matrix


PLAIN = affine(flips=(-1, -1, 1))
AFFINES = {
    "axial": PLAIN,
    "left-handed": affine(flips=(-1, 1, 1)),
    "oblique": affine((20, -15, 40)),
    "half turn": affine((180, 0, 0)),
    "sagittal": affine((90, 0, 90), (1, 1, -1)),
}


def write(path, matrix=PLAIN, sform=1, qform=1, kind=nibabel.Nifti1Image, voxels=HU, **header):
    """A file of the voxels; sform and qform are their codes, further names header fields."""
    image = kind(np.transpose(voxels), matrix)
    image.header.set_xyzt_units("mm")
    image.set_sform(matrix, sform)
    image.set_qform(matrix, qform)
    nibabel.save(image, path)
    return patch(path, **header) if header else path


def patch(path, **header):
    """The file with header fields as they are given, none of them checked."""
    data = path.read_bytes()
    zipped = data[:2] == b"\x1f\x8b"
    data = gzip.decompress(data) if zipped else data
    size = int.from_bytes(data[:4], "little")
    kind = {348: nibabel.nifti1.header_dtype, 540: nibabel.nifti2.header_dtype}[size]
    fields = np.frombuffer(data[:size], kind.newbyteorder("<")).copy()
    for name, value in header.items():
        fields[name] = value
    data = fields.tobytes() + data[size:]
    path.write_bytes(gzip.compress(data) if zipped else data)
    return path


def check(image, matrix=PLAIN, voxels=HU, atol=1e-4):
    """The image has the voxels and the geometry."""
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels)
    found = np.eye(4)
    found[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    found[:3, 3] = image.GetOrigin()
    np.testing.assert_allclose(RAS_TO_LPS @ found, matrix, atol=atol)


def refused(path, match):
    with pytest.raises(InputError, match=match) as error:
        read_file(path)
    assert str(error.value).startswith(f"cannot read {path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 1), (4, 4), (1, 2)])
@pytest.mark.parametrize("name", AFFINES)
def test_either_form_places_the_image(tmp_path, name, codes):
    sform, qform = codes
    path = write(tmp_path / "ct.nii.gz", AFFINES[name], sform, qform)
    check(read_file(path).image, AFFINES[name])
    np.testing.assert_allclose(nibabel.load(path).affine, AFFINES[name], atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII", ".NII.GZ"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_both_versions_are_read_packed_and_not(tmp_path, kind, suffix):
    path = write(tmp_path / f"ct{suffix.lower()}", AFFINES["oblique"], kind=kind)
    path = path.rename(tmp_path / f"CT{suffix}")
    check(read_file(path).image, AFFINES["oblique"])


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_big_endian_is_read(tmp_path, kind):
    header = kind.header_class(endianness=">")
    header.set_data_dtype(">i2")
    image = kind(HU.T.astype(">i2"), PLAIN, header)
    image.set_qform(PLAIN, 1)
    nibabel.save(image, tmp_path / "ct.nii")
    check(read_file(tmp_path / "ct.nii").image)


@pytest.mark.parametrize("given", ["ct.hdr", "ct.img"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_either_file_of_a_pair_is_read(tmp_path, kind, given):
    write(tmp_path / "ct.hdr", kind=kind)
    check(read_file(tmp_path / given).image)


def test_a_packed_pair_is_read(tmp_path):
    write(tmp_path / "ct.hdr", kind=nibabel.Nifti1Pair)
    for suffix in (".hdr", ".img"):
        file = tmp_path / f"ct{suffix}"
        (tmp_path / f"ct{suffix}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    check(read_file(tmp_path / "ct.img.gz").image)


def test_a_pair_without_one_half_is_refused(tmp_path):
    write(tmp_path / "ct.hdr", kind=nibabel.Nifti1Pair)
    (tmp_path / "ct.img").rename(tmp_path / "other.img")
    refused(tmp_path / "ct.hdr", r"pair of .hdr and .img, and ct.img is not there")
    refused(tmp_path / "other.img", r"other.hdr is not there")


def test_a_pair_of_unequal_size_is_refused(tmp_path):
    write(tmp_path / "ct.hdr", kind=nibabel.Nifti1Pair)
    file = tmp_path / "ct.img"
    whole = file.read_bytes()
    file.write_bytes(whole[:-2])
    refused(tmp_path / "ct.hdr", "wanted 120 bytes of voxels, got 118")
    file.write_bytes(whole + b"ab")
    refused(tmp_path / "ct.img", "does not belong to its voxels")


def test_a_header_of_the_other_arrangement_is_refused(tmp_path):
    write(tmp_path / "ct.nii").rename(tmp_path / "one.hdr")
    (tmp_path / "one.img").write_bytes(HU.tobytes())
    refused(tmp_path / "one.hdr", "its header is that of a single file: name it so")
    write(tmp_path / "ct.hdr", kind=nibabel.Nifti1Pair)
    (tmp_path / "ct.hdr").rename(tmp_path / "two.nii")
    refused(tmp_path / "two.nii", "its header is that of a pair of .hdr and .img")


def test_analyze_is_refused(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(HU.T, np.diag([1, 1, 2, 1])), tmp_path / "ct.img")
    refused(tmp_path / "ct.hdr", "old Analyze format, which does not tell which way is left")
    refused(tmp_path / "ct.img", "old Analyze format")


@pytest.mark.parametrize("magic", [b"xxxx", b"n+3"])
def test_a_broken_magic_is_damage(tmp_path, magic):
    refused(write(tmp_path / "ct.nii", magic=magic), "damaged: its magic is b'.*', wanted n")


@pytest.mark.parametrize("name", ["ct.nii.GZ", "ct.Nii.gz", "ct.Nii"])
def test_a_suffix_of_mixed_case_is_read(tmp_path, name):
    written = write(tmp_path / ("as.nii.gz" if name.lower().endswith("gz") else "as.nii"))
    check(read_file(written.rename(tmp_path / name)).image)


def moved(matrix, mm):
    matrix = matrix.copy()
    matrix[0, 3] += mm
    return matrix


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (moved(PLAIN, 40), "qform and its sform put it at different places, up to 40.0 mm"),
        (moved(PLAIN, 0.5), "up to 0.5 mm apart"),
        (np.diag([-1, 1, 1, 1]) @ PLAIN, "different places"),
        (PLAIN @ np.diag([-1, 1, 1, 1]), "different places"),
        (affine((0, 0, 20), (-1, -1, 1)), "different places"),
    ],
)
@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 2)])
def test_forms_that_disagree_are_refused(tmp_path, other, codes, match):
    image = nibabel.Nifti1Image(HU.T, PLAIN)
    image.set_sform(other, codes[0])
    image.set_qform(PLAIN, codes[1])
    nibabel.save(image, tmp_path / "ct.nii")
    refused(tmp_path / "ct.nii", match)


@pytest.mark.parametrize("unused", ["sform", "qform"])
def test_a_form_with_code_0_has_no_say(tmp_path, unused):
    image = nibabel.Nifti1Image(HU.T, PLAIN)
    image.set_sform(moved(PLAIN, 40 * (unused == "sform")), int(unused != "sform"))
    image.set_qform(moved(PLAIN, 40 * (unused == "qform")), int(unused != "qform"))
    nibabel.save(image, tmp_path / "ct.nii")
    check(read_file(tmp_path / "ct.nii").image)


def test_rounding_is_no_disagreement(tmp_path):
    image = nibabel.Nifti1Image(HU.T, PLAIN)
    image.set_sform(moved(PLAIN, 0.05), 1)
    image.set_qform(PLAIN, 1)
    nibabel.save(image, tmp_path / "ct.nii")
    check(read_file(tmp_path / "ct.nii").image, atol=0.06)


def sheared(by):
    shear = np.eye(4)
    shear[1, 2] = by * 2.5 / 0.8
    return PLAIN @ shear


@pytest.mark.parametrize("qform", [0, 1])
def test_a_tilted_gantry_is_refused(tmp_path, qform):
    """dcm2niix: the sform is sheared, the qform is not."""
    image = nibabel.Nifti1Image(HU.T, PLAIN)
    image.set_sform(sheared(np.tan(np.radians(15))), 1)
    image.set_qform(PLAIN, qform)
    nibabel.save(image, tmp_path / "ct.nii")
    match = (
        "15.0 degrees off right angles, as in a scan .* tilted gantry. Resample it to an upright"
    )
    refused(tmp_path / "ct.nii", match)


@pytest.mark.parametrize("by", [1e-6, 1e-5, 1e-4, 9e-4])
def test_rounded_direction_cosines_are_no_tilt(tmp_path, by):
    """ITK refuses them from 1e-4."""
    image = nibabel.Nifti1Image(HU.T, sheared(by))
    assert int(image.header["qform_code"]) == 0
    nibabel.save(image, tmp_path / "ct.nii.gz")
    check(read_file(tmp_path / "ct.nii.gz").image, sheared(by))


def test_rounded_direction_cosines_keep_the_scaling(tmp_path):
    path = tmp_path / "ct.nii"
    nibabel.save(nibabel.Nifti1Image(HU.T, sheared(5e-4)), path)
    image = read_file(patch(path, scl_slope=2, scl_inter=-24)).image
    assert image.GetPixelID() == sitk.sitkFloat32
    check(image, sheared(5e-4), HU * 2.0 - 24)
    nibabel.save(nibabel.Nifti1Image(HU.T.astype(">i2"), sheared(5e-4)), path)
    check(read_file(path).image, sheared(5e-4))


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"sform_code": 0, "qform_code": 0}, "does not tell how it lies in the patient"),
        ({"pixdim": [1, 0.7, 0.8, 0, 1, 1, 1, 1]}, "positive spacing as pixdim, got 0.7 x 0.8 x 0"),
        ({"pixdim": [1, 0.7, -0.8, 2.5, 1, 1, 1, 1]}, "positive spacing as pixdim"),
        ({"pixdim": [1, 0.7, np.nan, 2.5, 1, 1, 1, 1]}, "positive spacing as pixdim"),
        ({"pixdim": [1, 0.7, np.inf, 2.5, 1, 1, 1, 1]}, "positive spacing as pixdim"),
        ({"pixdim": [1, 1, 1, 1, 1, 1, 1, 1]}, "contradicts itself: a spacing of 1 x 1 x 1 as pix"),
        (
            {"pixdim": [1, 0.7, 0.8, 5, 1, 1, 1, 1], "qform_code": 0},
            "contradicts itself: .* 0.7 x 0.8 x 5 as pixdim, 0.7 x 0.8 x 2.5 by its sform",
        ),
        ({"srow_x": [np.nan, 0, 0, 1]}, "the sform is not finite"),
        ({"srow_x": [-0.7, 0, 0, np.inf]}, "the sform is not finite"),
        ({"srow_x": [0, 0, 0, 0]}, "0 x 0.8 x 2.5 mm apart"),
        ({"srow_x": [0, 0.8, 0, 0], "srow_y": [0, 0.8, 0, 0]}, "mm apart"),
        ({"quatern_b": np.nan}, "the qform is not finite"),
        ({"qoffset_x": np.nan}, "the qform is not finite"),
        ({"quatern_b": 1, "quatern_c": 1}, "quaternion of its qform is no rotation"),
        ({"quatern_b": 5, "sform_code": 0}, "quaternion of its qform is no rotation"),
        ({"xyzt_units": 5}, "unit of length is unknown: xyzt_units 5"),
        ({"xyzt_units": 1}, "700 x 800 x 2500 mm apart, wanted 0.05 to 50 mm"),
        ({"xyzt_units": 3}, "0.0007 x 0.0008 x 0.0025 mm apart"),
        ({"dim": [0, 5, 4, 3, 1, 1, 1, 1]}, "tells of 0 dimensions"),
        ({"dim": [2, 5, 4, 3, 1, 1, 1, 1]}, r"got 2 dimensions of size \(5, 4\)"),
        ({"dim": [4, 5, 4, 3, 2, 1, 1, 1]}, r"got 4 dimensions of size \(5, 4, 3, 2\)"),
        ({"dim": [5, 5, 4, 3, 1, 3, 1, 1]}, "got 5 dimensions"),
        ({"dim": [3, 5, 4, 0, 1, 1, 1, 1]}, "leaves no voxel"),
        ({"dim": [3, 5, -4, 3, 1, 1, 1, 1]}, "leaves no voxel"),
        ({"dim": [3, 5, 4, 4, 1, 1, 1, 1]}, "wanted 160 bytes of voxels, got 120"),
        ({"dim": [3, 5, 4, 2, 1, 1, 1, 1]}, "does not belong to its voxels"),
        ({"datatype": 16, "bitpix": 32}, "wanted 240 bytes of voxels, got 120"),
        ({"datatype": 16}, "float32 voxels with 16 bits each"),
        ({"datatype": 777}, "no data type 777"),
        ({"datatype": 0, "bitpix": 0}, "header is damaged"),
        ({"datatype": 1, "bitpix": 1}, "header is damaged"),
        ({"datatype": 128, "bitpix": 24}, "with 3 values per voxel"),
        ({"datatype": 32, "bitpix": 64}, "with 2 values per voxel"),
        ({"vox_offset": 0}, "voxels begin at byte 0, not 352"),
        ({"vox_offset": 348}, "voxels begin at byte 348, not 352"),
        ({"vox_offset": np.nan}, "voxels begin at byte nan"),
        ({"vox_offset": 352.5}, "voxels begin at byte 352.5"),
        ({"vox_offset": 400}, "cut short"),
        ({"vox_offset": 1e30}, "voxels begin at byte 1e.30"),
        ({"scl_slope": 0, "scl_inter": -1024}, "scl_slope 0, scl_inter -1024"),
        ({"scl_slope": np.nan, "scl_inter": -1024}, "scaling to Hounsfield units is open"),
        ({"scl_slope": 1, "scl_inter": np.nan}, "scl_slope 1, scl_inter nan"),
        ({"magic": b"xyz"}, "header is damaged: its magic is b'xyz'"),
        ({"sizeof_hdr": 300}, "got an unknown format"),
    ],
)
def test_a_broken_or_open_header_is_refused(tmp_path, header, match):
    refused(write(tmp_path / "ct.nii", **header), match)


@pytest.mark.parametrize(
    "header",
    [
        {"xyzt_units": 0},
        {"xyzt_units": 2 + 8},
        {"xyzt_units": 8},
        {"dim": [4, 5, 4, 3, 1, 1, 1, 1]},
        {"dim": [7, 5, 4, 3, 1, 1, 1, 1]},
        {"bitpix": 0},
        {"scl_slope": 0, "scl_inter": 0},
        {"scl_slope": np.nan, "scl_inter": np.nan},
        {"scl_slope": 1, "scl_inter": 0},
        {"pixdim": [0, 0.7, 0.8, 2.5, 0, 0, 0, 0]},
        {"magic": b"n+1"},
    ],
)
def test_harmless_variants_are_read(tmp_path, header):
    check(read_file(write(tmp_path / "ct.nii", **header)).image)


def test_a_quaternion_rounded_beyond_1_is_a_half_turn(tmp_path):
    """nibabel refuses it: w2 should be positive."""
    turn = affine((180, 0, 0))
    path = write(tmp_path / "ct.nii", turn, sform=0, quatern_b=1.000001)
    check(read_file(path).image, turn)


def test_the_scaling_is_applied(tmp_path):
    path = write(tmp_path / "ct.nii", scl_slope=2, scl_inter=-24)
    check(read_file(path).image, voxels=HU * 2.0 - 24)


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1e3), ("micron", 1e-3), ("mm", 1)])
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1)])
def test_other_units_become_millimetres(tmp_path, unit, mm, codes):
    matrix = np.diag([1 / mm, 1 / mm, 1 / mm, 1]) @ AFFINES["oblique"]
    image = nibabel.Nifti1Image(HU.T, matrix)
    image.header.set_xyzt_units(unit)
    image.set_sform(matrix, codes[0])
    image.set_qform(matrix, codes[1])
    nibabel.save(image, tmp_path / "ct.nii")
    check(read_file(tmp_path / "ct.nii").image, AFFINES["oblique"], atol=1e-3)


@pytest.mark.parametrize("keep", [0.999, 0.9, 0.75, 0.5, 0.1])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_broken_download_is_refused(tmp_path, suffix, keep):
    voxels = np.random.default_rng(0).integers(-1000, 400, (20, 30, 40)).astype(np.int16)
    path = write(tmp_path / f"ct{suffix}", voxels=voxels)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    refused(path, "cut short")


@pytest.mark.parametrize("size", [1, 10, 40, 348, 351])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_that_ends_in_its_header_is_refused(tmp_path, suffix, size):
    path = write(tmp_path / f"ct{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: min(size, len(data) - 9)])
    refused(path, "cut short|breaks off|got an unknown|got text")


def test_one_wrong_byte_in_packed_data_is_refused(tmp_path):
    voxels = np.random.default_rng(0).integers(-1000, 400, (9, 9, 9)).astype(np.int16)
    path = write(tmp_path / "ct.nii.gz", voxels=voxels)
    whole = path.read_bytes()
    for at in [*range(2, 10), *range(400, len(whole), 97), len(whole) - 6, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[at] ^= 0x5A
        path.write_bytes(damaged)
        # A gzip header's time, flags for no use and system may be any.
        if at not in (4, 5, 6, 7, 8, 9):
            refused(path, "compressed data")


def test_padding_and_several_members_are_harmless(tmp_path):
    path = write(tmp_path / "ct.nii")
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 30)
    check(read_file(path).image)
    packed = tmp_path / "ct.nii.gz"
    packed.write_bytes(gzip.compress(whole[:200]) + gzip.compress(whole[200:]) + b"\0" * 512)
    check(read_file(packed).image)
    packed.write_bytes(whole)
    check(read_file(packed).image)


def test_a_wrong_suffix_is_told(tmp_path):
    path = write(tmp_path / "ct.nii.gz")
    refused(path.rename(tmp_path / "ct.nii"), "compressed by gzip: name it .nii.gz")
    path = write(tmp_path / "ct.nii")
    refused(path.rename(tmp_path / "ct.nrrd"), "it is NIfTI: name it .nii")


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_every_type_of_voxel_is_read(tmp_path, dtype):
    voxels = (np.arange(60).reshape(3, 4, 5)).astype(dtype)
    check(read_file(write(tmp_path / "ct.nii", voxels=voxels)).image, voxels=voxels)


def test_what_itk_writes_is_read(tmp_path):
    image = sitk.GetImageFromArray(HU)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-100.125, 50.5, 1e-3))
    turn = Rotation.from_euler("xyz", (33, -12, 71), degrees=True).as_matrix()
    image.SetDirection(turn.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    back = read_file(tmp_path / "ct.nii.gz").image
    np.testing.assert_allclose(back.GetDirection(), turn.ravel(), atol=1e-5)
    np.testing.assert_allclose(back.GetOrigin(), image.GetOrigin(), atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
@pytest.mark.parametrize("kind", ["f4", "f8", ">f4"])
@pytest.mark.parametrize("scaling", [{}, {"scl_slope": 2, "scl_inter": -24}])
def test_voxels_that_are_no_numbers_stay_so(tmp_path, suffix, kind, scaling):
    """ITK makes them 0, which is water."""
    voxels = HU.astype(kind)
    voxels[0, 0] = np.nan
    voxels[1, 1, 0] = -np.inf
    pair = suffix == ".img"
    image = (nibabel.Nifti1Pair if pair else nibabel.Nifti1Image)(
        np.transpose(voxels.astype(kind[-2:])), PLAIN
    )
    nibabel.save(image, tmp_path / f"ct{suffix}")
    if scaling:
        patch(tmp_path / ("ct.hdr" if pair else f"ct{suffix}"), **scaling)
    wanted = voxels * scaling.get("scl_slope", 1) + scaling.get("scl_inter", 0)
    check(read_file(tmp_path / f"ct{suffix}").image, voxels=wanted)


def test_floats_are_read_whatever_the_file_is_called(tmp_path):
    voxels = HU.astype("f4")
    write(tmp_path / "ct.nii", voxels=voxels)
    for name in ("plain.nii.gz", "UPPER.NII"):
        (tmp_path / name).write_bytes((tmp_path / "ct.nii").read_bytes())
        check(read_file(tmp_path / name).image, voxels=voxels)


@pytest.mark.parametrize("decimals", [3, 9])
@pytest.mark.parametrize("turn_deg", [0.01, 0.05, 0.2, 1.0, 6.0])
def test_a_quaternion_near_a_half_turn_is_no_disagreement(tmp_path, turn_deg, decimals):
    """A tenth of a degree in float32 carries the corner of a chest CT by 0.3 mm."""
    rng = np.random.default_rng(0)
    for n in range(12):
        turn = Rotation.from_rotvec(np.radians(rng.uniform(-turn_deg, turn_deg, 3))).as_matrix()
        turn = turn.round(decimals)
        turn[:, 2] = np.cross(turn[:, 0], turn[:, 1])
        turn[:, 2] /= np.linalg.norm(turn[:, 2])
        matrix = np.eye(4)
        matrix[:3, :3] = turn * (-0.9, -0.9, 0.7)
        image = nibabel.Nifti1Image(np.zeros((400, 400, 1), np.int8), matrix)
        image.set_sform(matrix, 1)
        image.set_qform(matrix, 1)
        image.header["pixdim"][1:4] = 0.9, 0.9, 0.7
        path = tmp_path / f"{n}.nii"
        nibabel.save(image, path)
        found = read_file(path).image
        corner = np.array(found.TransformIndexToPhysicalPoint((399, 399, 0)))
        wanted = RAS_TO_LPS[:3, :3] @ (matrix @ [399, 399, 0, 1])[:3]
        np.testing.assert_allclose(corner, wanted, atol=0.3 if decimals == 3 else 0.1)
