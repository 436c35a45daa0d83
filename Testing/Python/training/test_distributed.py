"""Two processes train one network (DDP over gloo), started as the command does it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from contrastdiagnosis.model.weights import load_network
from contrastdiagnosis_training.runs.run_folder import CHECKPOINT, MODEL
from torch import distributed

from training.conftest import TINY

SCRIPT = f"""
import sys
from pathlib import Path

sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import torch
from training.conftest import TINY
from contrastdiagnosis_training.commands import fit
from contrastdiagnosis_training.network.trainer import Trainer

cases, cache, out = map(Path, sys.argv[1:])


class Watched(Trainer):
    def run_epoch(self):
        terms = super().run_epoch()
        named = dict(self.network.module.named_parameters())
        torch.save(
            {{
                "terms": terms,
                "steps": self.steps,
                "weights": {{n: p.detach() for n, p in named.items()}},
                "gradients": {{n: p.grad for n, p in named.items() if p.grad is not None}},
                "average": dict(self.trained.named_parameters()),
            }},
            out / f"epoch{{self.epoch}}-rank{{self.fabric.global_rank}}.pt",
        )
        return terms


fit.Trainer = Watched
fit.train(
    fit.Fit(cases=(cases,), out=out, fold=0, device="cpu", processes=2, cache=cache), TINY
)
"""


@pytest.fixture(scope="module")
def run(case_folder, cache, store, tmp_path_factory):
    """Folder that two processes trained in: two epochs, the first with the mask's loss alone."""
    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("torch was built without gloo")
    folder = tmp_path_factory.mktemp("distributed")
    script, out = folder / "two.py", folder / "run"
    script.write_text(SCRIPT)
    out.mkdir()
    # A clean environment: the launcher must not take pytest for the program to start again.
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("PYTEST", "COV"))}
    done = subprocess.run(
        [sys.executable, str(script), str(case_folder), str(cache), str(out)],
        env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(params=[1, 2], ids=["mask alone", "all losses"])
def ranks(run, request):
    return [torch.load(run / f"epoch{request.param}-rank{r}.pt") for r in (0, 1)]


@pytest.mark.parametrize("what", ["weights", "gradients", "average"])
def test_both_processes_hold_the_same(ranks, what):
    first, second = (r[what] for r in ranks)
    assert first.keys() == second.keys()
    assert first
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_each_process_saw_other_nodules(ranks):
    """Equal weights in spite of different data: the gradients were shared."""
    assert ranks[0]["terms"].keys() == ranks[1]["terms"].keys()
    assert ranks[0]["terms"] != ranks[1]["terms"]


def test_weights_move_from_epoch_to_epoch(run):
    first, second = (torch.load(run / f"epoch{e}-rank0.pt")["weights"] for e in (1, 2))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_two_processes_share_the_steps_of_an_epoch(ranks, store):
    training = sum(n.fold != 0 for n in store.nodules)
    assert ranks[0]["steps"] == ranks[1]["steps"] < training // 8


def test_the_run_ends_with_one_set_of_weights(run):
    last = torch.load(run / "epoch2-rank0.pt")["average"]
    kept = dict(load_network(run / MODEL, TINY.network).named_parameters())
    for name, value in last.items():
        assert torch.equal(kept[name].detach(), value.detach()), name
    assert not (run / CHECKPOINT).exists()
