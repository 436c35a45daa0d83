"""Image files: NRRD, NIfTI and MetaImage."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.image_header import (
    MAX_CORNER_GAP_MM,
    ImageHeader,
    corner_gap_mm,
)
from contrastdiagnosis.imaging.reading.metaimage_file import is_metaimage, read_metaimage_header
from contrastdiagnosis.imaging.reading.nifti_file import (
    is_nifti,
    read_nifti_header,
    read_nifti_voxels,
)
from contrastdiagnosis.imaging.reading.nrrd_file import is_nrrd, read_nrrd_header
from contrastdiagnosis.imaging.reading.scan_image import ScanImage
from contrastdiagnosis.imaging.reading.stored_bytes import first_bytes, is_gzip

_HEAD_BYTES = 8192

_MAX_TURN = 0.01
"""Of ITK's axes from the header's, in voxels; the corners of a few voxels show no difference."""

_OTHERS = {
    b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"GIF8": "a GIF picture",
    b"BM": "a BMP picture", b"II*\0": "a TIFF picture", b"MM\0*": "a TIFF picture",
    b"%PDF": "a PDF", b"PK\x03\x04": "a zip", b"\x89HDF": "HDF5", b"# vtk": "VTK",
    b"\xef\xbb\xbf": "text with a byte order mark", b"\xff\xfe": "text of 16 bits a letter",
    b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z", b"<": "HTML or XML",
}  # fmt: skip
"""What users give by mistake, by first bytes."""


def read_file(path: Path) -> ScanImage:
    """The image in a NRRD, NIfTI or MetaImage file, known by its content.

    Args:
        path: A .nrrd, .nhdr, .nii, .nii.gz, .mha or .mhd, or either file of a pair of .hdr and
            .img. Voxels in further files must lie where the header says.

    Raises:
        InputError: The file is of another format, damaged or cut short, or its header leaves open
            how the voxels lie in the patient, or contradicts itself.
    """
    try:
        header, file = _read_header(path)
        return ScanImage(_placed(_read_voxels(file, header), header))
    except InputError as error:
        raise InputError(f"cannot read {path}: {error}", error.setting) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _read_header(path: Path) -> tuple[ImageHeader, Path]:
    """What the header tells, and the file that ITK is to be given."""
    head = first_bytes(path, _HEAD_BYTES)
    other = is_nrrd(head) or is_metaimage(head)
    if is_nifti(head) or (not other and path.name.lower().endswith((".img", ".img.gz"))):
        return read_nifti_header(path)
    if is_gzip(path):
        raise InputError("it is compressed by gzip and holds no NIfTI: unpack it first")
    if is_nrrd(head):
        return read_nrrd_header(path), path
    if is_metaimage(head):
        return read_metaimage_header(path), path
    raise InputError(f"wanted NRRD, NIfTI, MetaImage or DICOM, got {_kind(head)}")


def _kind(head: bytes) -> str:
    """What a file is that begins so."""
    if not head:
        return "an empty file"
    if head[128:132] == b"DICM":
        return "a DICOM file where none is read"
    for magic, kind in _OTHERS.items():
        if head.startswith(magic):
            return kind
    return "text" if head.isascii() and b"\0" not in head else "an unknown format"


def _read_voxels(file: Path, header: ImageHeader) -> sitk.Image:
    if not header.itk_reader:
        return read_nifti_voxels(file)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(header.itk_reader)
    reader.SetFileName(str(file))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line and "Reason:" not in line]
        reason = re.sub(r"^ITK ERROR: |\w+\(0x\w+\): ", "", lines[-1])
        raise InputError(f"ITK refuses it ({reason})") from error
    if "vector" in image.GetPixelIDTypeAsString():
        # A list of one value per voxel, which only NRRD has.
        image = sitk.VectorIndexSelectionCast(image, 0)
    if image.GetSize() != header.size_ijk:
        raise InputError(f"its header tells of {header.size_ijk} voxels, got {image.GetSize()}")
    return image


def _placed(image: sitk.Image, header: ImageHeader) -> sitk.Image:
    """The image where its header says; ITK heeds no units in NRRD and MetaImage."""
    axes = header.ijk_to_lps[:3, :3]
    spacing_mm = np.linalg.norm(axes, axis=0)
    found = np.eye(4)
    found[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    found[:3, 3] = image.GetOrigin()
    gap_mm = corner_gap_mm(found, header.ijk_to_lps, header.size_ijk)
    turn = np.abs((found[:3, :3] - axes) / spacing_mm).max()
    if gap_mm > MAX_CORNER_GAP_MM or turn > _MAX_TURN:
        image.SetSpacing(spacing_mm.tolist())
        image.SetDirection((axes / spacing_mm).ravel().tolist())
        image.SetOrigin(header.ijk_to_lps[:3, 3].tolist())
    return image
