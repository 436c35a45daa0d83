"""Removing prototypes from a bundle, and fitting its decision anew without them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from contrastdiagnosis.bundle.bundle import CONCEPTS_FILE, Bundle, ConceptPart, save_bundle, sha256
from contrastdiagnosis.concepts.atlas import Prototype, kept_mask
from contrastdiagnosis.concepts.fit import fit_linear_parts
from contrastdiagnosis.concepts.head import readers_shares
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_text
from contrastdiagnosis.files.output import check_writable
from contrastdiagnosis.protocol.pruning_file import Pruning, parse_pruning


def read_pruning(file: Path, head_sha256: str, atlas: Sequence[Prototype]) -> Pruning:
    """The pruning file of a bundle.

    Args:
        file: What `pruning_text` gave.
        head_sha256: Of the bundle's concept head.
        atlas: Of the bundle.

    Raises:
        InputError: The file is damaged, of another bundle, names prototypes that there are not, or
            leaves a concept without any.
    """
    try:
        pruning = parse_pruning(read_text(Path(file)))
    except InputError as error:
        raise InputError(
            f"{file} is no pruning file (JSON with head_sha256 and prototypes): {error}"
        ) from error
    theirs = pruning.head_sha256
    if theirs != head_sha256:
        raise InputError(
            f"{file} was made for another bundle: wanted the concept head {head_sha256[:12]}, got"
            f" {theirs[:12]}"
        )
    known = {(p.concept, p.number) for p in atlas}
    if unknown := [key for key in (*pruning.removed, *pruning.notes) if key not in known]:
        raise InputError(f"{file} names the prototype {unknown[0]}, which the bundle has not")
    removed = pruning.removed
    left = {p.concept for p in atlas if p.kept and (p.concept, p.number) not in removed}
    if bare := [c for c in dict.fromkeys(p.concept for p in atlas) if c not in left]:
        raise InputError(
            f"{file} removes all prototypes of {', '.join(bare)}; keep at least one of each"
            " concept, or train a bundle without it"
        )
    return pruning


def prune_bundle(bundle: Bundle, file: Path, out: Path) -> Bundle:
    """Writes a bundle without the prototypes that a pruning file removes.

    Presence and decision are fitted anew to the scores of the cases, which the bundle holds: no
    image is needed. Everything else stays.

    Args:
        bundle: Read from a folder.
        file: Made for this bundle.
        out: Folder of the new one.

    Raises:
        InputError: The bundle has no concepts, the file is not for it, or the folder cannot be
            written.
    """
    if bundle.concepts is None or bundle.folder is None:
        raise InputError(f"the bundle {bundle.info.name} has no concepts to prune")
    check_writable(out.with_name(f".{out.name}.json"))
    pruning = read_pruning(file, sha256(bundle.folder / CONCEPTS_FILE), bundle.concepts.atlas)
    atlas = tuple(
        replace(p, kept=p.kept and (p.concept, p.number) not in pruning.removed)
        for p in bundle.concepts.atlas
    )
    part = refit(bundle, replace(bundle.concepts, atlas=atlas))
    gone = sum(a.kept and not b.kept for a, b in zip(bundle.concepts.atlas, atlas, strict=True))
    note = removed_note(gone, Path(file).name)
    # What the bundle says of its concepts already stays true.
    if before := bundle.info.metrics.get("concepts_note"):
        note = f"{str(before).rstrip('.')}. {note}"
    info = replace(
        bundle.info,
        version=f"{bundle.info.version}-pruned",
        metrics={**bundle.info.metrics, "concepts_note": note},
    )
    matched = np.asarray(bundle.indicator.matched)
    save_bundle(out, info, bundle.network, bundle.library, matched, part)
    return replace(bundle, info=info, concepts=part, folder=out)


def removed_note(count: int, by: str) -> str:
    """What metrics that were measured before have to say."""
    removed = "prototype was" if count == 1 else "prototypes were"
    return f"{count} {removed} removed by {by}; measured before that"


def refit(bundle: Bundle, part: ConceptPart) -> ConceptPart:
    """The part with presence and decision fitted to the prototypes that its atlas keeps.

    The fit departs from the part's own head: where nothing was removed, nothing changes.
    """
    head = copy.deepcopy(part.head)
    before = part.head.kept.numpy().copy()
    shape = (head.config.concepts, head.config.prototypes)
    head.kept.copy_(torch.from_numpy(kept_mask(part.atlas, shape)))
    cases = bundle.library.cases
    case_source = bundle.info.case_source
    malignancy = case_source.malignancy_of(
        [c.ratings.get(case_source.malignancy, np.nan) for c in cases]
    )
    share = part.share
    if share is None:  # Of the mean ratings, as older bundles hold no more.
        told = [({r: (x,) for r, x in c.ratings.items()}, c.diameter_mm) for c in cases]
        share = np.array([readers_shares(bundle.info.concepts, *of_case) for of_case in told])
    fit_linear_parts(head, part.scores, share, malignancy, before=before)
    return replace(part, head=head)
