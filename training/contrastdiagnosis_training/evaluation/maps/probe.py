"""What the maps of one nodule are worth: everything about it that needs the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import NoduleScan, consensus_on
from contrastdiagnosis.concepts.encoding import infer
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Patch, crop_patch
from contrastdiagnosis.maps.local_cam import pair_maps
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.protocol.map_variant import SIGNS, LocalCam
from numpy.typing import NDArray

from contrastdiagnosis_training.data.labels import is_malignant
from contrastdiagnosis_training.evaluation.maps.faithfulness import (
    centre_gaussian,
    closeness,
    curve_area,
    energy_inside,
    local_lung_mean,
    perturbed,
    points_inside,
    rank_correlation,
    widened,
)
from contrastdiagnosis_training.evaluation.maps.measure import Measure, Place, Score, What
from contrastdiagnosis_training.evaluation.support_vote import SupportVote

OFF_CENTRE_VOXELS = 16
"""In plane, along both axes; along the slices half a patch is 16 voxels already."""

NOISE_HU = 20.0
BATCH = 16

Metrics = dict[Measure, float]
Curves = dict[Measure, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class ProbedNetwork:
    """A network and the cases it compares with.

    Attributes:
        network: In eval mode, on its device.
        support: Cases in the network's own space; the nodules that are asked about are new to it.
        options: The variant of the maps.
    """

    network: NoduleNet
    support: SupportVote
    options: LocalCam

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def infer(
        self, intensity: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mask probabilities (N, D, H, W) and embeddings (N, p) of (N, D, H, W) patches."""
        parts = [
            infer(self.network, intensity[n : n + BATCH], self.device)[:2]
            for n in range(0, len(intensity), BATCH)
        ]
        probability, embedding = zip(*parts, strict=True)
        return np.concatenate(probability), np.concatenate(embedding)

    def nearest(self, embedding: NDArray[np.float32], patient_id: str) -> int:
        """Position of the nearest case of another patient."""
        return int(self.support.distance(embedding[None], np.array([patient_id]))[0].argmin())

    def maps(self, intensity: NDArray[np.float32], case: int) -> dict[str, NDArray[np.float32]]:
        """Both signs on the nodule's side of a pair, (D, H, W)."""
        side = pair_maps(
            self.network,
            torch.from_numpy(intensity).to(self.device),
            torch.from_numpy(self.support.embedding[case][None]).to(self.device),
            options=self.options,
        ).query
        return {sign: getattr(side, sign)[0].cpu().numpy() for sign in SIGNS}


@dataclass(frozen=True, eq=False)
class ProbedPatch:
    """A patch, and what a probed network says of it.

    Attributes:
        patch: The patch.
        mask: (D, H, W) probability: a map that explains nothing but where to look.
        case: Position of the nearest case of another patient.
        maps: Both signs against that case, (D, H, W).
        patient_id: Its cases are left out.
    """

    patch: Patch
    mask: NDArray[np.float32]
    case: int
    maps: dict[str, NDArray[np.float32]]
    patient_id: str


def probe_patch(probed: ProbedNetwork, patch: Patch, patient_id: str) -> ProbedPatch:
    """Shows a patch to a probed network."""
    mask, embedding = probed.infer(patch.intensity[None])
    case = probed.nearest(embedding[0], patient_id)
    return ProbedPatch(patch, mask[0], case, probed.maps(patch.intensity, case), patient_id)


@dataclass(frozen=True, eq=False)
class Probe:
    """The metrics of one nodule.

    Attributes:
        metrics: By what they say.
        curves: (len(SHARES),) likewise.
        picture: Off-centre intensity, mask and map, each (D, H, W).
    """

    metrics: Metrics
    curves: Curves
    picture: tuple[NDArray, NDArray, NDArray]


def probe_nodule(
    probed: ProbedNetwork,
    strangers: dict[str, list[ProbedNetwork]],
    scan: NoduleScan,
    patient_id: str,
    random: np.random.Generator,
) -> Probe:
    """Asks everything about the maps of one nodule and its nearest case.

    Args:
        probed: The network whose maps are measured.
        strangers: Networks whose maps must look different, by what was randomised; metrics are
            means over those of a kind.
        scan: The nodule.
        patient_id: Its cases are left out.
        random: Draws patches, noise and the random control.
    """
    centred = probe_patch(probed, crop_patch(scan.volume, scan.center_ras_mm), patient_id)
    off_point = scan.center_ras_mm + off_centre_mm(random)
    off = probe_patch(probed, crop_patch(scan.volume, off_point), patient_id)
    metrics: Metrics = {}
    curves: Curves = {}
    shown: dict[Place, ProbedPatch] = {"centred": centred, "off-centre": off}
    for place, patch in shown.items():
        areas, ways = _deletion(probed, patch, place, random)
        metrics |= areas
        curves |= ways
    for place, patch in shown.items():
        metrics |= _localisation(place, patch, scan)
    metrics |= _stability(probed, centred, scan, random)
    for name, others in strangers.items():
        theirs = [probe_patch(other, centred.patch, patient_id).maps["similar"] for other in others]
        correlation = [rank_correlation(centred.maps["similar"], values) for values in theirs]
        metrics[Measure("correlation", name)] = float(np.mean(correlation))
    labels = is_malignant(probed.support.malignancy[[centred.case, off.case]])
    metrics[Measure("same label", place="off-centre")] = float(labels[0] == labels[1])
    picture = (off.patch.intensity, consensus_on(scan, off.patch), off.maps["similar"])
    return Probe(metrics, curves, picture)


def off_centre_mm(random: np.random.Generator) -> NDArray[np.float64]:
    """(3,) RAS shift of `OFF_CENTRE_VOXELS` along i and j, each way at random."""
    step = OFF_CENTRE_VOXELS * np.array(DEFAULT_GEOMETRY.spacing_mm[:0:-1])
    return np.array([*(random.choice([-1, 1], 2) * step), 0.0])


def _deletion(
    probed: ProbedNetwork, shown: ProbedPatch, place: Place, random: np.random.Generator
) -> tuple[Metrics, Curves]:
    intensity = shown.patch.intensity
    fill = local_lung_mean(intensity, shown.patch.valid)
    compared: dict[str, NDArray] = {
        "map": shown.maps["similar"],
        "different": shown.maps["different"],
        "random": random.random(intensity.shape),
        "gaussian": centre_gaussian(),
        "mask": shown.mask,
    }
    ways = [(name, insert) for name in compared for insert in (False, True)]
    patches = [perturbed(intensity, fill, compared[n], insert, random) for n, insert in ways]
    _, embedding = probed.infer(np.concatenate([intensity[None], fill[None], *patches]))
    distance = np.linalg.norm(embedding - probed.support.embedding[shown.case], axis=1)
    patient = np.full(len(embedding), shown.patient_id)
    probability = probed.support.probability(embedding, patient)
    # The diagnosis that was given is what is to be explained, whichever it was.
    given = probability if probability[0] > 0.5 else 1 - probability
    curves: Curves = {}
    parts = np.split(np.arange(2, len(embedding)), len(ways))
    for (name, insert), part in zip(ways, parts, strict=True):
        index = np.concatenate([[1 if insert else 0], part])
        way: What = "insertion" if insert else "deletion"
        watched: dict[Score, NDArray[np.float64]] = {
            "distance": closeness(distance[index], distance[0], distance[1]),
            "vote": given[index],
            "raw distance": distance[index] / distance[1],
        }
        curves |= {Measure(way, name, place, score): watched[score] for score in watched}
    return {measure: float(curve_area(values)) for measure, values in curves.items()}, curves


def _localisation(place: Place, shown: ProbedPatch, scan: NoduleScan) -> Metrics:
    near = widened(consensus_on(scan, shown.patch))
    controls: dict[str, NDArray] = {
        "map": shown.maps["similar"],
        "gaussian": centre_gaussian(),
        "mask": shown.mask,
        "random": np.ones(near.shape),
    }
    metrics = {}
    for name, control in controls.items():
        metrics[Measure("energy", name, place)] = energy_inside(control, near)
        metrics[Measure("pointing", name, place)] = points_inside(control, near)
    return metrics


def _stability(
    probed: ProbedNetwork, shown: ProbedPatch, scan: NoduleScan, random: np.random.Generator
) -> Metrics:
    """Correlation of the map with that of the patch moved by a voxel, and of a noisy one."""
    patch, values = shown.patch, shown.maps["similar"]
    step = random.choice([-1, 1], 3)
    moved_mm = patch.ijk_to_ras[:3, :3] @ step.astype(np.float64)
    moved = crop_patch(scan.volume, scan.center_ras_mm + moved_mm)
    there = probed.maps(moved.intensity, shown.case)["similar"]
    # A voxel of the moved patch lies `step` further on the grid of the first one.
    back = np.roll(there, step[::-1], axis=(0, 1, 2))
    inner = (slice(1, -1),) * 3
    low, high = DEFAULT_GEOMETRY.window_hu
    noise = random.normal(0, NOISE_HU / (high - low), values.shape).astype(np.float32)
    noisy = np.clip(patch.intensity + noise * patch.valid, 0, 1)
    return {
        Measure("stability", "shift"): rank_correlation(values[inner], back[inner]),
        Measure("stability", "noise"): rank_correlation(
            values, probed.maps(noisy, shown.case)["similar"]
        ),
    }
