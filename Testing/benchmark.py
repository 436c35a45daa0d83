"""`make bench`: the figures of speed and memory, as a table and as JSON.

Every figure is a median over repeats on two threads. Where a figure compares two things, they take
turns, so that a busy moment of the machine meets both.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

THREADS = 2
os.environ["OMP_NUM_THREADS"] = str(THREADS)
sys.path.insert(0, str(Path(__file__).parent / "Python"))
warnings.filterwarnings("ignore")

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
import torch  # noqa: E402
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle  # noqa: E402
from contrastdiagnosis.cases.case_folder import Nodule  # noqa: E402
from contrastdiagnosis.cases.library import Case, CaseLibrary  # noqa: E402
from contrastdiagnosis.cases.lidc import LIDC  # noqa: E402
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore  # noqa: E402
from contrastdiagnosis.diagnosis.diagnoser import SHOWN_CASES, Diagnoser, Diagnosis  # noqa: E402
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, crop_patch  # noqa: E402
from contrastdiagnosis.imaging.phantom import DEMO_NODULES, make_phantom  # noqa: E402
from contrastdiagnosis.imaging.volume import Volume, sitk_from_array  # noqa: E402
from contrastdiagnosis.maps.local_cam import pair_maps  # noqa: E402
from contrastdiagnosis.model.align_dist import distance  # noqa: E402
from contrastdiagnosis.protocol.map_variant import LocalCam  # noqa: E402
from contrastdiagnosis.protocol.revision import Box, Revision  # noqa: E402
from contrastdiagnosis.protocol.tensors import unpack  # noqa: E402
from contrastdiagnosis.service.requests import read_request, request_body  # noqa: E402
from contrastdiagnosis_training.data.patch_store import (  # noqa: E402
    STORED,
    PatchStore,
    windowed,
)
from contrastdiagnosis_training.data.splits import Split  # noqa: E402
from contrastdiagnosis_training.network.objective import Targets, objective  # noqa: E402
from contrastdiagnosis_training.network.recipe import Recipe  # noqa: E402
from contrastdiagnosis_training.network.trainer import Trainer  # noqa: E402
from contrastdiagnosis_training.runs.fabric import has_bfloat16  # noqa: E402
from engine.running import Running, check_document, send_changed_bodies  # noqa: E402
from engine.users import USERS_PATH  # noqa: E402
from lightning.fabric import Fabric  # noqa: E402
from sklearn.neighbors import NearestNeighbors  # noqa: E402

PHANTOM_POINT = DEMO_NODULES[0].center_ras_mm
BARE_START = """
import sys, torch, monai
from safetensors.torch import load_file
load_file(sys.argv[1])
"""


@dataclass(frozen=True)
class Effort:
    """How much each section does: by default what its figures need, in tests next to nothing.

    Attributes:
        threads: Of servers.
        warm_up: Turns before calls are timed.
        clicks: Repeats of a click and of a request.
        repeats: Of a search, of maps and of a click in the panel.
        pairs: That maps are made of.
        revisions: Of re-scoring.
        epochs: Of training.
        starts: Processes on the small CT.
        slow_starts: Processes of every other kind.
        large_shape: (D, H, W) of the large CT.
        library_sizes: Cases that are searched.
        nodules: In a training epoch.
        clients: That ask the server at once.
        requests: Of all of them.
        bodies: Changed ones that the server is sent.
        documented: Requests that the OpenAPI document allows or forbids.
    """

    threads: int = THREADS
    warm_up: int = 3
    clicks: int = 41
    repeats: int = 15
    pairs: int = SHOWN_CASES
    revisions: int = 25
    epochs: int = 7
    starts: int = 5
    slow_starts: int = 3
    large_shape: tuple[int, int, int] = (600, 512, 512)
    library_sizes: tuple[int, ...] = (100_000, 1_000_000)
    nodules: int = 96
    clients: int = 16
    requests: int = 200
    bodies: int = 8000
    documented: int = 2000


@dataclass(frozen=True)
class Figure:
    """One line of the table; `holds` is None where no target is set."""

    name: str
    value: float
    unit: str
    target: str | None = None
    holds: bool | None = None


def main() -> None:
    """Measures everything, prints the table as it grows, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    parser.add_argument(
        "--only", choices=list(SECTIONS), nargs="*", help="sections; all if not given"
    )
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, CUDA {_cuda_name()}\n")
    figures = []
    for name in options.only or SECTIONS:
        for figure in SECTIONS[name](Effort()):
            figures.append(figure)
            print(_line(figure), flush=True)
    options.json.write_text(json.dumps([asdict(f) for f in figures], indent=1) + "\n")
    print(f"\nwrote {options.json}")


def click(effort: Effort) -> Iterator[Figure]:
    """A warm click against one bare forward pass, on every device there is."""
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        yield from _click_on(device, effort)


def _click_on(device: str, effort: Effort) -> Iterator[Figure]:
    diagnoser = Diagnoser(load_bundle(default_bundle_folder()), device)
    volume = _large_volume(effort.large_shape)
    point = (0.0, 0.0, 0.0)
    one = torch.from_numpy(crop_patch(volume, point).intensity)[None, None].to(diagnoser.device)
    two = torch.cat([one, one.flip(-1)])
    times = _medians(
        {
            "click": lambda: diagnoser.diagnose(volume, point),
            "one": lambda: _forward(diagnoser, one),
            "two": lambda: _forward(diagnoser, two),
            "crop": lambda: crop_patch(volume, point),
        },
        effort.clicks,
        effort.warm_up,
    )
    forward = min(times["one"], times["two"])
    large = _text(effort.large_shape)
    yield Figure(f"{device}: bare forward pass, one patch", 1e3 * times["one"], "ms")
    yield Figure(f"{device}: bare forward pass, patch and mirror image", 1e3 * times["two"], "ms")
    yield Figure(f"{device}: warm click to diagnosis", 1e3 * times["click"], "ms")
    ratio = times["click"] / forward
    yield _at_most(f"{device}: warm click over the faster forward pass", ratio, "ratio", 1.5)
    yield Figure(f"{device}: patch out of {large}", 1e3 * times["crop"], "ms")
    ratio = times["crop"] / forward
    yield _at_most(f"{device}: patch out of {large} over the forward pass", ratio, "ratio", 0.2)


def process(effort: Effort) -> Iterator[Figure]:
    """Whole processes: time to the first diagnosis, and their memory."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "phantom.nrrd", Path(folder) / "large.nrrd"
        phantom, whole = make_phantom(seed=0).volume, _large_volume(effort.large_shape)
        for volume, file in ((phantom, small), (whole, large)):
            sitk.WriteImage(sitk_from_array(volume.hu, volume.ijk_to_ras), str(file))
        runs = [_diagnose_process(small, PHANTOM_POINT) for _ in range(effort.starts)]
        yield Figure(
            f"process start to first diagnosis, {_text(phantom.hu.shape)}",
            statistics.median(seconds for seconds, _ in runs), "s",
        )  # fmt: skip
        runs = [_diagnose_process(large, (0.0, 0.0, 0.0)) for _ in range(effort.slow_starts)]
        yield Figure(
            f"process start to first diagnosis, {_text(effort.large_shape)}",
            statistics.median(seconds for seconds, _ in runs), "s",
        )  # fmt: skip
        yield _at_most(
            f"peak memory of that process, {_text(effort.large_shape)}",
            statistics.median(memory for _, memory in runs), "GB", 2.0,
        )  # fmt: skip


def search(effort: Effort) -> Iterator[Figure]:
    """k nearest of many cases: scikit-learn's brute force and faiss's flat index, same results."""
    random = np.random.default_rng(0)
    faiss.omp_set_num_threads(THREADS)
    for count in effort.library_sizes:
        embedding = random.normal(size=(count, 64)).astype(np.float32)
        cases = [Case(f"{n:07}", f"P{n:07}", n % 2 == 0, 8.0, {}) for n in range(count)]
        library = CaseLibrary(cases, embedding)
        brute = NearestNeighbors(n_neighbors=41, algorithm="brute").fit(embedding)
        flat = faiss.IndexFlatL2(embedding.shape[1])
        flat.add(embedding)
        queries = iter(random.normal(size=(1000, 64)).astype(np.float32))
        for query in (next(queries) for _ in range(5)):
            ours = [n.position for n in library.nearest(query, 41)]
            theirs = brute.kneighbors(query[None], return_distance=False)[0]
            assert ours == theirs.tolist(), f"other neighbours than scikit-learn's: {ours}"
            theirs = flat.search(query[None], 41)[1][0]
            assert ours == theirs.tolist(), f"other neighbours than faiss's: {ours}"
        times = _medians(
            {
                "ours": lambda library=library, queries=queries: library.nearest(next(queries), 41),
                "brute": lambda brute=brute, queries=queries: brute.kneighbors(next(queries)[None]),
                "flat": lambda flat=flat, queries=queries: flat.search(next(queries)[None], 41),
            },
            effort.repeats,
            effort.warm_up,
        )
        yield Figure(f"41 nearest of {count:,} cases", 1e3 * times["ours"], "ms")
        ratio, name = times["brute"] / times["ours"], f"41 nearest of {count:,} cases"
        yield _at_least(f"{name}: scikit-learn brute over ours, same results", ratio, "ratio", 1.0)
        ratio = times["flat"] / times["ours"]
        yield Figure(f"{name}: faiss's flat index over ours, same results", ratio, "ratio")


def training(effort: Effort) -> Iterator[Figure]:
    """Nodules per second of the trainer and of a plain MONAI loop with the same network."""
    count = effort.nodules
    store = _made_store(count)
    default = Recipe()
    # The plain loop makes no poorer scans.
    recipe = replace(
        default, mask_epochs=0, consistency_weight=0.0,
        augmentation=replace(default.augmentation, degraded=0.0),
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = "bf16-mixed" if has_bfloat16(device) else "32-true"
    fabric = Fabric(accelerator=device, devices=1, precision=precision)
    split = Split(train=np.arange(count), validation=np.arange(0), test=np.arange(0))
    trainer = Trainer(store, split, recipe, fabric, seed=0)
    plain = _PlainLoop(store, recipe, device)
    seen = recipe.batch * trainer.steps
    calls = {"ours": trainer.run_epoch, "plain": plain.run_epoch}
    times = _medians(calls, effort.epochs, min(effort.warm_up, 1))
    yield Figure("training", seen / times["ours"], "nodules/s")
    yield Figure("training, plain MONAI loop", len(store) / times["plain"], "nodules/s")
    yield _at_least(
        "training, over a plain MONAI CacheDataset loop",
        (seen / times["ours"]) / (len(store) / times["plain"]), "ratio", 2.0,
    )  # fmt: skip


def explain(effort: Effort) -> Iterator[Figure]:
    """Maps of six pairs on both sides: one batch against autograd alone and against LayerCAM."""
    from pytorch_grad_cam import LayerCAM

    diagnoser = Diagnoser(load_bundle(default_bundle_folder()), "cpu")
    network, count = diagnoser.network, effort.pairs
    images = torch.rand(1 + count, *DEFAULT_GEOMETRY.shape, generator=torch.Generator())
    cases = torch.from_numpy(diagnoser.bundle.library.embedding[:count])
    levels = LocalCam().levels
    pair = _PairDistance(network)
    layers = [pair.network.encoder[level - 2] for level in levels]

    def one_batch() -> None:
        pair_maps(network, images[0], cases, images[1:], range(count))

    def separate() -> None:
        for n in range(count):
            both = images[[0, n + 1]][:, None]
            with LayerCAM(model=pair, target_layers=layers) as cam:
                cam(input_tensor=both, targets=[lambda d: d[0], lambda d: 0 * d[0]])

    def bare() -> None:
        views = torch.cat([images, images.flip(-1)])[:, None].requires_grad_()
        features = network(views)
        z = features.embedding.unflatten(0, (2, -1)).mean(dim=0)
        torch.autograd.grad(distance(z[:1], z[1:]).sum(), features.pyramid[1:])

    calls = {"ours": one_batch, "separate": separate, "bare": bare}
    times = _medians(calls, effort.repeats, effort.warm_up)
    yield Figure(
        f"maps of {count} cases, both sides and signs, one batch", 1e3 * times["ours"], "ms"
    )
    ratio = times["ours"] / times["bare"]
    yield _at_most("  over one forward and backward pass of that batch", ratio, "ratio", 3.0)
    ratio = times["separate"] / times["ours"]
    yield _at_least(
        f"  {count} calls of pytorch-grad-cam's LayerCAM over ours", ratio, "ratio", 3.0
    )
    memory = _report_memory(diagnoser, effort)
    yield _at_most("  peak memory of a process with report", memory, "GB", 2.5)


class _PairDistance(torch.nn.Module):
    """The distance of two patches, as often as there are patches: what LayerCAM can explain."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(True)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        z = self.network(images).embedding
        return distance(z[:1], z[1:])[:, None].expand(2, 1)


def _report_memory(diagnoser: Diagnoser, effort: Effort) -> float:
    """Peak gigabytes of `diagnose --report` with pictures of the six cases."""
    phantom = make_phantom(seed=0).volume
    diagnosis = diagnoser.diagnose(phantom, PHANTOM_POINT)
    patch = diagnosis.encoding.patch
    with tempfile.TemporaryDirectory() as folder:
        bundle, ct = Path(folder) / "bundle", Path(folder) / "ct.nrrd"
        shutil.copytree(default_bundle_folder(), bundle)
        sitk.WriteImage(sitk_from_array(phantom.hu, phantom.ijk_to_ras), str(ct))
        for n, similar in enumerate(diagnosis.cases):
            intensity = np.roll(patch.intensity, n, axis=2)
            pixels = CasePixels(intensity, patch.valid, diagnosis.nodule)
            PixelStore(bundle / "pixels").write(similar.case.case_id, pixels)
        options = ["--bundle", str(bundle), "--report", str(Path(folder) / "report.html")]
        runs = [_diagnose_process(ct, PHANTOM_POINT, options) for _ in range(effort.slow_starts)]
        return statistics.median(memory for _, memory in runs)


def concepts(effort: Effort) -> Iterator[Figure]:
    """Corrected concepts against a pass through the network, and what the head costs."""
    diagnoser = Diagnoser(load_bundle(default_bundle_folder()), "cpu")
    phantom = make_phantom()
    volume, point = phantom.volume, np.array(DEMO_NODULES[0].center_ras_mm)
    diagnosis = diagnoser.diagnose(volume, point)
    r, a, s = point.tolist()
    name = diagnoser.bundle.info.concepts[0].name
    revisions = {
        "boxes": Revision(
            (Box((r, a, s), (15, 15, 15), look=True), Box((r + 9, a, s), (14, 14, 14), look=False))
        ),
        "rejection": Revision(rejected=(name,)),
    }
    bare = Diagnoser(replace(diagnoser.bundle, concepts=None), "cpu")
    times = _medians(
        {
            "with": lambda: diagnoser.encode(volume, point),
            "without": lambda: bare.encode(volume, point),
            **{
                key: lambda revision=revision: diagnoser.revise(diagnosis, volume, revision)
                for key, revision in revisions.items()
            },
        },
        effort.revisions,
        effort.warm_up,
    )
    for key in revisions:
        ratio = times[key] / times["with"]
        yield _at_most(f"re-scoring after {key}, over the full pass", ratio, "ratio", 0.05)
    yield Figure(
        "a pass with the concept head over one without", times["with"] / times["without"], "ratio"
    )


def server(effort: Effort) -> Iterator[Figure]:
    """The server's start, idle memory, what it adds to a diagnosis, many clients at once."""
    model = default_bundle_folder() / "model.safetensors"
    starts: dict[str, list[float]] = {"bare": [], "server": []}
    idle = []
    asked: list[Figure] = []
    alike = os.environ | {"PYTHONPATH": USERS_PATH}  # Neither imports what users do not have.
    for left in reversed(range(effort.slow_starts)):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", BARE_START, str(model)], check=True, env=alike)
        starts["bare"].append(time.perf_counter() - start)
        start = time.perf_counter()
        with Running(["--device", "cpu"], threads=effort.threads) as running:
            starts["server"].append(time.perf_counter() - start)
            idle.append(running.memory_mb() / 1000)
            if not left:
                asked += [*_request_cost(running, effort), *_many_clients(running, effort)]
    bare, ready = (statistics.median(starts[name]) for name in ("bare", "server"))
    yield Figure("bare import of torch and monai, weights loaded", bare, "s")
    yield Figure("server start to ready", ready, "s")
    yield _at_most("server start to ready over the bare start", ready / bare, "ratio", 2.0)
    yield _at_most("idle memory of the server", statistics.median(idle), "GB", 1.5)
    yield from asked


def _request_cost(running: Running, effort: Effort) -> Iterator[Figure]:
    """A diagnosis over the socket: of a new crop, and of one whose diagnosis is remembered."""
    volume = make_phantom(seed=0).volume
    points = (np.add(PHANTOM_POINT, (0, 0, 0.01 * n)) for n in range(1000))
    known = request_body(volume, PHANTOM_POINT)
    connection = running.connect()
    times = _medians(
        {
            "new": lambda: running.diagnose(request_body(volume, next(points)), connection),
            "known": lambda: running.diagnose(known, connection),
        },
        effort.clicks,
        effort.warm_up,
    )
    connection.close()
    yield Figure("a diagnosis by the server", 1e3 * times["new"], "ms")
    yield Figure("  all of it but the engine's own work", 1e3 * times["known"], "ms")


def _many_clients(running: Running, effort: Effort) -> Iterator[Figure]:
    """Diagnoses, maps and reports at once; answers compared with the engine's."""
    volume = make_phantom(seed=0).volume
    diagnoser = Diagnoser(load_bundle(default_bundle_folder()), "cpu")
    count, clients = effort.requests, effort.clients
    points = np.random.default_rng(0).uniform(-4, 4, (min(40, count), 3)) + PHANTOM_POINT
    bodies = [request_body(volume, point) for point in points]
    truth = [diagnoser.diagnose(volume, read_request(b).point_ras_mm) for b in bodies]

    def client(first: int) -> list[bool]:
        connection = running.connect()
        right = []
        for n in range(first, count, clients):
            path = ("/diagnose", "/diagnose", "/maps", "/report")[n // clients % 4]
            which = n % len(bodies)
            status, body = running.ask("POST", path, bodies[which], connection=connection)
            right.append(status == 200 and _is_right(path, body, truth[which]))
        connection.close()
        return right

    def all_clients() -> list[bool]:
        with ThreadPoolExecutor(clients) as threads:
            return [r for told in threads.map(client, range(clients)) for r in told]

    all_clients()
    before, start = running.memory_mb(), time.perf_counter()
    right = all_clients()
    seconds, after = time.perf_counter() - start, running.memory_mb()
    name = f"{count} requests from {clients} clients"
    yield Figure(name, seconds, "s")
    yield _at_most(f"{name}: lost", count - len(right), "requests", 0)
    yield _at_most(f"{name}: wrong", right.count(False), "requests", 0)
    yield Figure(f"{name}: memory before, warm", before, "MB")
    yield Figure(f"{name}: memory after", after, "MB")
    yield _at_most(f"{name}: memory after over before", after / before, "ratio", 1.1)


def _is_right(path: str, body: bytes, truth: Diagnosis) -> bool:
    cases = [similar.case.case_id for similar in truth.cases]
    if path == "/report":
        return b"</html>" in body and all(case.encode() in body for case in cases)
    told = unpack(body)[1]
    if path == "/maps":
        return [pair["case_id"] for pair in told["pairs"]] == cases
    found = [case["case_id"] for case in told["cases"]]
    return (found, told["probability"]) == (cases, round(truth.probability, 4))


def panel(effort: Effort) -> Iterator[Figure]:
    """A click in the Slicer module, from the point to the result in the scene."""
    script = Path(__file__).with_name("benchmark_panel.py")
    options = ["--clicks", str(effort.repeats), "--warm-up", str(effort.warm_up)]
    done = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True, check=True
    )
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    value = {line["name"]: line["value"] for line in told}
    yield Figure("warm click in the panel to the result in the scene", value["click_s"], "s")
    yield _at_most("the same, of the engine's own time", value["ratio"], "x", 1.15)
    yield _at_most("longest block of the event loop", 1000 * value["longest_block_s"], "ms", 50)


def fuzz(effort: Effort) -> Iterator[Figure]:
    """Bodies that no sound client sends, to the real server; its memory before and after."""
    with Running(["--device", "cpu"], threads=effort.threads) as running:
        send_changed_bodies(running, max(effort.bodies // 20, 1))
        check_document(running, max(effort.documented // 160, 1))
        before = running.memory_mb()
        statuses = send_changed_bodies(running, effort.bodies)
        asked = check_document(running, effort.documented // 8)
        after = running.memory_mb()
        lines = [json.loads(line) for line in running.logged().splitlines()]
        failed = sum((line.get("status") or 0) >= 500 for line in lines)
        warned = sum(line["level"] == "warning" for line in lines)
        print(f"statuses {statuses}; by the document {asked}")
        yield Figure("changed bodies sent", sum(statuses.values()), "requests")
        yield Figure("requests by the OpenAPI document", sum(asked.values()), "requests")
        yield _at_most("answers of 500 and above", failed, "requests", 0)
        yield _at_most("warnings in the log", warned, "lines", 0)
        yield _at_most("crashes", running.process.poll() is not None, "", 0)
        yield Figure("memory before, warm", before, "MB")
        yield Figure("memory after", after, "MB")
        yield _at_most("memory after over before", after / before, "ratio", 1.1)


SECTIONS: dict[str, Callable[[Effort], Iterator[Figure]]] = {
    "click": click,
    "process": process,
    "search": search,
    "explain": explain,
    "concepts": concepts,
    "server": server,
    "panel": panel,
    "fuzz": fuzz,
    "training": training,
}


class _PlainLoop:
    """How MONAI's tutorials train: CacheDataset, dictionary transforms, DataLoader, float32."""

    def __init__(self, store: PatchStore, recipe: Recipe, device: str) -> None:
        from contrastdiagnosis.model.network import NoduleNet
        from monai import data, transforms

        keys, modes = ("image", "share"), ("bilinear", "bilinear")
        options = recipe.augmentation
        steps = [
            transforms.EnsureChannelFirstd(keys, channel_dim="no_channel"),
            transforms.EnsureTyped(keys, dtype=torch.float32),
            transforms.RandFlipd(keys, prob=0.4, spatial_axis=1),
            transforms.RandFlipd(keys, prob=0.4, spatial_axis=2),
            transforms.RandRotate90d(keys, prob=0.8, spatial_axes=(1, 2)),
            transforms.RandAffined(
                keys, prob=0.8, mode=modes, padding_mode="zeros", spatial_size=(32, 64, 64),
                rotate_range=(np.deg2rad(options.rotation_deg), 0, 0),
                scale_range=(options.scale,) * 3, translate_range=(3, 5, 5),
            ),
            transforms.CenterSpatialCropd(keys, roi_size=(32, 64, 64)),
            transforms.RandAdjustContrastd("image", prob=0.8, gamma=options.gamma),
            transforms.RandGaussianNoised("image", prob=0.8, std=options.noise),
        ]  # fmt: skip
        items = [
            {"image": windowed(store.hu[n]), "share": store.share[n].float() / 255, "n": n}
            for n in range(len(store))
        ]
        dataset = data.CacheDataset(items, transforms.Compose(steps), progress=False)
        self.loader = data.DataLoader(dataset, batch_size=recipe.batch, shuffle=True)
        self.store, self.recipe, self.device = store, recipe, device
        self.network = NoduleNet(recipe.network).to(device).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), recipe.learning_rate)

    def run_epoch(self) -> None:
        for batch in self.loader:
            n = batch["n"]
            targets = Targets(
                (self.store.malignancy[n] > 3).to(self.device),
                self.store.suspicion[n].to(self.device),
                torch.zeros(len(n), self.recipe.network.ratings, device=self.device),
                torch.zeros(len(n), 0, device=self.device),
            )
            features = self.network(batch["image"].as_tensor().to(self.device))
            share = batch["share"].as_tensor().to(self.device)
            terms = objective(features, share, targets, self.recipe, mask_only=False)
            self.optimizer.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            self.optimizer.step()


def _made_store(count: int) -> PatchStore:
    """Balls of both classes in noise: speed does not depend on what is seen."""
    random = np.random.default_rng(0)
    k, j, i = np.ogrid[-20:20, -40:40, -40:40]
    distance = np.sqrt((1.25 * k) ** 2 + (0.7 * j) ** 2 + (0.7 * i) ** 2)
    radius = random.uniform(3, 9, count)
    inside = np.stack([distance < r for r in radius])
    noise = random.normal(0, 0.02, inside.shape).astype(np.float32)
    nodules = [
        Nodule(
            case_id=f"{n}", patient_id=f"P{n}", image_path=Path(), mask_path=Path(), readers=4,
            ratings={}, series_uid="", fold=None, source="made", case_source=LIDC,
        )
        for n in range(count)
    ]  # fmt: skip
    return PatchStore(
        nodules=nodules,
        hu=torch.from_numpy(np.clip(-860 + 840 * inside + 1400 * noise, -1000, 400)).short(),
        share=torch.from_numpy(inside.astype(np.uint8) * 255),
        coverage=torch.full(inside.shape, STORED, dtype=torch.uint8),
        diameter_mm=torch.from_numpy(2 * radius).float(),
        ratings=torch.from_numpy(np.where(radius > 6, 4.0, 2.0)[:, None].repeat(9, 1)).float(),
        malignancy=torch.from_numpy(np.where(radius > 6, 4.0, 2.0)).float(),
        suspicion=torch.from_numpy((radius > 6).astype(np.float32)),
        case_source=LIDC,
    )


def _medians(calls: dict[str, Callable[[], object]], repeats: int, warm: int) -> dict[str, float]:
    """Median seconds of each call; the calls take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= warm:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _forward(diagnoser: Diagnoser, images: torch.Tensor) -> None:
    with torch.inference_mode():
        diagnoser.network(images)
    if images.is_cuda:
        torch.cuda.synchronize()


MEASURE = """
import json, os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
child.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps([status, time.perf_counter() - start, usage.ru_maxrss]))
"""
"""Runs a command from a small process: the peak of a child counts what its parent held as it
forked, and after `search` this one holds gigabytes."""


def _diagnose_process(
    ct: Path, point: tuple[float, float, float], options: Sequence[str] = ()
) -> tuple[float, float]:
    """Seconds and peak gigabytes of one `contrastdiagnosis diagnose`."""
    command = [
        sys.executable,
        "-m",
        "contrastdiagnosis.commands.main",
        "diagnose",
        str(ct),
        "--device",
        "cpu",
    ]
    command += ["--ras", *(f"{x}" for x in point), "--json", str(ct.with_suffix(".json"))]
    command += options
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], stdout=subprocess.PIPE)
    status, seconds, size = json.loads(done.stdout)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    kilobytes = size if sys.platform != "darwin" else size / 1024
    return seconds, kilobytes * 1024 / 1e9


def _large_volume(shape: tuple[int, int, int]) -> Volume:
    """A chest-sized int16 volume: noisy lung with a ball of tissue at the origin, a wall in front.

    Without noise medians of its lung would be slow: those of many equal values are.
    """
    depth, height, width = (n // 2 for n in shape)
    hu = np.full(shape, -850, dtype=np.int16)
    tile = np.rint(np.random.default_rng(0).normal(0, 25, (64, *shape[1:]))).astype(np.int16)
    for first in range(0, len(hu), len(tile)):
        hu[first : first + len(tile)] += tile[: len(hu) - first]
    hu[:, : 60 * shape[1] // 512] = 30
    k, j, i = np.ogrid[-10:10, -12:12, -12:12]
    ball = k**2 + (0.9 * j) ** 2 + (0.9 * i) ** 2 < 64
    middle = np.s_[depth - 10 : depth + 10, height - 12 : height + 12, width - 12 : width + 12]
    hu[middle][ball] = 20
    affine = np.diag([-0.7, -0.7, 0.8, 1.0])
    affine[:3, 3] = 0.7 * width, 0.7 * height, -0.8 * depth
    return Volume(hu, affine)


def _at_most(name: str, value: float, unit: str, limit: float) -> Figure:
    return Figure(name, value, unit, f"<= {limit:g}", value <= limit)


def _at_least(name: str, value: float, unit: str, limit: float) -> Figure:
    return Figure(name, value, unit, f">= {limit:g}", value >= limit)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in reversed(shape))


def _cuda_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "absent"


def _line(figure: Figure) -> str:
    verdict = {None: "", True: "holds", False: "MISSED"}[figure.holds]
    return (
        f"{figure.name:78} {figure.value:9.3g} {figure.unit:10} {figure.target or '':8} {verdict}"
    )


if __name__ == "__main__":
    main()
