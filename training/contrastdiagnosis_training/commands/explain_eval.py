"""`contrastdiagnosis-train explain-eval`: the proof that maps and confidence tell the truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from contrastdiagnosis.bundle.bundle import default_bundle_folder
from contrastdiagnosis.cases.case_folder import Nodule, read_case_folder, read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_outputs, write_file
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.model.device import choose_device
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.protocol.map_variant import LocalCam
from numpy.typing import NDArray

from contrastdiagnosis_training.evaluation.gate import read_answers
from contrastdiagnosis_training.evaluation.maps.measure import CONTROLS, as_records
from contrastdiagnosis_training.evaluation.maps.pair_parts import pair_parts
from contrastdiagnosis_training.evaluation.maps.probe import Probe, ProbedNetwork, probe_nodule
from contrastdiagnosis_training.evaluation.maps.report import render_explain_report, table
from contrastdiagnosis_training.evaluation.metrics import strict
from contrastdiagnosis_training.evaluation.support_vote import SupportVote
from contrastdiagnosis_training.evaluation.trust import confidence, rating_agreement
from contrastdiagnosis_training.evaluation.unseen import (
    UnseenNodules,
    unseen_of_bundle,
    unseen_of_crossfit,
)
from contrastdiagnosis_training.objectives.metrics import paired_p
from contrastdiagnosis_training.progress import Bar
from contrastdiagnosis_training.runs.run_folder import network_of_run

RANDOM_NETWORKS = 3
"""Drawn at random for the sanity check; their mean is reported."""


@dataclass(frozen=True)
class ExplainEval:
    """Measure how faithful maps, neighbours and confidence are."""

    cases: Path
    """Case folder whose nodules are asked about."""
    bundle: Path | None = None
    """Bundle folder; the one that comes with the program if neither this nor --crossfit is
    given."""
    crossfit: Path | None = None
    """Folder that `crossfit` filled: each nodule is asked of the network that never saw its
    patient."""
    folds: tuple[int, ...] | None = None
    """Only these folds of --crossfit."""
    gate: Path | None = None
    """What `gate-fit --answers` kept: confidence of --crossfit is then judged by limits and gate as
    shipped, fitted for each fold without its patients."""
    concepts: Path | None = None
    """Folder that `concepts` filled for --crossfit: its concepts of size may contradict the
    measured one, as shipped."""
    shuffled: Path | None = None
    """Run folder of a `fit` with --change shuffle_labels=True: its maps must look different."""
    nodules: int = 150
    """How many nodules the maps are made for, drawn at random; 0 takes all. Neighbours and
    confidence are measured on all of them."""
    map: LocalCam = field(default_factory=LocalCam)
    """The variant of the maps."""
    json: Path | None = None
    """Write the metrics here."""
    html: Path | None = None
    """Write the report here. It shows nodules of the case folder."""
    seed: int = 0
    """Draws nodules, patches, noise and controls."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run."""

    def run(self) -> None:
        """Measures, prints, writes."""
        check_outputs({"the metrics": self.json, "the page": self.html}, [self.gate])
        if self.bundle and self.crossfit:
            raise InputError("wanted --bundle or --crossfit, got both")
        if (self.gate or self.concepts) and not self.crossfit:
            raise InputError("--gate and --concepts go with --crossfit: a bundle has its own")
        if self.nodules < 0:
            raise InputError(f"--nodules must not be negative, got {self.nodules}")
        rows = read_case_folder(self.cases)
        device = choose_device(self.device)
        unseen_sets = self._unseen(rows, device)
        metrics, probes = explain_metrics(unseen_sets, self, device)
        print(table(metrics))
        if self.json:
            write_file(self.json, (json.dumps(strict(metrics), indent=1) + "\n").encode())
            print(f"wrote {self.json}")
        if self.html:
            page = render_explain_report(strict(metrics), probes, rows[0].case_source.notice)
            write_file(self.html, page.encode())
            print(f"wrote {self.html}")

    def _unseen(self, rows: Sequence[Nodule], device: torch.device) -> list[UnseenNodules]:
        if not self.crossfit:
            return [unseen_of_bundle(self.bundle or default_bundle_folder(), rows, device)]
        answers = read_answers(self.gate)
        return unseen_of_crossfit(self.crossfit, rows, self.folds, device, answers, self.concepts)


def explain_metrics(
    unseen_sets: Sequence[UnseenNodules], options: ExplainEval, device: torch.device
) -> tuple[dict[str, Any], list[Probe]]:
    """All metrics, and the probes of the nodules that maps were made for."""
    chosen = drawn_nodules(unseen_sets, options)
    probes, patients = probe_unseen(unseen_sets, chosen, options, device)
    # A fold of which one patient was drawn has no random networks to compare with.
    measures = dict.fromkeys(measure for p in probes for measure in p.metrics)
    maps = {m: float(np.nanmean([p.metrics.get(m, np.nan) for p in probes])) for m in measures}
    curves = {
        m: np.nanmean([p.curves[m] for p in probes], axis=0).tolist() for m in probes[0].curves
    }
    seen = sum(t.of_patients_in_cases for t in unseen_sets)
    return {
        "protocol": ", ".join(t.name for t in unseen_sets)
        + f" on {options.cases.name}; maps of {len(probes)} nodules, the rest on"
        f" {sum(len(t.rows) for t in unseen_sets)}"
        + (f"; {seen} are of patients it was made from: no held-out figure" if seen else ""),
        "variant": asdict(options.map),
        "n_maps": len(probes),
        "n": sum(len(t.rows) for t in unseen_sets),
        "maps": as_records(maps),
        "against": _against(probes, patients),
        "parts": pair_parts(unseen_sets, chosen, device),
        "curves": as_records(curves, "values"),
        "confidence": confidence(unseen_sets),
        "ratings": rating_agreement(unseen_sets),
    }, probes


def drawn_nodules(unseen_sets: Sequence[UnseenNodules], options: ExplainEval) -> list[list[int]]:
    """Positions of the drawn nodules in the rows of each set."""
    random = np.random.default_rng(options.seed)
    everyone = [(t, n) for t in range(len(unseen_sets)) for n in range(len(unseen_sets[t].rows))]
    count = min(options.nodules or len(everyone), len(everyone))
    chosen = sorted(random.choice(len(everyone), count, replace=False).tolist())
    return [
        [everyone[c][1] for c in chosen if everyone[c][0] == t] for t in range(len(unseen_sets))
    ]


def probe_unseen(
    unseen_sets: Sequence[UnseenNodules],
    chosen: Sequence[Sequence[int]],
    options: ExplainEval,
    device: torch.device,
) -> tuple[list[Probe], NDArray]:
    """Probes of the drawn nodules and the patient of each."""
    probes, patients = [], []
    with Bar(total=sum(map(len, chosen)), unit="nodule", leave=False) as bar:
        for t, (unseen, mine) in enumerate(zip(unseen_sets, chosen, strict=True)):
            probed = ProbedNetwork(unseen.network, unseen.support, options.map)
            strangers = _strangers(unseen, mine, options, device)
            for n in mine:
                row = unseen.rows[n]
                draws = np.random.default_rng([options.seed, t, n])
                probes.append(
                    probe_nodule(probed, strangers, read_scan(row), row.patient_id, draws)
                )
                patients.append(row.patient_id)
                bar.update()
    if not probes:
        raise InputError("no nodule was drawn")
    return probes, np.array(patients)


def _strangers(
    unseen: UnseenNodules, chosen: Sequence[int], options: ExplainEval, device: torch.device
) -> dict[str, list[ProbedNetwork]]:
    """Networks with random weights and, if there is one, from shuffled labels."""
    networks = {"random weights": [_untrained(unseen.network, n) for n in range(RANDOM_NETWORKS)]}
    if options.shuffled:
        networks["random labels"] = [network_of_run(options.shuffled)]
    if len({unseen.rows[n].patient_id for n in chosen}) < 2:
        return {}
    scans = [read_scan(unseen.rows[n]) for n in chosen]
    patches = np.stack([crop_patch(s.volume, s.center_ras_mm).intensity for s in scans])
    nodules = unseen.predictions[np.array(chosen)]

    def probed(network: NoduleNet) -> ProbedNetwork:
        network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        nowhere = np.zeros((len(chosen), network.config.embedding), np.float32)
        support = SupportVote(nowhere, nodules.patient_id, nodules.malignancy, nodules.diameter_mm)
        blind = ProbedNetwork(network, support, options.map)
        return replace(blind, support=replace(support, embedding=blind.infer(patches)[1]))

    return {name: [probed(n) for n in kind] for name, kind in networks.items()}


def _untrained(network: NoduleNet, seed: int) -> NoduleNet:
    torch.manual_seed(seed)
    return NoduleNet(network.config).eval().requires_grad_(False)


def _against(probes: Sequence[Probe], patients: NDArray) -> list[dict[str, Any]]:
    """Paired differences of the map from each control, as better minus worse."""
    compared = []
    for measure in probes[0].metrics:
        if measure.of != "map" or measure.what not in ("deletion", "insertion", "energy"):
            continue
        for control in CONTROLS:
            ours, theirs = (
                np.array([p.metrics[measure._replace(of=of)] for p in probes])
                for of in ("map", control)
            )
            known = np.isfinite(ours) & np.isfinite(theirs)
            gain = (theirs - ours if measure.lower_is_better else ours - theirs)[known]
            if not len(gain):
                continue
            scale = abs(float(theirs[known].mean()))
            compared.append(
                {
                    "what": measure.what,
                    "place": measure.place,
                    "score": measure.score,
                    "over": control,
                    "gain": float(gain.mean()),
                    # A control that reaches 0 throughout, as on very few nodules, is no measure.
                    "relative": float(gain.mean()) / scale if scale else None,
                    "p": paired_p(gain, patients[known]),
                }
            )
    return compared
