"""How far the map of a nodule stays where its scan is made poorer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule, read_scan
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.maps.explanation import EvidenceMap
from contrastdiagnosis.protocol.map_variant import LocalCam
from contrastdiagnosis.report.pictures import Picture, evidence_picture
from numpy.typing import NDArray

from contrastdiagnosis_training.evaluation.maps.faithfulness import rank_correlation
from contrastdiagnosis_training.evaluation.maps.probe import ProbedNetwork
from contrastdiagnosis_training.evaluation.robustness.degraded import Poorer, poorer_scan
from contrastdiagnosis_training.evaluation.shipped_rule import Part
from contrastdiagnosis_training.progress import Bar
from contrastdiagnosis_training.runs.run_folder import network_of_run

SIGN = "similar"

SHOWN = 3
"""Nodules of each kind in the report."""


class ShownMap(NamedTuple):
    """A nodule in one scan.

    Attributes:
        intensity: (D, H, W) in [0, 1].
        mask: (D, H, W) probability.
        values: (D, H, W) of the map.
    """

    intensity: NDArray[np.float32]
    mask: NDArray[np.float32]
    values: NDArray[np.float32]


class MapPair(NamedTuple):
    """The map of one nodule in its scan and in a poorer one, against the same case.

    Attributes:
        case_id: Of the nodule.
        way: How the scan was made poorer.
        overlap: Intersection over union of the map's strongest tenth.
        correlation: Of the ranks of all voxels.
        clean: In the scan as it is.
        poorer: In the poorer one.
    """

    case_id: str
    way: Poorer
    overlap: float
    correlation: float
    clean: ShownMap
    poorer: ShownMap


def map_pairs(
    run: Path,
    parts: Sequence[Part],
    folds: Sequence[int],
    nodules: Sequence[Nodule],
    ways: Sequence[Poorer],
    device: torch.device,
) -> Iterator[MapPair]:
    """Asks the networks of a cross-fit run for the maps of nodules that they never saw.

    Args:
        run: Folder that `crossfit` filled.
        parts: Support set and unseen nodules of each fold.
        folds: Their numbers.
        nodules: Of these nodules, those whose maps are made.
        ways: How their scans are made poorer.
        device: Where to compute.
    """
    for (support, rows), fold in zip(parts, folds, strict=True):
        own = set(rows.case_id.tolist())
        chosen = [nodule for nodule in nodules if nodule.case_id in own]
        if not chosen:
            continue
        network = network_of_run(run / f"fold{fold}").to(device)
        probed = ProbedNetwork(network, support, LocalCam())
        for nodule in Bar(chosen, desc=f"maps of fold {fold}", unit="nodule", leave=False):
            yield from _pairs(probed, nodule, ways)


def _pairs(probed: ProbedNetwork, nodule: Nodule, ways: Sequence[Poorer]) -> Iterator[MapPair]:
    scan = read_scan(nodule)
    point = scan.center_ras_mm
    patch = crop_patch(scan.volume, point).intensity
    mask, embedding = probed.infer(patch[None])
    case = probed.nearest(embedding[0], nodule.patient_id)
    clean = ShownMap(patch, mask[0], probed.maps(patch, case)[SIGN])
    for way in ways:
        patch = crop_patch(poorer_scan(*way)(nodule, scan.volume), point).intensity
        mask, _ = probed.infer(patch[None])
        poorer = ShownMap(patch, mask[0], probed.maps(patch, case)[SIGN])
        yield MapPair(
            nodule.case_id,
            way,
            overlap_of_strongest(clean.values, poorer.values),
            rank_correlation(clean.values, poorer.values),
            clean,
            poorer,
        )


def overlap_of_strongest(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union of what reports outline of two maps; 0 where one shows nothing.

    Args:
        a: (D, H, W), not negative.
        b: The same of the other map.

    Example:
        >>> a = np.arange(100, dtype=np.float32).reshape(4, 5, 5)
        >>> overlap_of_strongest(a, a), overlap_of_strongest(a, a[::-1, ::-1, ::-1])
        (1.0, 0.0)
    """
    maps = [EvidenceMap(values, float(values.max())) for values in (a, b)]
    if any(evidence.empty for evidence in maps):
        return 0.0
    first, second = (evidence.values >= evidence.contour_level for evidence in maps)
    return float((first & second).sum() / (first | second).sum())


def stability_by_operation(pairs: Sequence[MapPair]) -> dict[str, dict[str, float]]:
    """Means over the nodules, by operation, and over all of them."""
    names = dict.fromkeys(pair.way.operation for pair in pairs)
    groups = {name: [p for p in pairs if p.way.operation == name] for name in names}
    return {
        name: {
            "overlap": float(np.mean([p.overlap for p in group])),
            "correlation": float(np.mean([p.correlation for p in group])),
        }
        for name, group in {**groups, "all": list(pairs)}.items()
        if group
    }


def drawn_nodules(
    parts: Sequence[Part], nodules: Sequence[Nodule], count: int, seed: int = 0
) -> list[Nodule]:
    """Some of the unseen nodules, the same of every run.

    Args:
        parts: Support set and unseen nodules of each fold.
        nodules: Of their case folder.
        count: How many, or all if there are fewer.
        seed: Draws them.
    """
    unseen = sorted(case_id for _, rows in parts for case_id in rows.case_id.tolist())
    random = np.random.default_rng(seed)
    drawn = set(random.choice(unseen, min(count, len(unseen)), replace=False).tolist())
    return [nodule for nodule in nodules if nodule.case_id in drawn]


def example_pictures(pairs: Mapping[str, Sequence[MapPair]]) -> dict[str, list[Picture]]:
    """Nodules side by side in every run: the first ones drawn, and the first run's worst.

    Args:
        pairs: Of each run, of the same nodules and ways.
    """
    first = next(iter(pairs.values()))
    step = len({pair.way for pair in first}) + 1  # Another nodule in another way each time.
    worst = sorted(range(len(first)), key=lambda n: first[n].overlap)
    return {
        "As drawn": _side_by_side(pairs, list(range(0, len(first), step))[:SHOWN]),
        "Where the map of the first run moves most": _side_by_side(pairs, worst[:SHOWN]),
    }


def _side_by_side(pairs: Mapping[str, Sequence[MapPair]], chosen: list[int]) -> list[Picture]:
    return [
        picture for n in chosen for name, own in pairs.items() for picture in _pair(name, own[n])
    ]


def _pair(name: str, pair: MapPair) -> list[Picture]:
    poor = f"{pair.way.operation.replace('_', ' ')} {pair.way.severity}"
    pictures = []
    for title, shown in (
        (f"{name}, as scanned", pair.clean),
        (f"{poor}, overlap {pair.overlap:.2f}", pair.poorer),
    ):
        evidence = EvidenceMap(shown.values, float(shown.values.max()))
        highest = evidence.highest or 1.0
        pictures.append(
            evidence_picture(title, shown.intensity, shown.mask, evidence, SIGN, highest)
        )
    return pictures
