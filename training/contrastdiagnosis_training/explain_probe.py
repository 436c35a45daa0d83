"""What the maps of one nodule are worth: everything about it that needs the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from contrastdiagnosis.case_folder import NoduleScan
from contrastdiagnosis.local_cam import LocalCam, pair_maps
from contrastdiagnosis.network import NoduleNet
from contrastdiagnosis.patch import DEFAULT_GEOMETRY, Patch, crop_patch, resample
from numpy.typing import NDArray

from contrastdiagnosis_training.faithfulness import (
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
from contrastdiagnosis_training.judge import Judge
from contrastdiagnosis_training.labels import is_malignant

OFF_CENTRE_VOXELS = 16
"""In plane, along both axes; along the slices half a patch is 16 voxels already."""

NOISE_HU = 20.0
BATCH = 16

Figures = dict[str, float]
Curves = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Witness:
    """A network and the cases it compares with.

    Attributes:
        network: In eval mode, on its device.
        judge: Cases in the network's own space; the nodules that are asked about are new to it.
        options: The variant of the maps.
    """

    network: NoduleNet
    judge: Judge
    options: LocalCam

    def embed(self, intensity: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, p) embeddings of (N, D, H, W) patches, each with its mirror image."""
        device = next(self.network.parameters()).device
        parts = []
        with torch.inference_mode():
            for images in torch.from_numpy(intensity)[:, None].split(BATCH):
                views = torch.cat([images, images.flip(-1)]).to(device)
                z = self.network(views, pyramid=False).embedding.float()
                parts.append(z.unflatten(0, (2, len(images))).mean(dim=0).cpu())
        return torch.cat(parts).numpy()

    def nearest(self, embedding: NDArray[np.float32], patient_id: str) -> int:
        """Position of the nearest case of another patient."""
        return int(self.judge.distance(embedding[None], np.array([patient_id]))[0].argmin())

    def maps(self, intensity: NDArray[np.float32], case: int) -> dict[str, NDArray[np.float32]]:
        """Both signs on the nodule's side of a pair, (D, H, W)."""
        device = next(self.network.parameters()).device
        maps = pair_maps(
            self.network,
            torch.from_numpy(intensity).to(device),
            torch.from_numpy(self.judge.embedding[case][None]).to(device),
            options=self.options,
        )
        side = maps.query
        return {
            "similar": side.similar[0].cpu().numpy(),
            "different": side.different[0].cpu().numpy(),
        }


@dataclass(frozen=True, eq=False)
class Probe:
    """The figures of one nodule.

    Attributes:
        figures: By name.
        curves: (len(SHARES),) by name.
        picture: Off-centre intensity, mask and map, each (D, H, W).
    """

    figures: Figures
    curves: Curves
    picture: tuple[NDArray, NDArray, NDArray]


def probe_nodule(
    witness: Witness,
    strangers: dict[str, list[Witness]],
    scan: NoduleScan,
    patient_id: str,
    random: np.random.Generator,
) -> Probe:
    """Asks everything about the maps of one nodule and its nearest case.

    Args:
        witness: The network that is on trial.
        strangers: Networks whose maps must look different, by what was randomised; figures are
            means over those of a kind.
        scan: The nodule.
        patient_id: Its cases are left out.
        random: Draws crops, noise and the random control.
    """
    patch = crop_patch(scan.volume, scan.center_ras_mm)
    case = witness.nearest(witness.embed(patch.intensity[None])[0], patient_id)
    maps = witness.maps(patch.intensity, case)
    figures, curves = _deletion(witness, patch, case, maps, patient_id, random)
    figures |= _localisation("centred", maps["similar"], _consensus(scan, patch), witness, patch)
    for name, others in strangers.items():
        theirs = [_map_of_nearest(other, patch, patient_id) for other in others]
        correlation = [rank_correlation(maps["similar"], values) for values in theirs]
        figures[f"spearman_{name}"] = float(np.mean(correlation))
    figures |= _stability(witness, scan, patch, case, maps["similar"], random)
    off = crop_patch(scan.volume, scan.center_ras_mm + off_centre_mm(random))
    mask = _consensus(scan, off)
    off_case = witness.nearest(witness.embed(off.intensity[None])[0], patient_id)
    off_maps = witness.maps(off.intensity, off_case)
    figures |= _localisation("off_centre", off_maps["similar"], mask, witness, off)
    off_figures, off_curves = _deletion(witness, off, off_case, off_maps, patient_id, random)
    figures |= {f"off_centre_{name}": value for name, value in off_figures.items()}
    curves |= {f"off_centre_{name}": value for name, value in off_curves.items()}
    figures["same_nearest_label_off_centre"] = float(
        np.equal(*is_malignant(witness.judge.malignancy[[case, off_case]]))
    )
    return Probe(figures, curves, (off.intensity, mask, off_maps["similar"]))


def _map_of_nearest(witness: Witness, patch: Patch, patient_id: str) -> NDArray[np.float32]:
    """The map against the witness's own nearest case."""
    case = witness.nearest(witness.embed(patch.intensity[None])[0], patient_id)
    return witness.maps(patch.intensity, case)["similar"]


def off_centre_mm(random: np.random.Generator) -> NDArray[np.float64]:
    """(3,) RAS shift of `OFF_CENTRE_VOXELS` along i and j, each way at random."""
    step = OFF_CENTRE_VOXELS * np.array(DEFAULT_GEOMETRY.spacing_mm[:0:-1])
    return np.array([*(random.choice([-1, 1], 2) * step), 0.0])


def _consensus(scan: NoduleScan, patch: Patch) -> NDArray[np.bool_]:
    """The readers' consensus on the patch's grid."""
    to_volume = np.linalg.inv(scan.volume.ijk_to_ras) @ patch.ijk_to_ras
    share, _ = resample(scan.consensus, to_volume, patch.intensity.shape, fill=0)
    return share >= 0.5


def _deletion(
    witness: Witness,
    patch: Patch,
    case: int,
    maps: dict[str, NDArray[np.float32]],
    patient_id: str,
    random: np.random.Generator,
) -> tuple[Figures, Curves]:
    fill = local_lung_mean(patch.intensity, patch.valid)
    compared: dict[str, NDArray] = {
        "map": maps["similar"],
        "different": maps["different"],
        "random": random.random(patch.intensity.shape),
        "gaussian": centre_gaussian(),
        "mask": _mask_probability(witness, patch),
    }
    ways = [(name, insert) for name in compared for insert in (False, True)]
    patches = [perturbed(patch.intensity, fill, compared[n], insert, random) for n, insert in ways]
    embedding = witness.embed(np.concatenate([patch.intensity[None], fill[None], *patches]))
    distance = np.linalg.norm(embedding - witness.judge.embedding[case], axis=1)
    probability = witness.judge.probability(embedding, np.full(len(embedding), patient_id))
    # The diagnosis that was given is what is to be explained, whichever it was.
    given = probability if probability[0] > 0.5 else 1 - probability
    figures, curves = {}, {}
    for (name, insert), part in zip(
        ways, np.split(np.arange(2, len(embedding)), len(ways)), strict=True
    ):
        start = 1 if insert else 0
        index = np.concatenate([[start], part])
        way = "insertion" if insert else "deletion"
        for score, values in {
            "distance": closeness(distance[index], distance[0], distance[1]),
            "vote": given[index],
            "raw_distance": distance[index] / distance[1],
        }.items():
            curves[f"{way}_{score}_{name}"] = values
            figures[f"{way}_{score}_{name}"] = float(curve_area(values))
    return figures, curves


def _mask_probability(witness: Witness, patch: Patch) -> NDArray[np.float32]:
    """(D, H, W) the network's own segmentation: a map that explains nothing but where to look."""
    device = next(witness.network.parameters()).device
    image = torch.from_numpy(patch.intensity)[None, None].to(device)
    with torch.inference_mode():
        logits = witness.network(torch.cat([image, image.flip(-1)]), pyramid=False).mask_logits
    straight, mirrored = logits.float().chunk(2)
    return torch.sigmoid((straight + mirrored.flip(-1)) / 2)[0, 0].cpu().numpy()


def _localisation(
    where: str,
    values: NDArray[np.float32],
    mask: NDArray[np.bool_],
    witness: Witness,
    patch: Patch,
) -> Figures:
    near = widened(mask)
    controls: dict[str, NDArray] = {
        "map": values,
        "gaussian": centre_gaussian(),
        "mask": _mask_probability(witness, patch),
    }
    figures = {f"energy_{where}_random": float(near.mean())}
    figures[f"pointing_{where}_random"] = figures[f"energy_{where}_random"]
    for name, control in controls.items():
        figures[f"energy_{where}_{name}"] = energy_inside(control, near)
        figures[f"pointing_{where}_{name}"] = points_inside(control, near)
    return figures


def _stability(
    witness: Witness,
    scan: NoduleScan,
    patch: Patch,
    case: int,
    values: NDArray[np.float32],
    random: np.random.Generator,
) -> Figures:
    """Correlation of the map with that of the patch moved by a voxel, and of a noisy one."""
    step = random.choice([-1, 1], 3)
    moved = crop_patch(
        scan.volume, scan.center_ras_mm + patch.ijk_to_ras[:3, :3] @ step.astype(np.float64)
    )
    there = witness.maps(moved.intensity, case)["similar"]
    # A voxel of the moved patch lies `step` further on the grid of the first one.
    back = np.roll(there, step[::-1], axis=(0, 1, 2))
    inner = (slice(1, -1),) * 3
    low, high = DEFAULT_GEOMETRY.window_hu
    noise = random.normal(0, NOISE_HU / (high - low), patch.intensity.shape).astype(np.float32)
    noisy = np.clip(patch.intensity + noise * patch.valid, 0, 1)
    return {
        "stability_shift": rank_correlation(values[inner], back[inner]),
        "stability_noise": rank_correlation(values, witness.maps(noisy, case)["similar"]),
    }
