"""`Bundle`: a directory with everything that a diagnosis needs, nothing executable, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from contrastdiagnosis.bundle.info import BundleInfo, document_of_info, info_from_document
from contrastdiagnosis.bundle.model_card import model_card
from contrastdiagnosis.bundle.swap import draft_of, finish_swap, swap_in, swap_pending
from contrastdiagnosis.cases.library import CaseLibrary, read_cases, write_cases
from contrastdiagnosis.cases.pixels import PixelStore
from contrastdiagnosis.concepts.atlas import Prototype, kept_mask, read_atlas, write_atlas
from contrastdiagnosis.concepts.cells import cell_channels
from contrastdiagnosis.concepts.head import ConceptHead, load_head, save_head
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json
from contrastdiagnosis.model.mask_statistics import STATISTICS
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.model.weights import load_network, save_network
from contrastdiagnosis.trust.confidence import SimilarityIndicator

SCHEMA = 4
"""Version of the bundle's layout that this engine writes."""

READABLE = (1, 2, 3, 4)
"""Versions that it reads; 1 had no concepts, 2 fewer limits, 3 fewer choices of how it votes."""

INFO_FILE = "bundle.json"
MODEL_FILE = "model.safetensors"
CASES_FILE = "cases.csv"
EMBEDDINGS_FILE = "embeddings.safetensors"
CONCEPTS_FILE = "concepts.safetensors"
ATLAS_FILE = "atlas.csv"
CARD_FILE = "MODEL_CARD.md"
SIGNATURE_FILE = "bundle.sig"
"""Of who made it, where it was signed (`signing`)."""
PIXELS_FOLDER = "pixels"
"""Not covered by the checksums: users fill it from their own copy of the images."""

CHECKED_FILES = (MODEL_FILE, CASES_FILE, EMBEDDINGS_FILE, CARD_FILE)
CONCEPT_FILES = (CONCEPTS_FILE, ATLAS_FILE)
"""These too, where there are concepts."""

SWAPS_MET = 3
"""How often a bundle may be rewritten by others while it is read."""


@dataclass(frozen=True, eq=False)
class ConceptPart:
    """What a bundle holds of concepts.

    Attributes:
        head: In eval mode, float32, on the CPU.
        atlas: Its prototypes, concept by concept.
        scores: (N, K, M) float32 of the cases, in the library's order: enough to fit the decision
            anew without any image.
        share: (N, K) float32, share of the readers who call each concept present in the cases, NaN
            where nobody rated it; None in bundles up to lidc 9.
    """

    head: ConceptHead
    atlas: tuple[Prototype, ...]
    scores: NDArray[np.float32]
    share: NDArray[np.float32] | None = None


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
        concepts: The concept head with its atlas; None for a bundle without.
    """

    info: BundleInfo
    network: NoduleNet
    library: CaseLibrary
    indicator: SimilarityIndicator
    pixels: PixelStore
    folder: Path | None = None
    concepts: ConceptPart | None = None

    @property
    def head(self) -> ConceptHead | None:
        """The concept head, if there is one."""
        return self.concepts.head if self.concepts else None


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
    raise InputError(f"no default bundle beside {package}; name a bundle folder")


def load_bundle(folder: Path) -> Bundle:
    """The verified bundle in a folder.

    A rewriting that was cut off after its files were complete is finished first.

    Raises:
        InputError: A file is missing, changed, truncated, of a newer schema, or does not fit the
            others; the message says what was wanted and what came.
    """
    folder = Path(folder)
    for _ in range(SWAPS_MET):
        finish_swap(folder, last=INFO_FILE)
        before = _content(folder / INFO_FILE)
        try:
            return _load(folder)
        except InputError:
            if _content(folder / INFO_FILE) == before and not swap_pending(folder):
                raise
    return _load(folder)


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _load(folder: Path) -> Bundle:
    document = _read_document(folder)
    info = info_from_document(document["bundle"], folder / INFO_FILE)
    _verify_checksums(folder, document["sha256"], _checked(info))
    network = load_network(folder / MODEL_FILE, info.network)
    tensors = _load_tensors(folder / EMBEDDINGS_FILE)
    statistics = _tensor(tensors, "case_statistics") if "case_statistics" in tensors else None
    library = CaseLibrary(
        read_cases(folder / CASES_FILE, info.case_source), _tensor(tensors, "embedding"), statistics
    )
    if library.embedding.shape[1] != info.network.embedding:
        raise InputError(
            f"{folder}: the network gives embeddings of length {info.network.embedding}, the cases"
            f" have {library.embedding.shape[1]}"
        )
    length = STATISTICS if info.network.statistics else 0
    if statistics is not None and statistics.shape[1:] != (length,):
        raise InputError(
            f"{folder}: wanted {length} statistics of each case, got shape {statistics.shape}"
        )
    try:
        matched = _tensor(tensors, "matched_distance")
        indicator = SimilarityIndicator(matched, info.similarity_quantile, info.similarity_interval)
    except ValueError as error:
        raise InputError(f"{folder / EMBEDDINGS_FILE}: {error}") from error
    return Bundle(
        info, network, library, indicator, PixelStore(folder / PIXELS_FOLDER), folder,
        _load_concepts(folder, info, library, tensors),
    )  # fmt: skip


def _load_concepts(
    folder: Path, info: BundleInfo, library: CaseLibrary, tensors: Mapping[str, torch.Tensor]
) -> ConceptPart | None:
    config = info.concept_head
    if config is None:
        return None
    made = cell_channels(info.network, config.whole)
    if config.channels != made:
        raise InputError(
            f"{folder}: its concept head reads {config.channels} features of a cell, this engine"
            f" makes {made}; export the bundle anew with this version"
        )
    head = load_head(folder / CONCEPTS_FILE, config)
    scores = _tensor(tensors, "concept_score")
    shape = (len(library), config.concepts, config.prototypes)
    if scores.shape != shape or not np.isfinite(scores).all():
        raise InputError(f"{folder}: wanted finite concept scores {shape}, got {scores.shape}")
    share = _tensor(tensors, "concept_share") if "concept_share" in tensors else None
    if share is not None and share.shape != shape[:2]:
        raise InputError(f"{folder}: wanted readers' shares {shape[:2]}, got {share.shape}")
    atlas = read_atlas(folder / ATLAS_FILE, info.concepts, config.prototypes)
    if not np.array_equal(kept_mask(atlas, shape[1:]), head.kept.numpy()):
        raise InputError(f"{folder}: {ATLAS_FILE} and {CONCEPTS_FILE} keep other prototypes")
    return ConceptPart(head, atlas, scores, share)


def _checked(info: BundleInfo) -> tuple[str, ...]:
    return CHECKED_FILES + (CONCEPT_FILES if info.concept_head else ())


def save_bundle(
    folder: Path,
    info: BundleInfo,
    network: NoduleNet,
    library: CaseLibrary,
    matched_distance: NDArray,
    concepts: ConceptPart | None = None,
) -> None:
    """Writes a bundle; an older one at the same place is replaced only when this one is complete.

    Args:
        folder: Where it goes; pixels that an older bundle holds there are kept.
        info: Everything for bundle.json; the network's own configuration wins.
        network: Its weights are stored in half precision.
        library: Cases and embeddings.
        matched_distance: (S,) for the similarity indicator.
        concepts: Head, atlas and scores, if there are concepts; `info.concepts` names them.
    """
    info = replace(info, network=network.config)
    if concepts:
        info = replace(info, concept_head=concepts.head.config)
    else:
        info = replace(info, concept_head=None, concepts=())
    with draft_of(Path(folder)) as draft:
        save_network(draft / MODEL_FILE, network, torch.float16)
        write_cases(draft / CASES_FILE, library.cases, info.case_source)
        tensors = {"embedding": library.embedding, "matched_distance": matched_distance}
        if library.statistics is not None:
            tensors["case_statistics"] = library.statistics
        if concepts:
            tensors["concept_score"] = concepts.scores
            if concepts.share is not None:
                tensors["concept_share"] = concepts.share
            save_head(draft / CONCEPTS_FILE, concepts.head)
            write_atlas(draft / ATLAS_FILE, concepts.atlas)
        save_file(
            {name: torch.from_numpy(x.astype(np.float32)) for name, x in tensors.items()},
            draft / EMBEDDINGS_FILE,
        )
        (draft / CARD_FILE).write_text(model_card(info, library), encoding="utf-8", newline="\n")
        checksums = {name: sha256(draft / name) for name in _checked(info)}
        document = {"schema": SCHEMA, "bundle": document_of_info(info), "sha256": checksums}
        (draft / INFO_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        load_bundle(draft)
        gone = {*CONCEPT_FILES, SIGNATURE_FILE} - set(checksums)
        swap_in(draft, Path(folder), last=INFO_FILE, gone=gone)


def _read_document(folder: Path) -> dict[str, Any]:
    file = folder / INFO_FILE
    if not file.is_file():
        raise InputError(f"wanted a bundle folder with {INFO_FILE}, got {folder}")
    document = read_json(file)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema not in READABLE:
        newer = isinstance(schema, int) and schema > SCHEMA
        hint = "; update ContrastDiagnosis to read it" if newer else ""
        raise InputError(f"{file} has schema {schema}, this version reads schema {SCHEMA}{hint}")
    for part in ("bundle", "sha256"):
        if not isinstance(document.get(part), dict):
            raise InputError(f"{file} lacks {part}, or it is no table of names and values")
    return document


def _verify_checksums(folder: Path, checksums: Mapping[str, str], files: Sequence[str]) -> None:
    for name in files:
        if name not in checksums:
            raise InputError(f"{folder / INFO_FILE} has no checksum of {name}")
        if (folder / name).is_symlink():
            raise InputError(f"{folder / name} is a link; a bundle holds its own files")
        if not (folder / name).is_file():
            raise InputError(f"{folder} lacks {name}")
        found = sha256(folder / name)
        if found != checksums[name]:
            raise InputError(
                f"{folder / name} is damaged or was changed: wanted SHA-256 {checksums[name]},"
                f" got {found}"
            )


def sha256(file: Path) -> str:
    """Hex digest of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _load_tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable safetensors file: {error}") from error


def _tensor(tensors: Mapping[str, torch.Tensor], name: str) -> NDArray[np.float32]:
    if name not in tensors:
        raise InputError(f"{EMBEDDINGS_FILE} lacks {name}; it holds {', '.join(sorted(tensors))}")
    return tensors[name].float().numpy()
