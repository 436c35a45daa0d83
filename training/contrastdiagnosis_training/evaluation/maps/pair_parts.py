"""How much of the distances between nodules the mask's statistics make, which no map can show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import read_scan
from contrastdiagnosis.diagnosis.diagnoser import SHOWN_CASES
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.maps.distance_parts import patch_statistics, statistics_share
from numpy.typing import NDArray

from contrastdiagnosis_training.evaluation.unseen import UnseenNodules


def pair_parts(
    unseen_sets: Sequence[UnseenNodules], chosen: Sequence[Sequence[int]], device: torch.device
) -> dict[str, Any]:
    """Metrics of the share over `all` pairs, and over each nodule with its `nearest` few.

    Pairs are of the chosen nodules of one set, and of two patients.

    Args:
        unseen_sets: Networks and nodules.
        chosen: Positions in each set's rows.
        device: Where the networks are.
    """
    shares, distances = [], []
    for unseen, mine in zip(unseen_sets, chosen, strict=True):
        if len(mine):
            share, distance = _matrices(unseen, np.array(mine), device)
            shares.append(share)
            distances.append(distance)
    pairs = [s[np.triu(np.isfinite(s))] for s in shares]
    nearest = []
    for share, distance in zip(shares, distances, strict=True):
        known = np.where(np.isfinite(share), distance, np.inf)
        order = np.argsort(known, axis=1, kind="stable")[:, :SHOWN_CASES]
        near = np.take_along_axis(share, order, axis=1)
        nearest.append(near[np.isfinite(near)])
    return {"all": _metrics(np.concatenate(pairs)), "nearest": _metrics(np.concatenate(nearest))}


def _matrices(
    unseen: UnseenNodules, chosen: NDArray[np.int64], device: torch.device
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, N) shares, NaN of pairs that do not count, and distances."""
    network = unseen.network
    scans = (read_scan(unseen.rows[n]) for n in chosen)
    patches = (crop_patch(s.volume, s.center_ras_mm).intensity for s in scans)
    statistics = np.concatenate([patch_statistics(network, p[None], device) for p in patches])
    embedding, patient = unseen.predictions.embedding[chosen], unseen.predictions.patient_id[chosen]
    share = np.full((len(chosen), len(chosen)), np.nan)
    distance = np.full_like(share, np.nan)
    for n in range(len(chosen)):
        gaps = (torch.from_numpy(x[n] - x).to(device) for x in (embedding, statistics))
        share[n] = statistics_share(network, *gaps).cpu().numpy()
        distance[n] = np.linalg.norm(embedding[n] - embedding, axis=1)
    share[patient[:, None] == patient[None]] = np.nan
    return share, distance


def _metrics(share: NDArray[np.float64]) -> dict[str, Any]:
    """Mean, spread and how often a part works against the other; None of no pair."""
    if not len(share):
        return dict.fromkeys(("mean", "sd", "p5", "p95", "below_0", "above_1")) | {"n": 0}
    low, high = np.quantile(share, [0.05, 0.95])
    return {
        "n": len(share),
        "mean": float(share.mean()),
        "sd": float(share.std()),
        "p5": float(low),
        "p95": float(high),
        "below_0": float((share < 0).mean()),
        "above_1": float((share > 1).mean()),
    }


def parts_lines(metrics: dict[str, Any]) -> list[str]:
    """The metrics as text."""
    lines = ["share of the distance that size, density and outline make, and no map can show"]
    for name, title in (
        ("all", "all pairs"),
        ("nearest", f"each nodule and its nearest {SHOWN_CASES}"),
    ):
        f = metrics[name]
        lines.append(
            f"  {title:34}{f['mean']:8.3f}, sd {f['sd']:.3f}, 5-95 % {f['p5']:.2f} to"
            f" {f['p95']:.2f}; below 0 {f['below_0']:.1%}, above 1 {f['above_1']:.1%} of {f['n']}"
            if f["n"]
            else f"  {title:34}{'-':>8}"
        )
    return lines
