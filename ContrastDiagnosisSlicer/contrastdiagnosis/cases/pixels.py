"""`PixelStore`: pictures of support cases, where the user has added them to a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from contrastdiagnosis.cases.library import check_case_id
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_writable, write_file
from contrastdiagnosis.imaging.patch import PatchGeometry


@dataclass(frozen=True, eq=False)
class CasePixels:
    """A case's patch.

    Attributes:
        intensity: (D, H, W) float32 in [0, 1].
        valid: (D, H, W) bool, False where the scan has no voxel.
        mask: (D, H, W) bool, the readers' consensus.
    """

    intensity: NDArray[np.float32]
    valid: NDArray[np.bool_]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class PixelStore:
    """One safetensors file a case in a folder that need not exist."""

    folder: Path

    def has(self, case_id: str) -> bool:
        """Whether the case has pixels."""
        return self._file(case_id).is_file()

    def read(self, case_id: str) -> CasePixels:
        """The case's patch.

        Raises:
            InputError: The case has no pixels, or its file is damaged.
        """
        file = self._file(case_id)
        if not file.is_file():
            raise InputError(f"no pixels of case {case_id} in {self.folder}")
        try:
            tensors = load_file(file)
            shapes = {name: tensors[name].shape for name in ("intensity", "valid", "mask")}
            if set(shapes.values()) != {PatchGeometry().shape}:
                raise ValueError(f"wanted shape {PatchGeometry().shape}, got {shapes}")
            intensity = tensors["intensity"].astype(np.float32) / np.float32(255)
            return CasePixels(intensity, tensors["valid"], tensors["mask"])
        except (SafetensorError, KeyError, OSError, ValueError) as error:
            raise InputError(f"{file} is damaged: {error}") from error

    def write(self, case_id: str, pixels: CasePixels) -> None:
        """Stores a patch in 8 bits, one grey level being 5.5 HU.

        Raises:
            InputError: The disk is full or not writable.
        """
        file = self._file(case_id)
        check_writable(file)
        grey = np.round(pixels.intensity * 255).astype(np.uint8)
        write_file(file, save({"intensity": grey, "valid": pixels.valid, "mask": pixels.mask}))

    def _file(self, case_id: str) -> Path:
        try:
            check_case_id(case_id)
        except ValueError as error:
            raise InputError(str(error)) from error
        return self.folder / f"{case_id}.safetensors"
