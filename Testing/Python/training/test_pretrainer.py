"""`PreTrainer` and its loss: against plain loops, equal after a restart, sets in their place."""

from __future__ import annotations

import io
import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.model.network import NoduleNet, NoduleNetConfig
from contrastdiagnosis.model.stem import space_to_channels
from contrastdiagnosis_training.data.patch_store import STORE_GEOMETRY, STORED
from contrastdiagnosis_training.objectives.self_paced import negatives_kept
from contrastdiagnosis_training.pretraining import objective, trainer
from contrastdiagnosis_training.pretraining import sets as sets_module
from contrastdiagnosis_training.pretraining.encoder import (
    embedded,
    encoder_weights,
    follow,
    pooled_features,
    projected_encoder,
)
from contrastdiagnosis_training.pretraining.negative_queue import NegativeQueue
from contrastdiagnosis_training.pretraining.objective import (
    Anchors,
    Phase,
    term_loss,
    terms_of_step,
)
from contrastdiagnosis_training.pretraining.recipe import (
    RECIPES,
    SETS,
    TERMS,
    PretrainingRecipe,
)
from contrastdiagnosis_training.pretraining.sets import FourSets, Tissue
from contrastdiagnosis_training.pretraining.trainer import PreTrainer
from lightning.fabric import Fabric
from torch.nn import functional
from torch.testing import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = PretrainingRecipe(
    network=NoduleNetConfig(channels=(2, 3, 4, 5), embedding=3),
    epochs=4, batch=3, queue=6, small=(8, 16, 16), projection=7, momentum=0.75,
)  # fmt: skip


@pytest.fixture(autouse=True)
def offset(monkeypatch):
    """Poor images are brighter, by 100 to 300 HU: the real degradations take most of the time."""

    def brighter(hu, least, generator):
        assert least == 3
        return hu + 100 + 200 * torch.rand(len(hu), 1, 1, 1, generator=generator)

    monkeypatch.setattr(sets_module, "degraded_at_random", brighter)


def unit(*shape, seed=0):
    return functional.normalize(
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1
    )


def tissue(patients, seed, poor=(), mean=-600, marked=True):
    """Smooth noise around a density."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(patients), 1, 8, 10, 10, generator=generator)
    smooth = functional.interpolate(noise, STORE_GEOMETRY.shape, mode="trilinear")[:, 0]
    hu = (mean + 200 * smooth).round().short()
    share = torch.zeros(hu.shape, dtype=torch.uint8)
    share[:, 15:25, 34:46, 34:46] = 255
    is_poor = torch.zeros(len(patients), dtype=torch.bool)
    is_poor[list(poor)] = True
    coverage = torch.full(hu.shape, STORED, dtype=torch.uint8)
    return Tissue(hu, share if marked else None, coverage, torch.tensor(patients), is_poor)


@pytest.fixture(scope="module")
def sets():
    """Six lesions of five patients, one of them in a poor image; three healthy patches."""
    return FourSets(tissue([0, 0, 1, 2, 3, 4], 0, poor=[4]), tissue([1, 5, 5], 1, marked=False), 3)


@pytest.fixture(scope="module")
def unseen():
    return FourSets(tissue([0, 1, 1], 2, mean=-100), tissue([0, 2], 3, mean=-800, marked=False), 3)


@pytest.fixture
def make(sets):
    def made(recipe=RECIPE, seed=0, sets=sets, validation=None):
        fabric = Fabric(accelerator="cpu", devices=1)
        return PreTrainer(sets, recipe, fabric, seed, validation)

    return made


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def all_of(run):
    """Every tensor that a run consists of."""
    parts = {"network": run.network, "encoder": run.encoder.module, "follower": run.follower}
    told = {f"{p}.{n}": v for p, m in parts.items() for n, v in weights(m).items()}
    for name, queue in run.queues.items():
        told |= {f"{name}.{n}": v for n, v in queue.state_dict().items()}
    for n, state in run.optimizer.state_dict()["state"].items():
        told |= {f"optimizer.{n}.{m}": v.clone() for m, v in state.items()}
    return told


def stored_and_read(state):
    """A checkpoint as a run folder holds it."""
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


# The loss.


def slow_term(anchors, negative, patient, recipe, phase):
    """The mean over the anchors that count, and which these are."""
    kept = len(negative)
    if phase.second:
        kept = max(1, math.floor(kept * math.cos(math.pi / 2 * (phase.step / phase.steps))))
    losses = []
    for a, p, own in zip(*anchors, strict=True):
        others = [float(a @ n) for n, its in zip(negative, patient, strict=True) if its != own]
        if phase.second and recipe.hard_negatives:
            others = sorted(others, reverse=True)[:kept]
        if others:
            positive = math.exp(float(a @ p) / recipe.temperature)
            rest = sum(math.exp(s / recipe.temperature) for s in others)
            losses.append(-math.log(positive / (positive + rest)))
    chosen = sorted(losses)
    if phase.second and recipe.pacing == "paper":
        chosen = [x for x in losses if x < 1 / kept] or losses
    elif phase.second and recipe.pacing == "quantile":
        share = 0.5 + 0.5 * phase.step / phase.steps
        chosen = chosen[: math.ceil(share * len(losses))]
    return sum(chosen) / len(chosen)


PHASES = (Phase(False, 0, 10), Phase(True, 0, 10), Phase(True, 4, 10), Phase(True, 9, 10))


@pytest.mark.parametrize("pacing", ["paper", "quantile", "off"])
@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("phase", PHASES)
def test_a_term_equals_the_loop(pacing, hard, phase):
    recipe = replace(RECIPE, pacing=pacing, hard_negatives=hard, temperature=0.3)
    anchors = Anchors(unit(6, 4), unit(6, 4, seed=1), torch.tensor([0, 1, 2, 3, 4, 5]))
    negative, patient = unit(9, 4, seed=2), torch.tensor([0, 0, 1, 2, 2, 7, 8, 8, 9])
    loss, _ = term_loss(anchors, negative, patient, recipe, phase)
    assert float(loss) == pytest.approx(slow_term(anchors, negative, patient, recipe, phase))


def test_self_pacing_has_the_published_threshold():
    """One of three negatives is left at the last step: losses below 1 count."""
    recipe = replace(RECIPE, pacing="paper", temperature=1.0)
    anchor = torch.tensor([[1.0, 0.0]]).expand(2, 2)
    positive = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    negative = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    last = Phase(True, 99, 100)
    loss, told = term_loss(
        Anchors(anchor, positive, torch.tensor([0, 1])), negative, torch.tensor([2, 2, 2]),
        recipe, last,
    )  # fmt: skip
    # log 2 = 0.69 is below 1, log(1 + e^2) = 2.13 is not.
    assert told.weights.tolist() == [1, 0] and told.selected_share == 0.5
    assert float(loss) == pytest.approx(math.log(2))


@pytest.mark.parametrize("phase", PHASES)
def test_an_own_patch_among_the_negatives_moves_nothing(phase):
    """The anchor's own key, and a degraded copy of it, stand in the queue of the other quality."""
    recipe = replace(RECIPE, pacing="off", hard_negatives=False)
    anchors = Anchors(unit(3, 5), unit(3, 5, seed=1), torch.tensor([0, 1, 2]))
    negative, patient = unit(6, 5, seed=2), torch.full((6,), 9)

    def loss(more, whose):
        told = torch.cat([negative, more]), torch.cat([patient, torch.tensor(whose)])
        return float(term_loss(anchors, *told, recipe, phase)[0])

    alone = float(term_loss(anchors, negative, patient, recipe, phase)[0])
    for own in (anchors.embedding, anchors.positive):
        # Each anchor's own only; the other two anchors see it.
        of_first = loss(own[:1], [0])
        single = Anchors(*(part[:1] for part in anchors))
        told = torch.cat([negative, own[:1]]), torch.tensor([9] * 6 + [0])
        assert float(term_loss(single, *told, recipe, phase)[0]) == float(
            term_loss(single, negative, patient, recipe, phase)[0]
        )
        assert of_first != alone
        assert loss(own, [7, 7, 7]) > loss(own, [0, 1, 2])


def test_the_own_patient_takes_no_place_among_the_hardest():
    """The most similar negative is the anchor's own: the next one is the hardest."""
    recipe = replace(RECIPE, pacing="off", temperature=1.0)
    anchors = Anchors(torch.eye(3)[:1], torch.eye(3)[:1], torch.tensor([4]))
    negative = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0.0, 1.0, 0]])
    last = Phase(True, 99, 100)  # K = 1
    loss, _ = term_loss(anchors, negative, torch.tensor([4, 5, 6]), recipe, last)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(0.6 - 1)))


@pytest.mark.parametrize("pacing", ["paper", "quantile", "off"])
@pytest.mark.parametrize("phase", PHASES)
def test_an_anchor_without_negatives_is_no_easy_one(pacing, phase):
    """It costs nothing and would be selected first: the others count as if it were not there."""
    recipe = replace(RECIPE, pacing=pacing, temperature=0.5)
    anchors = Anchors(unit(4, 5), unit(4, 5, seed=1), torch.tensor([0, 1, 2, 3]))
    others = Anchors(*(part[1:] for part in anchors))
    negative, patient = unit(3, 5, seed=2), torch.tensor([0, 0, 0])
    loss, told = term_loss(anchors, negative, patient, recipe, phase)
    alone, wanted = term_loss(others, negative, patient, recipe, phase)
    assert float(loss) == pytest.approx(float(alone)) and float(loss) > 0
    assert float(loss) == pytest.approx(slow_term(anchors, negative, patient, recipe, phase))
    assert told.selected_share == wanted.selected_share


def test_where_nobody_else_is_there_is_no_loss():
    anchors = Anchors(unit(2, 3).requires_grad_(), unit(2, 3, seed=1), torch.tensor([0, 0]))
    for phase in PHASES:
        loss, told = term_loss(anchors, unit(4, 3), torch.zeros(4), RECIPE, phase)
        assert float(loss.detach()) == 0 and not told.fallback
        loss.backward()
        assert not anchors.embedding.grad.any()


@pytest.mark.parametrize("phase", PHASES)
def test_d6_three_identical_sets_give_three_equal_terms(phase):
    recipe = replace(RECIPE, temperature=0.2)
    same = Anchors(unit(4, 5), unit(4, 5, seed=1), torch.tensor([0, 1, 2, 3]))
    queues = {}
    for name in ("L~", "H", "H~"):
        queues[name] = NegativeQueue(8, 5)
        queues[name].add(unit(8, 5, seed=2), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7]))
    losses, selected = terms_of_step({"L": same, "L~": same}, queues, recipe, phase)
    assert list(losses) == list(recipe.terms) == ["L/L~", "L/H", "L~/H~"]
    first, *others = losses.values()
    assert first > 0 and all(torch.equal(first, other) for other in others)
    assert len({tuple(s.weights.tolist()) for s in selected.values()}) == 1


def test_a_term_has_the_anchors_and_negatives_that_it_names():
    recipe = replace(RECIPE, terms=tuple(TERMS), temperature=0.5)
    anchors = {
        name: Anchors(unit(2, 4, seed=n), unit(2, 4, seed=n + 10), torch.tensor([n, n + 50]))
        for n, name in enumerate(("L", "L~"))
    }
    queues = {}
    for n, name in enumerate(SETS):
        queues[name] = NegativeQueue(9, 4)
        queues[name].add(unit(3 + n, 4, seed=n + 20), torch.arange(3 + n) + 100)
    losses, _ = terms_of_step(anchors, queues, recipe, PHASES[0])
    wanted = {
        "L/L~": (["L"], ["L~"]), "L/H": (["L"], ["H"]), "L~/H~": (["L~"], ["H~"]),
        "lesion/healthy": (["L", "L~"], ["H", "H~"]), "all": (["L", "L~"], list(SETS)),
    }  # fmt: skip
    assert losses.keys() == wanted.keys()
    for term, (whose, against) in wanted.items():
        joined = [torch.cat([anchors[s][part] for s in whose]) for part in range(3)]
        negative = torch.cat([queues[s].embedding for s in against])
        patient = torch.cat([queues[s].patient for s in against])
        slow = slow_term(joined, negative, patient, recipe, PHASES[0])
        assert float(losses[term]) == pytest.approx(slow), term


# The recipe.


@pytest.mark.parametrize(
    ("terms", "anchors", "negatives", "sets"),
    [
        (("L/L~", "L/H", "L~/H~"), ("L", "L~"), ("L~", "H", "H~"), SETS),
        (("L/H",), ("L",), ("H",), ("L", "H")),
        (("L/L~",), ("L",), ("L~",), ("L", "L~")),
        (("L~/H~",), ("L~",), ("H~",), ("L~", "H~")),
        (("lesion/healthy",), ("L", "L~"), ("H", "H~"), SETS),
        (("all",), ("L", "L~"), SETS, SETS),
    ],
)
def test_a_recipe_knows_the_sets_that_its_terms_need(terms, anchors, negatives, sets):
    recipe = replace(RECIPE, terms=terms)
    assert (recipe.anchors, recipe.negatives, recipe.sets) == (anchors, negatives, sets)


def test_the_published_recipe_has_the_published_numbers():
    recipe = RECIPES["published"]
    assert (recipe.temperature, recipe.learning_rate, recipe.epochs) == (0.07, 1e-3, 800)
    assert recipe.batch == 400 and recipe.pacing == "paper" and recipe.hard_negatives
    assert recipe.terms == ("L/L~", "L/H", "L~/H~") and not recipe.invariant
    for each in RECIPES.values():  # A view must not be made noisier or softer than its image.
        assert each.augmentation.noise == 0 and each.augmentation.gamma == (1.0, 1.0)
        assert each.augmentation.degraded == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terms": ()}, "terms must be of L/L~, L/H, L~/H~, lesion/healthy, all, got"),
        ({"terms": ("L/H", "H/L")}, "terms must be of .*, got H/L"),
        ({"least_severity": 0}, "least_severity must be 1 to 5, got 0"),
        ({"least_severity": 6}, "least_severity must be 1 to 5, got 6"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch": -1}, "batch must be at least 1, got -1"),
        ({"queue": 0}, "queue must be at least 1, got 0"),
        ({"projection": 0}, "projection must be at least 1"),
        ({"validate_every": 0}, "validate_every must be at least 1"),
        ({"dead_epochs": -1}, "dead_epochs must be at least 0, got -1"),
        ({"copies": -1}, "copies must be at least 0, got -1"),
        ({"first_phase": 1.5}, "first_phase must be 0 to 1, got 1.5"),
        ({"momentum": -0.1}, "momentum must be 0 to 1"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"small": (12, 32, 32)}, r"small must be 8 n slices of 16 m x 16 m pixels, got \(12"),
        ({"small": (16, 32, 48)}, "small must be 8 n slices"),
        ({"small": (16, 24, 24)}, "small must be 8 n slices"),
        ({"small": (0, 32, 32)}, "small must be 8 n slices"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(RECIPE, **change)


# The encoder.


def test_the_encoder_is_that_of_the_network_with_a_projection():
    torch.manual_seed(0)
    network = NoduleNet(RECIPE.network).eval()
    encoder = projected_encoder(network, 7).eval()
    x = torch.rand(3, 1, 16, 32, 32)
    level = network.encode([network.stem(space_to_channels(x))])[-1]
    wanted = level.mean(dim=(2, 3, 4))
    assert_close(pooled_features(encoder, x), wanted)
    # Any statistics, not those of a new network.
    norms = [m for m in encoder.projection if isinstance(m, torch.nn.BatchNorm1d)]
    for norm in norms:
        norm.running_mean.copy_(torch.rand(norm.num_features))
        norm.running_var.copy_(torch.rand(norm.num_features) + 0.5)
    first, second = encoder.projection[1], encoder.projection[4]
    seen, hidden = (
        lambda x, n=n: (x - n.running_mean) / (n.running_var + n.eps).sqrt() for n in norms
    )
    z = torch.relu(hidden(seen(wanted) @ first.weight.T + first.bias))
    z = z @ second.weight.T + second.bias
    assert_close(embedded(encoder, x), z / z.norm(dim=1, keepdim=True))
    # The same tensors, not copies: what is trained is the network.
    own = {id(p) for p in network.parameters()}
    assert sum(id(p) in own for p in encoder.parameters()) == len(
        [n for n, _ in network.named_parameters() if n.startswith(("stem.", "encoder."))]
    )


def test_what_is_handed_on_is_stem_and_encoder_with_their_statistics():
    network = NoduleNet(RECIPE.network)
    told = encoder_weights(network)
    assert {name.split(".")[0] for name in told} == {"stem", "encoder"}
    assert len(told) == len(network.stem.state_dict()) + len(network.encoder.state_dict())
    assert any(name.endswith("running_var") for name in told)


def test_following_has_a_closed_form():
    """After n steps towards a leader that stands still: m^n k + (1 - m^n) q; statistics at once."""
    torch.manual_seed(0)
    leader, follower = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    for value in leader.state_dict().values():
        value.copy_(torch.arange(3) + 7 if value.ndim else torch.tensor(12))
    before = weights(follower)
    for _ in range(5):
        follow(follower, leader, 0.9)
    for name, value in follower.state_dict().items():
        whole = name not in dict(follower.named_parameters())
        wanted = 0.9**5 * before[name] + (1 - 0.9**5) * leader.state_dict()[name]
        assert_close(value, leader.state_dict()[name] if whole else wanted)


def test_keys_of_a_new_network_differ_from_patch_to_patch():
    """Keys that are all alike are no negatives: nothing can be learnt from them.

    Without standardised features, or with statistics that lag behind, their mean is longer than
    0.95.
    """
    torch.manual_seed(0)
    module = projected_encoder(NoduleNet(NoduleNetConfig()), 128)
    follower = deepcopy(module).eval()
    random = torch.Generator().manual_seed(0)
    patches = torch.rand(24, 1, 8, 16, 16, generator=random)
    patches = (patches * torch.linspace(0.1, 1, 24).reshape(-1, 1, 1, 1, 1)).sort(dim=4).values
    with torch.no_grad():
        for _ in range(200):  # Until nothing is left of variances of 1.
            embedded(module, patches)
            follow(follower, module, 0.99)
        keys = embedded(follower, patches)
    assert keys.mean(dim=0).norm() < 0.7


# The run.


class Seen:
    """What a trainer's steps were given: views, batches, phases, anchors."""

    def __init__(self, run, monkeypatch):
        self.views, self.batches, self.anchors, self.phases = [], [], [], []
        views, step, terms = FourSets.views, PreTrainer._step, trainer.terms_of_step

        def seen_views(of, name, positions, hu, options, generator, shape):
            made = views(of, name, positions, hu, options, generator, shape)
            brighter = (hu - of.tissue(name).hu[positions].float()).flatten(1).mean(dim=1) > 50
            self.views.append((name, positions, brighter.tolist(), made, options))
            return made

        def seen_step(of, batch, phase, draws):
            self.batches.append(batch)
            self.phases.append(phase)
            return step(of, batch, phase, draws)

        def seen_terms(anchors, *rest):
            self.anchors.append(anchors)
            return terms(anchors, *rest)

        monkeypatch.setattr(FourSets, "views", seen_views)
        monkeypatch.setattr(PreTrainer, "_step", seen_step)
        monkeypatch.setattr(trainer, "terms_of_step", seen_terms)
        self.told = run


@pytest.mark.parametrize("epochs", [1, 3], ids=["first phase", "second phase"])
def test_a_restored_run_goes_on_bit_for_bit(make, epochs):
    first = make()
    for _ in range(epochs):
        first.run_epoch()
    first.dead = 1  # As after an epoch in which nothing was selected.
    second = make()
    second.restore(stored_and_read(first.state()))
    assert (second.epoch, second.dead) == (epochs, 1)
    assert_same(all_of(first), all_of(second))
    assert first.run_epoch() == second.run_epoch()
    assert_same(all_of(first), all_of(second))
    assert len(first.queues["H"].embedding) == RECIPE.queue


def test_what_is_restored_is_no_part_of_the_other_run(make):
    first, second = make(), make()
    first.run_epoch()
    second.restore(deepcopy(first.state()))
    kept = all_of(second)
    first.run_epoch()
    assert_same(all_of(second), kept)


def test_the_seed_fixes_the_run(make):
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    told = [run.run_epoch() for run in (first, again, other)]
    assert told[0] == told[1] != told[2]
    assert_same(all_of(first), all_of(again))


def test_epochs_differ(make, monkeypatch):
    run = make(replace(RECIPE, learning_rate=1e-12, weight_decay=0.0))
    seen = Seen(run, monkeypatch)
    run.run_epoch(), run.run_epoch()
    half = len(seen.views) // 2
    assert not torch.equal(seen.views[0][3], seen.views[half][3])
    orders = [torch.cat([b["L~"] for b in part]).tolist() for part in
              (seen.batches[: run.steps], seen.batches[run.steps :])]  # fmt: skip
    assert orders[0] != orders[1]


def test_the_encoder_is_trained_and_nothing_else(make):
    run = make()
    before = weights(run.trained)
    told = run.run_epoch()
    assert set(told) == {"L/L~", "L/H", "L~/H~", "selected share"}
    assert np.isfinite(list(told.values())).all() and run.epoch == 1
    after = weights(run.trained)
    for name, value in after.items():
        trained = name.startswith(("stem.", "encoder."))
        assert torch.equal(value, before[name]) != trained, name


def test_the_network_is_the_one_that_fit_would_draw(make):
    """All else is as it was initialised: with this seed, whatever was trained."""
    run = make(seed=3)
    run.run_epoch()
    torch.manual_seed(3)
    drawn = NoduleNet(RECIPE.network).state_dict()
    for name, value in run.trained.state_dict().items():
        if not name.startswith(("stem.", "encoder.")):
            assert torch.equal(value, drawn[name]), name


def test_the_follower_follows(make):
    """k becomes m k + (1 - m) q after the step's gradient; running statistics are the leader's."""
    run = make(replace(RECIPE, batch=6))
    assert run.steps == 1
    assert_same(weights(run.follower), weights(run.encoder.module))
    learned = dict(run.follower.named_parameters())
    for _ in range(3):
        before = weights(run.follower)
        run.run_epoch()
        leader = weights(run.encoder.module)
        for name, value in run.follower.state_dict().items():
            wanted = 0.75 * before[name] + 0.25 * leader[name]
            if name not in learned:
                wanted = leader[name]
            assert_close(value, wanted, msg=name)
            # Conv biases before a norm have no gradient, only weight decay.
    assert not run.follower.training
    assert not any(p.requires_grad for p in run.follower.parameters())
    assert any(not torch.equal(leader[n], v) for n, v in run.follower.state_dict().items())


def of_one_patient(tissue):
    return replace(tissue, patient=torch.zeros_like(tissue.patient))


def test_a_patients_own_tissue_is_never_a_negative(make, sets):
    """All of one patient: nothing is left to tell apart, in either phase."""
    same = replace(sets, lesions=of_one_patient(sets.lesions), healthy=of_one_patient(sets.healthy))
    run = make(replace(RECIPE, epochs=2, batch=6), sets=same)
    for _ in range(2):
        told = run.run_epoch()
        assert [told[term] for term in RECIPE.terms] == [0, 0, 0]
    assert all(make().run_epoch()[term] > 0 for term in RECIPE.terms)


def test_views_are_small_in_the_first_phase_and_whole_in_the_second(make, monkeypatch):
    run = make()
    seen = Seen(run, monkeypatch)
    for epoch in range(RECIPE.epochs):
        seen.views.clear()
        run.run_epoch()
        shape = RECIPE.small if epoch < 2 else (32, 64, 64)
        assert {tuple(made.shape[2:]) for *_, made, _ in seen.views} == {shape}
        assert {options for *_, options in seen.views} == {RECIPE.augmentation}


def test_the_second_phase_keeps_fewer_and_fewer_negatives_and_paces(make, monkeypatch):
    run = make(replace(RECIPE, terms=("L/H", "L~/H~")))
    kept, paced = [], []
    hardest, weigh = objective.hardest, objective.self_paced_weights

    def seen_hardest(similarity, count, allowed):
        kept.append((similarity.shape[1], count))
        return hardest(similarity, count, allowed)

    def seen_weights(loss, count, mode, progress):
        paced.append((count, mode, progress))
        return weigh(loss, count, mode, progress)

    monkeypatch.setattr(objective, "hardest", seen_hardest)
    monkeypatch.setattr(objective, "self_paced_weights", seen_weights)
    for _ in range(2):
        run.run_epoch()
    assert not kept and {mode for _, mode, _ in paced} == {"off"}
    paced.clear()
    for _ in range(2):
        run.run_epoch()
    # Two steps an epoch, two terms a step, six negatives in each queue.
    assert run.steps == 2
    wanted = [negatives_kept(step, 4, 6) for step in range(4) for _ in range(2)]
    assert kept == [(6, k) for k in wanted]
    assert wanted[0] == 6 and wanted[-1] == 2
    steps = [step / 4 for step in range(4) for _ in range(2)]
    assert paced == [(k, "quantile", s) for k, s in zip(wanted, steps, strict=True)]


def test_the_share_of_selected_anchors_is_told(make):
    """The easiest half at first: three of six."""
    run = make(replace(RECIPE, first_phase=0.0, batch=6))
    assert run.run_epoch()["selected share"] == 0.5
    assert make().run_epoch()["selected share"] == 1


@pytest.mark.parametrize("invariant", [False, True])
def test_each_patch_is_where_its_set_and_quality_say(make, sets, monkeypatch, invariant):
    """Anchors, positives and queues are the embeddings of the views that they should be of."""
    good = replace(sets, lesions=replace(sets.lesions, poor=torch.zeros(6, dtype=torch.bool)))
    run = make(replace(RECIPE, invariant=invariant, batch=6, queue=12), sets=good)
    seen = Seen(run, monkeypatch)
    follower = deepcopy(run.follower)
    run.run_epoch()
    drawn = {}
    for name, positions, poor, made, _ in seen.views:
        drawn.setdefault(name, []).append((set(poor), made))
        assert torch.equal(positions, seen.batches[0][name])
    qualities = {name: [told for told, _ in given] for name, given in drawn.items()}
    no, yes = {False}, {True}
    if invariant:  # The positive of the other quality; what the queue takes is of the set's own.
        assert qualities == {"L": [no, yes], "L~": [yes, no, yes], "H": [no], "H~": [yes]}
    else:
        assert qualities == {"L": [no, no], "L~": [yes, yes], "H": [no], "H~": [yes]}
    (anchors,) = seen.anchors
    for name in ("L", "L~"):
        query, positive = drawn[name][0][1], drawn[name][1][1]
        assert not torch.equal(query, positive)
        assert_close(anchors[name].positive, embedded(follower, positive), atol=1e-5, rtol=0)
        assert anchors[name].embedding.requires_grad and not anchors[name].positive.requires_grad
        assert torch.equal(anchors[name].patient, sets.lesions.patient[seen.batches[0][name]])
    for name, queue in run.queues.items():
        assert_close(queue.embedding, embedded(follower, drawn[name][-1][1]), atol=1e-5, rtol=0)
        patient = good.tissue(name).patient[seen.batches[0][name]]
        assert torch.equal(queue.patient, patient)


def test_natively_poor_images_stay_as_they_are_in_both_variants(make, sets, monkeypatch):
    """There is no good image of them: their positive is another view of the same."""
    run = make(replace(RECIPE, invariant=True, batch=6))
    seen = Seen(run, monkeypatch)
    run.run_epoch()
    (row,) = torch.nonzero(seen.batches[0]["L~"] == 4).flatten().tolist()
    told = [poor[row] for name, _, poor, *_ in seen.views if name == "L~"]
    assert told == [False] * 3


@pytest.mark.parametrize(
    "terms", [("L/H",), ("L~/H~",), ("L/L~",), ("lesion/healthy",), ("all",), RECIPE.terms]
)
def test_only_the_sets_that_the_terms_need_are_drawn_and_in_their_order(make, monkeypatch, terms):
    """In the order of `SETS`: that of a Python set differs from process to process."""
    recipe = replace(RECIPE, terms=terms, epochs=1, batch=6)
    run = make(recipe)
    seen = Seen(run, monkeypatch)
    told = run.run_epoch()
    assert set(told) == {*terms, "selected share"}
    assert [list(batch) for batch in seen.batches] == [list(recipe.sets)]
    assert list(dict.fromkeys(name for name, *_ in seen.views)) == list(recipe.sets)
    assert list(run.queues) == list(recipe.negatives)
    assert all(len(queue.embedding) == 6 for queue in run.queues.values())


@pytest.mark.parametrize("copies", [0, 1, 2])
def test_images_are_made_poor_once_or_in_every_step(make, monkeypatch, copies):
    run = make(replace(RECIPE, terms=("L~/H~",), copies=copies))
    drawn, hu = {}, FourSets.hu

    def seen(of, name, positions, generator):
        made = hu(of, name, positions, generator)
        for n, image in zip(positions.tolist(), made, strict=True):
            drawn.setdefault((name, n), set()).add(image.numpy().tobytes())
        return made

    monkeypatch.setattr(FourSets, "hu", seen)
    for epoch in range(4):
        run.epoch = epoch % 2  # In the first phase, whose views are small.
        run.run_epoch()
    native = ("L~", 4)
    assert len(drawn) == 9 and len(drawn.pop(native)) == 1
    # Two epochs twice: each lesion once an epoch, each of three healthy patches twice.
    most = {0: 4, 1: 1, 2: 2}[copies]
    told = [len(images) for images in drawn.values()]
    assert max(told) == most and min(told) >= min(most, 1)


def test_an_epoch_shows_every_lesion_once_and_only_members(make, sets, monkeypatch):
    run = make()
    seen = Seen(run, monkeypatch)
    run.run_epoch()
    assert run.steps == len(seen.batches) == 2
    for name in SETS:
        drawn = torch.cat([batch[name] for batch in seen.batches]).tolist()
        members = sets.members(name).tolist()
        assert len(drawn) == 6 and set(drawn) <= set(members)
        # Each as often as any other, but for the rest of a round.
        times = [drawn.count(n) for n in members]
        assert max(times) - min(times) <= 1
    assert sorted(torch.cat([b["L~"] for b in seen.batches]).tolist()) == list(range(6))


def test_a_batch_that_is_larger_than_a_set_takes_its_members_again(make):
    run = make(replace(RECIPE, batch=7, epochs=1))
    assert run.steps == 1
    assert all(np.isfinite(list(run.run_epoch().values())))


def test_a_dead_start_ends_the_run_with_a_sentence(make):
    """The published rule from the first step on: nothing is below 1 / K at random weights."""
    recipe = replace(RECIPE, pacing="paper", first_phase=0.0, batch=6)
    run = make(recipe)
    assert run.run_epoch()["selected share"] == 0 and run.dead == 1
    told = "self-pacing selected no anchor in 2 epochs: .* use pacing=quantile, a smaller queue, or"
    with pytest.raises(InputError, match=told):
        run.run_epoch()
    patient = make(replace(recipe, dead_epochs=2))
    for _ in range(2):
        patient.run_epoch()
    assert patient.dead == 2


def test_a_selected_anchor_ends_the_count_of_dead_epochs(make):
    run = make()
    run.dead = 1
    run.run_epoch()
    assert run.dead == 0


def test_the_run_is_kept_at_its_end(make):
    run = make()
    ends = []
    for epoch in range(RECIPE.epochs + 1):
        run.epoch = epoch
        ends.append(run.at_cycle_end)
    assert ends == [False] * 4 + [True]


def test_validation_leaves_training_as_it_was(make, unseen):
    plain, watched = make(validation=unseen), make(validation=unseen)
    plain.run_epoch()
    watched.validate()
    watched.run_epoch()
    assert_same(all_of(plain), all_of(watched))
    assert make().validate() == {}


def test_validation_tells_lesions_from_tissue_by_the_nearest_training_patch(
    make, sets, unseen, monkeypatch
):
    """Against plain loops over features that stand for the patches."""
    run = make(validation=unseen)
    random = np.random.default_rng(0)
    known = {name: random.normal(size=(5, 3)) for name in SETS}
    asked = {name: random.normal(size=(4, 3)) for name in SETS}

    def features(of, name, _):
        return torch.from_numpy((known if of is run.sets else asked)[name])

    monkeypatch.setattr(run, "_features", features)
    told = run.validate()
    assert set(told) == {"val_auc", "val_poor_auc"}
    for key, lesion, healthy in (("val_auc", "L", "H"), ("val_poor_auc", "L~", "H~")):
        scores = []
        for x in (*asked[lesion], *asked[healthy]):
            near = [min(np.linalg.norm(x - y) for y in known[name]) for name in (lesion, healthy)]
            scores.append(near[1] - near[0])
        pairs = [(a > b) + 0.5 * (a == b) for a in scores[:4] for b in scores[4:]]
        assert told[key] == pytest.approx(np.mean(pairs))


def test_features_are_of_whole_centred_patches_of_the_weights_that_are_trained(make, unseen):
    run = make(validation=unseen)
    run.run_epoch()
    given = run._features(unseen, "L", torch.Generator().manual_seed(0))
    part = torch.arange(3)
    hu = unseen.hu("L", part, torch.Generator())
    whole = unseen.views("L", part, hu, None, torch.Generator(), (32, 64, 64))
    assert_close(given, pooled_features(run.encoder.module.eval(), whole).detach())
    assert not given.requires_grad
