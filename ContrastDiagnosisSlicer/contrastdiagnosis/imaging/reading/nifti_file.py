"""NIfTI: what its header tells, and whether its voxels are all there.

Format: https://nifti.nimh.nih.gov/nifti-1. Voxels are read by ITK, which fills up with zeros what a
file lacks, takes its pick of a qform and an sform that differ, and places a scan without either at
the scanner's centre. Floating-point voxels are not left to it: it turns NaN into 0, which is water.
"""

from __future__ import annotations

import gzip
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.image_header import (
    MAX_CORNER_GAP_MM,
    ImageHeader,
    axes_cosine,
    check_axes,
    check_size,
    corner_gap_mm,
    header_of,
)
from contrastdiagnosis.imaging.reading.stored_bytes import (
    GZIP,
    check_plain,
    check_stored,
    first_bytes,
    is_gzip,
    unpacked_size,
)

SINGLE_SUFFIXES = (".nii", ".nii.gz")
_PAIR = {".hdr": ".img", ".hdr.gz": ".img.gz"}

_ITK_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".NII", ".NII.GZ", ".HDR", ".HDR.GZ")
"""ITK refuses others, such as .nii.GZ."""

_HEADER_BYTES = {348: Nifti1Header, 540: Nifti2Header}
_MAGIC_BYTES = 540

_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""By `xyzt_units`; programs that leave the unit out (0) write millimetres."""

_TO_LPS = np.array([-1.0, -1.0, 1.0])
"""Signs that turn NIfTI's RAS vectors into ITK's."""

_MAX_OFFSET = 1 << 53
_MAX_QUATERNION_EXCESS = 1e-3
_ITK_AXES_COSINE = 1e-6
_MAX_FORMS_TURN = 1.5e-3
"""Of an sform from the qform, in voxels: near half turns, as in every axial CT, the float32 of a
quaternion is good to 7e-4, and the sform of dcm2niix keeps cosines of three decimals."""

_MAX_SPACING_ERROR = 1e-3
"""Of pixdim from the length of the sform's columns, relative."""


def is_nifti(head: bytes) -> bool:
    """Whether a file that begins so, unpacked, is NIfTI or its forerunner Analyze."""
    return any(int.from_bytes(head[:4], order) in _HEADER_BYTES for order in ("little", "big"))


def read_nifti_header(path: Path) -> tuple[ImageHeader, Path]:
    """The grid of a NIfTI file whose voxels are all there, and the file that ITK is to be given.

    Args:
        path: A .nii, a .nii.gz, or either file of a pair of .hdr and .img.

    Raises:
        InputError: The header leaves the geometry open or contradicts itself, or voxels lack.
    """
    name_of_header, name_of_voxels = _files(path)
    header = _read_fields(name_of_header)
    single = bytes(header["magic"])[:2] == b"n+"
    if single != (name_of_header == name_of_voxels):
        raise InputError(
            f"its header is that of a {'single file' if single else 'pair of .hdr and .img'}:"
            " name it so"
        )
    sizes = _sizes(header)
    _check_scaling(header)
    affine = _ijk_to_ras_mm(header, sizes)
    # Without a qform to turn to, ITK refuses an sform for the smallest rounding of its directions.
    rounded = int(header["qform_code"]) <= 0 and axes_cosine(affine[:3, :3]) > _ITK_AXES_COSINE
    refused = (
        rounded
        or isinstance(header, Nifti2Header)
        or _dtype(header).kind == "f"
        or not name_of_header.name.endswith(_ITK_SUFFIXES)
    )
    checked = header_of(
        sizes,
        _TO_LPS[:, None] * affine[:3, :3],
        _TO_LPS * affine[:3, 3],
        "" if refused else "NiftiImageIO",
    )
    _check_voxels(name_of_voxels, header, sizes, single)
    return checked, name_of_header


def read_nifti_voxels(file: Path) -> sitk.Image:
    """The voxels alone, scaled, of a file that ITK must not read; its header is already checked."""
    name_of_header, name_of_voxels = _files(file)
    header = _read_fields(name_of_header)
    opened = gzip.open if is_gzip(name_of_voxels) else open
    with opened(name_of_voxels, "rb") as stream:
        voxels = header.raw_data_from_fileobj(stream).T
    slope, offset = header.get_slope_inter()
    if slope is not None and (slope, offset) != (1, 0):
        voxels = voxels.astype(np.float64 if voxels.dtype.itemsize > 4 else np.float32)
        voxels = voxels * voxels.dtype.type(slope) + voxels.dtype.type(offset or 0)
    known = np.float64 if voxels.dtype.itemsize > 8 else voxels.dtype.newbyteorder("=")
    return sitk.GetImageFromArray(np.ascontiguousarray(voxels.reshape(voxels.shape[-3:]), known))


def _files(path: Path) -> tuple[Path, Path]:
    """The files of the header and of the voxels: one, or a pair."""
    name = path.name.lower()
    if name.endswith(SINGLE_SUFFIXES):
        if is_gzip(path) and not name.endswith(".gz"):
            raise InputError("it is compressed by gzip: name it .nii.gz")
        return path, path
    for header, voxels in _PAIR.items():
        if name.endswith((header, voxels)):
            used = header if name.endswith(header) else voxels
            stem = path.name[: -len(used)]
            return _sibling(path, stem, ".hdr"), _sibling(path, stem, ".img")
    raise InputError("it is NIfTI: name it .nii, or .nii.gz where it is compressed")


def _sibling(path: Path, stem: str, suffix: str) -> Path:
    for ending in (suffix, f"{suffix}.gz", suffix.upper(), f"{suffix}.gz".upper()):
        if (found := path.with_name(stem + ending)).is_file():
            return found
    raise InputError(f"it is one of a pair of .hdr and .img, and {stem}{suffix} is not there")


def _read_fields(path: Path) -> Nifti1Header:
    head = first_bytes(path, _MAGIC_BYTES)
    size = next((n for n in _HEADER_BYTES if n in _leading_numbers(head)), 0)
    if not size or len(head) < size:
        raise InputError(f"its header breaks off after {len(head)} bytes, or is none of NIfTI")
    try:
        header = _HEADER_BYTES[size](head[:size], check=False)
    except (WrapStructError, HeaderDataError) as error:
        raise InputError(f"its header is damaged: {error}") from error
    magic = bytes(header["magic"]).strip(b"\0")
    if magic[:3] in (b"n+1", b"n+2", b"ni1", b"ni2"):
        return header
    if not magic:
        raise InputError(
            "it is of the old Analyze format, which does not tell which way is left or where it"
            " lies: convert it to NIfTI from its original"
        )
    raise InputError(f"its header is damaged: its magic is {magic!r}, wanted n+1 or ni1")


def _leading_numbers(head: bytes) -> tuple[int, int]:
    return int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")


def _sizes(header: Nifti1Header) -> list[int]:
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        raise InputError(f"its header is damaged: it tells of {dimensions} dimensions")
    sizes = [int(n) for n in header["dim"][1 : dimensions + 1]]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    dtype = _dtype(header)
    check_size(sizes, 2 if dtype.kind == "c" else len(dtype.names or "1"))
    return sizes


def _dtype(header: Nifti1Header) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise InputError(
            f"its header is damaged: there is no data type {int(header['datatype'])}"
        ) from error
    bits = int(header["bitpix"])
    if bits not in (0, 8 * dtype.itemsize) or dtype.itemsize == 0:
        raise InputError(f"its header is damaged: {dtype} voxels with {bits} bits each")
    return dtype


def _check_scaling(header: Nifti1Header) -> None:
    """Refuses a scaling that the format leaves open, and that ITK and nibabel take differently."""
    slope, offset = float(header["scl_slope"]), float(header["scl_inter"])
    scaled = bool(np.isfinite(slope)) and slope != 0
    shifted = not np.isfinite(offset) if scaled else bool(np.isfinite(offset)) and offset != 0
    if shifted:
        raise InputError(
            f"its scaling to Hounsfield units is open: scl_slope {slope:g}, scl_inter {offset:g}"
        )


def _ijk_to_ras_mm(header: Nifti1Header, sizes: list[int]) -> NDArray[np.float64]:
    """(4, 4), the one place that pixdim, qform and sform agree on."""
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MM_PER_UNIT:
        raise InputError(f"its unit of length is unknown: xyzt_units {unit}")
    to_mm = np.diag([*[_MM_PER_UNIT[unit]] * 3, 1.0])
    pixdim = np.array(header["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        raise InputError(f"wanted a positive spacing as pixdim, got {_told(pixdim)}")
    forms = []
    if int(header["sform_code"]) > 0:
        forms.append(to_mm @ _sform(header, pixdim, to_mm[:3, :3]))
    if int(header["qform_code"]) > 0:
        forms.append(to_mm @ _qform(header, pixdim))
    if not forms:
        raise InputError(
            "its header does not tell how it lies in the patient: the codes of its qform and its"
            " sform are 0"
        )
    gap_mm = _forms_gap_mm(forms[0], forms[-1], sizes)
    if gap_mm > MAX_CORNER_GAP_MM:
        raise InputError(
            f"its qform and its sform put it at different places, up to {gap_mm:.1f} mm apart, and"
            " which is right is unknown. Keep one and set the code of the other to 0"
        )
    return forms[0]


def _forms_gap_mm(sform: NDArray, qform: NDArray, sizes: list[int]) -> float:
    """How far they put a corner apart; the first voxel where only rounding turns them."""
    turn = np.abs(sform - qform)[:3, :3] / np.linalg.norm(sform[:3, :3], axis=0)
    if turn.max() <= _MAX_FORMS_TURN:
        return float(np.linalg.norm((sform - qform)[:3, 3]))
    return corner_gap_mm(sform, qform, sizes)


def _sform(header: Nifti1Header, pixdim: NDArray, to_mm: NDArray) -> NDArray[np.float64]:
    rows = [np.array(header[f"srow_{axis}"], dtype=np.float64) for axis in "xyz"]
    affine = np.vstack([*rows, [0, 0, 0, 1]])
    _check_finite(affine, "sform")
    check_axes(to_mm @ affine[:3, :3])
    length = np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(length / pixdim - 1).max() > _MAX_SPACING_ERROR:
        raise InputError(
            f"its header contradicts itself: a spacing of {_told(pixdim)} as pixdim,"
            f" {_told(length)} by its sform"
        )
    return affine


def _qform(header: Nifti1Header, pixdim: NDArray) -> NDArray[np.float64]:
    vector = np.array([float(header[f"quatern_{part}"]) for part in "bcd"])
    offset = np.array([float(header[f"qoffset_{axis}"]) for axis in "xyz"])
    _check_finite(np.array([vector, offset]), "qform")
    excess = float(vector @ vector) - 1
    if excess > _MAX_QUATERNION_EXCESS:
        raise InputError(f"the quaternion of its qform is no rotation: {_told(vector)}")
    # Rounding leaves half turns a little longer than 1.
    turn = Rotation.from_quat([*vector, np.sqrt(max(0.0, -excess))]).as_matrix()
    mirror = -1.0 if float(header["pixdim"][0]) < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = turn * pixdim * [1, 1, mirror]
    affine[:3, 3] = offset
    return affine


def _check_voxels(path: Path, header: Nifti1Header, sizes: list[int], single: bool) -> None:
    offset = float(header["vox_offset"])
    first = int(header["sizeof_hdr"]) + 4 if single else 0
    if not (first <= offset <= _MAX_OFFSET and offset.is_integer()):
        raise InputError(f"its header says that the voxels begin at byte {offset:g}, not {first}")
    wanted = prod(sizes) * _dtype(header).itemsize
    packed = is_gzip(path)
    with path.open("rb") as stream:
        if packed:
            found = unpacked_size(stream, GZIP, enough=int(offset) + wanted)
            check_stored(found - int(offset), wanted)
        else:
            stream.seek(int(offset))
            check_plain(stream, wanted, _dtype(header).itemsize, padded=single)


def _check_finite(numbers: NDArray, name: str) -> None:
    if not np.isfinite(numbers).all():
        raise InputError(f"its header is damaged: the {name} is not finite")


def _told(values: NDArray) -> str:
    return " x ".join(f"{value:g}" for value in values)
