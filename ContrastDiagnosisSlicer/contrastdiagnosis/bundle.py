"""`Bundle`: a directory with everything that a diagnosis needs, nothing executable, no pickle."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from contrastdiagnosis import RESEARCH_USE_NOTICE
from contrastdiagnosis.cases import CaseLibrary, read_cases, write_cases
from contrastdiagnosis.confidence import SimilarityIndicator
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.image_quality import QualityLimits
from contrastdiagnosis.model_card import model_card
from contrastdiagnosis.network import NoduleNet, NoduleNetConfig, load_network, save_network
from contrastdiagnosis.patch import PatchGeometry
from contrastdiagnosis.pixels import PixelStore
from contrastdiagnosis.vote import Calibration, VoteRule

SCHEMA = 1
"""Version of the bundle's layout that this engine reads and writes."""

INFO_FILE = "bundle.json"
MODEL_FILE = "model.safetensors"
CASES_FILE = "cases.csv"
EMBEDDINGS_FILE = "embeddings.safetensors"
CARD_FILE = "MODEL_CARD.md"
PIXELS_FOLDER = "pixels"
"""Not covered by the checksums: users fill it from their own copy of the images."""

CHECKED_FILES = (MODEL_FILE, CASES_FILE, EMBEDDINGS_FILE, CARD_FILE)


@dataclass(frozen=True)
class BundleInfo:
    """What bundle.json says, apart from the schema version and the checksums."""

    name: str
    version: str
    vote: VoteRule
    calibration: Calibration
    similarity_quantile: float = 0.95
    split_vote: tuple[float, float] = (0.35, 0.65)
    """Calibrated probabilities between these are called split."""
    min_lung_share: float = 0.0
    """A patch with a smaller share of lung-dense voxels is not called lung."""
    max_noise_hu: float | None = None
    """Noisier scans are unlike those of the cases; None where that was not measured."""
    max_slice_mm: float | None = None
    """So are scans whose slices lie further apart."""
    geometry: PatchGeometry = field(default_factory=PatchGeometry)
    network: NoduleNetConfig = field(default_factory=NoduleNetConfig)
    created: str = ""
    training_data: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Options and commit of the training run."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Measured figures with their protocol."""
    licence: str = "Apache-2.0"
    citation: str = ""
    intended_use: str = RESEARCH_USE_NOTICE

    @property
    def quality_limits(self) -> QualityLimits:
        """What is still like the scans that the cases come from."""
        return QualityLimits(self.min_lung_share, self.max_noise_hu, self.max_slice_mm)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A loaded bundle.

    Attributes:
        info: bundle.json.
        network: In eval mode, float32, on the CPU.
        library: The support cases in the network's embedding space.
        indicator: Matched distances from cross-fitting.
        pixels: Pictures of the cases; empty until the user adds them.
        folder: Where it was read from, None for one in memory.
    """

    info: BundleInfo
    network: NoduleNet
    library: CaseLibrary
    indicator: SimilarityIndicator
    pixels: PixelStore
    folder: Path | None = None


def default_bundle_folder() -> Path:
    """The bundle that comes with this package: in the source tree, or in the installed wheel."""
    package = Path(str(resources.files("contrastdiagnosis")))
    for folder in (
        package / "bundles" / "lidc",
        package.parent.parent / "Resources" / "Bundles" / "lidc",
        package.parent / "Resources" / "Bundles" / "lidc",
    ):
        if (folder / INFO_FILE).is_file():
            return folder
    raise InputError(f"no default bundle beside {package}; name one by --bundle")


def load_bundle(folder: Path) -> Bundle:
    """The verified bundle in a folder.

    Raises:
        InputError: A file is missing, changed, truncated, of a newer schema, or does not fit the
            others; the message says what was wanted and what came.
    """
    folder = Path(folder)
    document = _read_document(folder)
    _verify_checksums(folder, document["sha256"])
    info = _info_from_document(document["bundle"])
    network = load_network(folder / MODEL_FILE, info.network)
    tensors = _load_tensors(folder / EMBEDDINGS_FILE)
    library = CaseLibrary(read_cases(folder / CASES_FILE), _tensor(tensors, "embedding"))
    if library.embedding.shape[1] != info.network.embedding:
        raise InputError(
            f"{folder}: the network gives embeddings of length {info.network.embedding}, the cases"
            f" have {library.embedding.shape[1]}"
        )
    try:
        matched = _tensor(tensors, "matched_distance")
        indicator = SimilarityIndicator(matched, info.similarity_quantile)
    except ValueError as error:
        raise InputError(f"{folder / EMBEDDINGS_FILE}: {error}") from error
    return Bundle(info, network, library, indicator, PixelStore(folder / PIXELS_FOLDER), folder)


def save_bundle(
    folder: Path,
    info: BundleInfo,
    network: NoduleNet,
    library: CaseLibrary,
    matched_distance: NDArray,
) -> None:
    """Writes a bundle; an older one at the same place is replaced only when this one is complete.

    Args:
        folder: Where it goes; pixels that an older bundle holds there are kept.
        info: Everything for bundle.json; the network's own configuration wins.
        network: Its weights are stored in half precision.
        library: Cases and embeddings.
        matched_distance: (S,) for the similarity indicator.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    info = replace(info, network=network.config)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        draft = Path(made)
        save_network(draft / MODEL_FILE, network, torch.float16)
        write_cases(draft / CASES_FILE, library.cases)
        save_file(
            {
                "embedding": torch.from_numpy(library.embedding),
                "matched_distance": torch.from_numpy(matched_distance.astype(np.float32)),
            },
            draft / EMBEDDINGS_FILE,
        )
        (draft / CARD_FILE).write_text(model_card(info, library))
        checksums = {name: _sha256(draft / name) for name in CHECKED_FILES}
        document = {"schema": SCHEMA, "bundle": asdict(info), "sha256": checksums}
        (draft / INFO_FILE).write_text(json.dumps(document, indent=1) + "\n")
        load_bundle(draft)
        _put_in_place(draft, folder)


def _put_in_place(draft: Path, folder: Path) -> None:
    """Swaps whole folders, so that no moment shows a mixture of two bundles."""
    new, old = (folder.with_name(f".{folder.name}-{state}") for state in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for name in (*CHECKED_FILES, INFO_FILE):
        (draft / name).rename(new / name)
    if folder.is_dir():
        if (folder / PIXELS_FOLDER).is_dir():
            (folder / PIXELS_FOLDER).rename(new / PIXELS_FOLDER)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _read_document(folder: Path) -> dict[str, Any]:
    file = folder / INFO_FILE
    if not file.is_file():
        raise InputError(f"wanted a bundle folder with {INFO_FILE}, got {folder}")
    try:
        document = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is damaged: {error}") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        hint = "; update ContrastDiagnosis to read it" if newer else ""
        raise InputError(f"{file} has schema {schema}, this version reads schema {SCHEMA}{hint}")
    for part in ("bundle", "sha256"):
        if not isinstance(document.get(part), dict):
            raise InputError(f"{file} lacks {part}, or it is no table of names and values")
    return document


def _verify_checksums(folder: Path, checksums: Mapping[str, str]) -> None:
    for name in CHECKED_FILES:
        if name not in checksums:
            raise InputError(f"{folder / INFO_FILE} has no checksum of {name}")
        if not (folder / name).is_file():
            raise InputError(f"{folder} lacks {name}")
        found = _sha256(folder / name)
        if found != checksums[name]:
            raise InputError(
                f"{folder / name} is damaged or was changed: wanted SHA-256 {checksums[name]},"
                f" got {found}"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _info_from_document(document: Mapping[str, Any]) -> BundleInfo:
    try:
        values = dict(document)
        network = dict(values["network"])
        network["channels"] = tuple(network["channels"])
        geometry = {name: tuple(value) for name, value in values["geometry"].items()}
        values |= {
            "vote": VoteRule(**values["vote"]),
            "calibration": Calibration(**values["calibration"]),
            "geometry": PatchGeometry(**geometry),
            "network": NoduleNetConfig(**network),
            "split_vote": tuple(values["split_vote"]),
        }
        info = BundleInfo(**values)
        _check_numbers(info)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{INFO_FILE} does not describe a bundle: {error}") from error
    if info.geometry != PatchGeometry():
        raise InputError(
            f"the bundle needs patches {info.geometry}, this version cuts {PatchGeometry()}"
        )
    return info


def _check_numbers(info: BundleInfo) -> None:
    low, high = info.split_vote
    numbers = {
        "similarity_quantile": (info.similarity_quantile, 0, 1),
        "split_vote[0]": (low, 0, 0.5),
        "split_vote[1]": (high, 0.5, 1),
        "min_lung_share": (info.min_lung_share, 0, 1),
        "max_noise_hu": (info.max_noise_hu, 0, 1e6),
        "max_slice_mm": (info.max_slice_mm, 0, 1e6),
        "calibration.slope": (info.calibration.slope, 1e-6, 1e6),
        "calibration.intercept": (info.calibration.intercept, -1e6, 1e6),
        "vote.k": (info.vote.k, 1, 1e6),
        "vote.temperature": (info.vote.temperature, 0, 1e9),
        "network.embedding": (info.network.embedding, 1, 1e6),
        **{f"network.channels[{n}]": (c, 1, 1e6) for n, c in enumerate(info.network.channels)},
    }
    for name, (value, least, most) in numbers.items():
        if value is None and name in ("max_noise_hu", "max_slice_mm"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be a number, got {value!r}")
        if not least <= value <= most:
            raise ValueError(f"{name} must lie between {least:g} and {most:g}, got {value!r}")
    if not isinstance(info.vote.k, int):
        raise ValueError(f"vote.k must be a whole number, got {info.vote.k!r}")


def _load_tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable safetensors file: {error}") from error


def _tensor(tensors: Mapping[str, torch.Tensor], name: str) -> NDArray[np.float32]:
    if name not in tensors:
        raise InputError(f"{EMBEDDINGS_FILE} lacks {name}; it holds {', '.join(sorted(tensors))}")
    return tensors[name].float().numpy()
