"""What an encoder knows of lesions, healthy tissue and quality, on patients that it never saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.report.charts import Chart, Series
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from contrastdiagnosis_training.objectives.metrics import auc
from contrastdiagnosis_training.pretraining.encoder import pooled_features, projected_encoder
from contrastdiagnosis_training.pretraining.recipe import (
    HEALTHY,
    LESION,
    POOR_HEALTHY,
    POOR_LESION,
    SETS,
)
from contrastdiagnosis_training.pretraining.sets import FourSets

BATCH = 32
PARTS = 5
COLOURS = {LESION: "#b5392b", POOR_LESION: "#e8a79f", HEALTHY: "#1f6f8b", POOR_HEALTHY: "#9cc9d8"}


class SetFeatures(NamedTuple):
    """Pooled features of the members of the four sets.

    Attributes:
        features: (M, C) by set.
        patient: (M,) by set.
        member: (M,) by set: position in its tissue, by which a patch of L is found in L~.
    """

    features: dict[str, NDArray[np.float32]]
    patient: dict[str, NDArray[np.int64]]
    member: dict[str, NDArray[np.int64]]


@torch.inference_mode()
def set_features(network: NoduleNet, sets: FourSets, seed: int = 0) -> SetFeatures:
    """Features of the patches, centred and not augmented, poor ones made poor alike for each run.

    Args:
        network: On its device; stem and encoder count.
        sets: Of unseen patients.
        seed: Draws how good images are made poor.
    """
    device = next(network.parameters()).device
    encoder = projected_encoder(network, 1).to(device).eval()
    told = SetFeatures({}, {}, {})
    for name in SETS:
        draws = torch.Generator(device).manual_seed(seed)
        found, members = [], sets.members(name)
        for part in members.split(BATCH):
            views = sets.whole_views(name, part, draws)
            found.append(pooled_features(encoder, views).float().cpu().numpy())
        told.features[name] = np.concatenate(found)
        told.patient[name] = sets.tissue(name).patient[members].numpy()
        told.member[name] = members.numpy()
    return told


def set_figures(told: SetFeatures) -> dict[str, float]:
    """How well the features tell what they should, by a linear probe on other patients.

    `lesion` and `lesion, poor`: AUC of lesions against healthy tissue; `quality`: AUC of good
    against poor images of lesions, which is to be ignored or known as one likes; `same nodule`:
    share of the good images whose nearest lesion in poor images is the same nodule.
    """
    return {
        "lesion": _probed(told, (HEALTHY,), (LESION,)),
        "lesion, poor": _probed(told, (POOR_HEALTHY,), (POOR_LESION,)),
        "quality": _probed(told, (LESION,), (POOR_LESION,)),
        "same nodule": _same_nodule(told),
    }


def _probed(told: SetFeatures, no: tuple[str, ...], yes: tuple[str, ...]) -> float:
    """AUC of a logistic regression that never saw the patients it is asked about."""
    x = np.concatenate([told.features[s] for s in (*no, *yes)])
    patient = np.concatenate([told.patient[s] for s in (*no, *yes)])
    truth = np.concatenate([np.full(len(told.features[s]), s in yes) for s in (*no, *yes)])
    parts = min(PARTS, len(set(patient[truth].tolist())), len(set(patient[~truth].tolist())))
    if parts < 2:
        return float("nan")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=0)
    odds = cross_val_predict(model, x, truth, groups=patient, cv=folds, method="decision_function")
    return auc(odds, truth)


def _same_nodule(told: SetFeatures) -> float:
    good, poor = told.features[LESION], told.features[POOR_LESION]
    gap = np.linalg.norm(good[:, None].astype(np.float64) - poor[None], axis=-1)
    nearest = told.member[POOR_LESION][gap.argmin(axis=1)]
    return float((nearest == told.member[LESION]).mean())


def tsne_chart(name: str, told: SetFeatures) -> Chart:
    """The four sets in the plane, by t-SNE of the features (scikit-learn's own defaults).

    Args:
        name: Of the run.
        told: Its features.
    """
    x = np.concatenate([told.features[s] for s in SETS])
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    perplexity = min(30.0, (len(x) - 1) / 3)
    place = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(x)
    series, start = [], 0
    for s in SETS:
        points = place[start : start + len(told.features[s])]
        start += len(points)
        series.append(Series(s, "dots", COLOURS[s], [(float(a), float(b)) for a, b in points]))
    (x_low, y_low), (x_high, y_high) = place.min(axis=0), place.max(axis=0)
    return Chart(
        name, "t-SNE", "t-SNE", tuple(series), (float(x_low), float(x_high)),
        (float(y_low), float(y_high)),
    )  # fmt: skip


def figures_text(figures: Mapping[str, Mapping[str, float]]) -> str:
    """The figures of every run as a table."""
    names = list(next(iter(figures.values())))
    lines = [f"{'':24}" + "".join(f"{name:>16}" for name in names)]
    for run, told in figures.items():
        lines.append(f"{run:24}" + "".join(f"{told[name]:>16.3f}" for name in names))
    return "\n".join(lines)
