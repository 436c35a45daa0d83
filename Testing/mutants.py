"""Whether the tests see what they should: faults put into central functions, one at a time.

`make mutants`, or `python Testing/mutants.py 3 17` for single ones. A mutant is caught where one of
the tests named with it fails; these are the tests of its own file, a part of the suite.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
ENGINE = "ContrastDiagnosisSlicer/contrastdiagnosis"
SLICER = "ContrastDiagnosisSlicer/ContrastDiagnosisLib"
TRAINING = "training/contrastdiagnosis_training"
LEAST_CAUGHT = 0.93
LIMIT_S = 900


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        file: Where, from the repository's root.
        sound: What stands there, once.
        faulty: What is put in its place.
        tests: Files below Testing/Python that are run.
    """

    file: str
    sound: str
    faulty: str
    tests: tuple[str, ...]


MUTANTS = (
    # Geometry and imaging
    Mutant(
        f"{ENGINE}/imaging/patch.py",
        "np.diag([-i, -j, k, 1.0])",
        "np.diag([i, -j, k, 1.0])",
        ("engine/test_patch.py",),
    ),
    Mutant(
        f"{ENGINE}/imaging/patch.py",
        "middle = (np.array(self.shape[::-1]) - 1) / 2",
        "middle = np.array(self.shape[::-1]) / 2",
        ("engine/test_patch.py",),
    ),
    Mutant(
        f"{ENGINE}/imaging/patch.py",
        "shift[:3, 3] = start[::-1]",
        "shift[:3, 3] = start",
        ("engine/test_patch.py",),
    ),
    Mutant(
        f"{ENGINE}/imaging/patch.py",
        "valid &= share < 0.5",
        "valid &= share > 0.5",
        ("engine/test_patch.py",),
    ),
    Mutant(
        f"{ENGINE}/imaging/volume.py",
        "return LPS_TO_RAS @ affine\n",
        "return affine @ LPS_TO_RAS\n",
        ("engine/test_volume.py",),
    ),
    Mutant(
        f"{ENGINE}/imaging/reading/dicom_hounsfield.py",
        "return wide * int(slope) + int(intercept)",
        "return wide * int(slope) - int(intercept)",
        ("engine/test_dicom_pixels.py",),
    ),
    Mutant(
        f"{ENGINE}/imaging/measure.py",
        "np.array([-along[1], along[0]])",
        "np.array([along[0], along[1]])",
        ("engine/test_measure.py",),
    ),
    # Network, distance, vote, trust
    Mutant(
        f"{ENGINE}/model/network.py",
        "functional.relu(torch.sigmoid(mask_logits) - HAZE) / (1 - HAZE)",
        "torch.sigmoid(mask_logits)",
        ("engine/test_network.py",),
    ),
    Mutant(
        f"{ENGINE}/model/mask_statistics.py",
        "(area + 1).log() - 2 / 3 * log_volume",
        "(area + 1).log() + 2 / 3 * log_volume",
        ("engine/test_network.py",),
    ),
    Mutant(
        f"{ENGINE}/model/align_dist.py",
        "torch.linalg.vector_norm(a - b, dim=-1)",
        "torch.linalg.vector_norm(a - b, ord=1, dim=-1)",
        ("engine/test_network.py", "engine/test_local_cam.py"),
    ),
    Mutant(
        f"{ENGINE}/concepts/encoding.py",
        "torch.sigmoid((logits + mirrored.flip(-1)) / 2)",
        "torch.sigmoid((logits + mirrored) / 2)",
        ("engine/test_encoding.py", "engine/test_diagnoser.py"),
    ),
    Mutant(
        f"{ENGINE}/cases/vote.py",
        "np.exp(-(distance - nearest) / self.temperature)",
        "np.exp((distance - nearest) / self.temperature)",
        ("engine/test_vote.py",),
    ),
    Mutant(
        f"{ENGINE}/cases/vote.py",
        "expit(self.slope * logit(score) + self.intercept)",
        "expit(self.slope * logit(score) - self.intercept)",
        ("engine/test_vote.py",),
    ),
    Mutant(
        f"{ENGINE}/cases/library.py",
        "squared[own] = np.inf",
        "squared[own] += 1e-6",
        ("engine/test_cases.py",),
    ),
    Mutant(
        f"{ENGINE}/trust/confidence.py",
        "(1 + self.matched.size - nearer)",
        "(self.matched.size - nearer)",
        ("engine/test_confidence.py",),
    ),
    Mutant(
        f"{ENGINE}/trust/confidence.py",
        "if nearest > threshold:",
        "if nearest < threshold:",
        ("engine/test_confidence.py",),
    ),
    Mutant(
        f"{ENGINE}/trust/confidence_rule.py",
        "if facts.cut_share >= CUT_THROUGH:",
        "if facts.cut_share > 1 + CUT_THROUGH:",
        ("engine/test_confidence_rule.py",),
    ),
    Mutant(
        f"{ENGINE}/trust/cues.py",
        "np.log(extents[2] / extents[1])",
        "np.log(extents[2] / extents[0])",
        ("engine/test_cues.py",),
    ),
    # Maps
    Mutant(
        f"{ENGINE}/maps/local_cam.py",
        "window_mean(sign * gradient, options.window_cells)",
        "window_mean(-sign * gradient, options.window_cells)",
        ("engine/test_local_cam.py",),
    ),
    Mutant(
        f"{ENGINE}/maps/local_cam.py",
        "differs * (straight + mirrored.flip(-1)) / 2",
        "differs * (straight + mirrored) / 2",
        ("engine/test_local_cam.py",),
    ),
    # Concepts
    Mutant(
        f"{ENGINE}/concepts/boxes.py",
        "(away + reach <=",
        "(away - reach <=",
        ("engine/test_revision.py", "engine/test_concept_prediction.py"),
    ),
    Mutant(
        f"{ENGINE}/concepts/boxes.py",
        "weight[~np.any(looked, axis=0)] = elsewhere",
        "weight[np.any(looked, axis=0)] = elsewhere",
        ("engine/test_revision.py", "engine/test_concept_prediction.py"),
    ),
    Mutant(
        f"{ENGINE}/concepts/head.py",
        "((scores - self.absent) * self.kept * self.decision_weight)",
        "((scores - self.absent) * self.decision_weight)",
        ("engine/test_concepts.py", "engine/test_pruning.py"),
    ),
    Mutant(
        f"{ENGINE}/concepts/head.py",
        "(scores * self.kept * self.presence_weight).sum(dim=-1)",
        "(scores * self.presence_weight).sum(dim=-1)",
        ("engine/test_concepts.py",),
    ),
    Mutant(
        f"{ENGINE}/concepts/concept_prediction.py",
        "larger = (share > 0.5) == (concept.at_least is not None)",
        "larger = (share > 0.5) != (concept.at_least is not None)",
        ("engine/test_concept_prediction.py",),
    ),
    # Training: losses, figures, who is tested on what
    Mutant(
        f"{TRAINING}/objectives/losses.py",
        "functional.relu(margin - distance)",
        "functional.relu(distance - margin)",
        ("training/test_losses.py",),
    ),
    Mutant(
        f"{TRAINING}/objectives/losses.py",
        "(share * cosine).sum(dim=-1) + margin * own",
        "(share * cosine).sum(dim=-1) - margin * own",
        ("training/test_losses.py",),
    ),
    Mutant(
        f"{TRAINING}/objectives/metrics.py",
        "(positive * (below + negative / 2))",
        "(positive * (below + negative))",
        ("training/test_metrics.py",),
    ),
    Mutant(
        f"{TRAINING}/data/splits.py",
        "rest = np.flatnonzero((known >= 0) & (known != fold))",
        "rest = np.flatnonzero(known >= 0)",
        ("training/test_splits.py",),
    ),
    Mutant(
        f"{TRAINING}/evaluation/support_vote.py",
        "distance[patient_id[:, None] == self.patient_id[None]] = np.inf",
        "distance[patient_id[:, None] == self.patient_id[None]] += 1e-6",
        ("training/test_support_vote.py",),
    ),
    Mutant(
        f"{TRAINING}/data/augment.py",
        "theta[:, 1, 0], theta[:, 1, 1] = sin * flip_x, cos * flip_y",
        "theta[:, 1, 0], theta[:, 1, 1] = sin, cos",
        ("training/test_augment.py",),
    ),
    Mutant(
        f"{TRAINING}/objectives/losses.py",
        "((share - 0.25) * 4).clamp(0, 1)",
        "((share - 0.5) * 4).clamp(0, 1)",
        ("training/test_losses.py",),
    ),
    # The Slicer side
    Mutant(
        f"{SLICER}/Scene/VolumeBridge.py",
        "_shifted(affine, low, (1, 1, 1))",
        "_shifted(affine, low[::-1], (1, 1, 1))",
        ("slicer_side/test_volume_bridge.py",),
    ),
    # Poor images and pre-training
    Mutant(
        f"{TRAINING}/objectives/info_nce.py",
        "others = others.masked_fill(~allowed, -torch.inf)",
        "others = others.masked_fill(allowed, -torch.inf)",
        ("training/test_info_nce.py",),
    ),
    Mutant(
        f"{TRAINING}/objectives/self_paced.py",
        "selected = loss < 1 / kept",
        "selected = loss > 1 / kept",
        ("training/test_self_paced.py",),
    ),
    Mutant(
        f"{TRAINING}/pretraining/encoder.py",
        "kept.copy_(now)",
        "kept.lerp_(now, 1 - momentum) if kept.is_floating_point() else kept.copy_(now)",
        ("training/test_pretrainer.py",),
    ),
    Mutant(
        f"{TRAINING}/pretraining/sources.py",
        "return patient not in kept_out",
        "return patient not in _patients(store, split.validation)",
        ("training/test_pretrain_command.py",),
    ),
    Mutant(
        f"{TRAINING}/data/degradations/volume.py",
        "hu[padding] = DEFAULT_GEOMETRY.window_hu[0]",
        "hu[padding] = hu[padding]",
        ("training/test_robustness.py", "training/test_degrade_command.py"),
    ),
    Mutant(
        f"{TRAINING}/evaluation/robustness/poor_verdicts.py",
        "chosen = [verdicts for fold, verdicts in by_fold if fold != without]",
        "chosen = [verdicts for fold, verdicts in by_fold]",
        ("training/test_robust_commands.py",),
    ),
    Mutant(
        f"{ENGINE}/imaging/noise.py",
        "change_hu / np.sqrt(2 * (1 - alike))",
        "change_hu / np.sqrt(2)",
        ("engine/test_noise.py",),
    ),
    Mutant(
        f"{ENGINE}/trust/poor_image.py",
        "return 0 < self.low >= probability or 1 > self.high <= probability",
        "return 0 < self.low >= probability or 1 > self.high",
        ("engine/test_poor_image.py",),
    ),
    Mutant(
        f"{ENGINE}/trust/poor_image.py",
        "np.clip(apart, -most, most) if most.size else apart",
        "apart",
        ("engine/test_poor_image.py",),
    ),
    Mutant(
        f"{TRAINING}/evaluation/quality_rows.py",
        "for fault in faults_of(operation):",
        "for fault in faults_of(operation)[:1]:",
        ("training/test_image_quality_trial.py",),
    ),
    Mutant(
        f"{ENGINE}/trust/poor_image.py",
        "if beyond or verdicts is None or probability is None:",
        "if verdicts is None or probability is None:",
        ("engine/test_confidence_rule.py",),
    ),
    Mutant(
        f"{ENGINE}/diagnosis/diagnoser.py",
        "nothing_there=bool(confidence.nothing_there)",
        "nothing_there=False",
        ("engine/test_no_verdict.py", "engine/test_confidence_rule.py"),
    ),
    Mutant(
        f"{TRAINING}/commands/quality_fit.py",
        "learnt = rows[rows.fold >= 0]",
        "learnt = rows",
        ("training/test_image_quality_trial.py",),
    ),
    Mutant(
        f"{TRAINING}/data/columns.py",
        "json.dumps([kind.__name__, made_from])",
        "json.dumps([kind.__name__])",
        ("training/test_gate.py",),
    ),
    Mutant(
        f"{TRAINING}/pretraining/sets.py",
        ".mirrored(_as_many(poor, poor_healthy, beside))",
        "",
        ("training/test_pretraining_sets.py",),
    ),
    Mutant(
        f"{ENGINE}/trust/poor_image.py",
        "    slight = unmeasured(kind, measure)\n",
        "    slight = np.asarray(False)\n",
        ("engine/test_poor_image.py",),
    ),
    Mutant(
        f"{ENGINE}/trust/poor_image.py",
        "band = mine[0] if probability <= 0.5 else mine[-1]",
        "band = mine[0]",
        ("engine/test_confidence_rule.py",),
    ),
    Mutant(
        f"{TRAINING}/evaluation/robustness/poor_verdicts.py",
        "for worth in fit_poor_verdicts(told, without=fold)",
        "for worth in fit_poor_verdicts(told)",
        ("training/test_robust_commands.py",),
    ),
    Mutant(
        f"{TRAINING}/evaluation/robustness/degraded.py",
        "told.read_text().strip() != weights",
        "not weights",
        ("training/test_robustness.py",),
    ),
    Mutant(
        f"{ENGINE}/trust/poor_image.py",
        "slight |= still & (",
        "slight |= False & (",
        ("training/test_shipped_quality.py",),
    ),
    Mutant(
        f"{ENGINE}/trust/poor_image.py",
        "if remark and last[remark] == n else sentence",
        "if remark else sentence",
        ("engine/test_poor_image.py",),
    ),
    Mutant(
        f"{TRAINING}/evaluation/quality_rows.py",
        ", voxels.hexdigest())",
        ")",
        ("training/test_robust_commands.py",),
    ),
)


def main(numbers: list[int]) -> int:
    """Tries the mutants of these numbers, counted from 1, or all; the exit status."""
    chosen = [(n, MUTANTS[n - 1]) for n in numbers or range(1, len(MUTANTS) + 1)]
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder) / "repository")
        needed = sorted({test for _, mutant in chosen for test in mutant.tests})
        if run(copy, needed):
            print("The tests fail without any mutant: nothing can be told.")
            return 2
        survived = [n for n, mutant in chosen if not is_caught(copy, n, mutant)]
    caught = len(chosen) - len(survived)
    print(f"{caught} of {len(chosen)} caught; survived: {survived or 'none'}")
    return int(caught < LEAST_CAUGHT * len(chosen))


def copied(target: Path) -> Path:
    """A copy of the files that git knows or would add."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    return target


def is_caught(copy: Path, number: int, mutant: Mutant) -> bool:
    """Puts a mutant in, runs its tests and takes it out again."""
    file = copy / mutant.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.sound) != 1:
        raise SystemExit(f"mutant {number}: {mutant.file} has not once: {mutant.sound}")
    file.write_text(text.replace(mutant.sound, mutant.faulty), encoding="utf-8")
    caught = run(copy, mutant.tests) != 0
    file.write_text(text, encoding="utf-8")
    told = "caught  " if caught else "SURVIVED"
    print(f"{number:3} {told} {mutant.file}: {mutant.faulty.strip()}", flush=True)
    return caught


def run(copy: Path, tests: tuple[str, ...] | list[str]) -> int:
    """The exit status of pytest in the copy, whose packages it takes."""
    packages = os.pathsep.join(str(copy / name) for name in ("ContrastDiagnosisSlicer", "training"))
    environment = os.environ | {"PYTHONPATH": packages, "OMP_NUM_THREADS": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # Files change faster than their time stamps tell.
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [f"Testing/Python/{test}" for test in tests]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=LIMIT_S)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main([int(n) for n in sys.argv[1:]]))
