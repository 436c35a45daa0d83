"""The sample CT that the extension ships, and how Slicer is told of it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock
from urllib.request import urlopen

import numpy as np
import pytest
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.imaging.phantom import DEMO_NODULES
from contrastdiagnosis.imaging.volume import read_volume
from PIL import Image

MODULE_FOLDER = Path(__file__).parents[2] / "ContrastDiagnosisSlicer"
MODULE_FILE = MODULE_FOLDER / "ContrastDiagnosis.py"
NAME = "ContrastDiagnosisPhantom"


SOURCE_ARGUMENTS = {
    "category", "sampleName", "uris", "fileNames", "nodeNames", "customDownloader",
    "thumbnailFileName", "loadFileTypes", "loadFiles", "loadFileProperties", "checksums",
}  # fmt: skip
"""What Slicer's registerCustomSampleDataSource takes."""


@pytest.fixture
def slicer(monkeypatch) -> SimpleNamespace:
    """What the file uses of Slicer: what it loads, and the categories and sources it registers."""
    seen = SimpleNamespace(loaded=[], categories={}, sources=[])

    def load_volume(filename, properties):
        display = Mock(spec=["SetAutoWindowLevel", "SetWindowLevel"])
        node = SimpleNamespace(file=filename, GetDisplayNode=lambda: display, **properties)
        seen.loaded.append(node)
        return node

    def register_source(**source):
        assert set(source) <= SOURCE_ARGUMENTS
        seen.sources.append(SimpleNamespace(**source))

    logic = SimpleNamespace(
        registerCustomSampleDataCategory=lambda category, title: seen.categories.update(
            {category: title}
        ),
        registerCustomSampleDataSource=register_source,
    )
    fake, i18n = ModuleType("slicer"), ModuleType("slicer.i18n")
    fake.util = SimpleNamespace(
        loadVolume=load_volume, tryWithErrorDisplay=Mock(return_value=nullcontext())
    )
    i18n.tr = str
    sample_data = SimpleNamespace(SampleDataLogic=logic)
    for name, module in {"slicer": fake, "slicer.i18n": i18n, "SampleData": sample_data}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return seen


@pytest.fixture
def sample(slicer) -> ModuleType:
    file = MODULE_FOLDER / "ContrastDiagnosisLib" / "SamplePhantom.py"
    spec = importlib.util.spec_from_file_location("SamplePhantomUnderTest", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sample_is_registered_with_all_that_slicer_shows(sample, slicer):
    sample.registerSampleData(str(MODULE_FILE))
    (source,) = slicer.sources
    assert slicer.categories == {"ContrastDiagnosis": "ContrastDiagnosis"}
    assert (source.category, source.sampleName) == ("ContrastDiagnosis", NAME)
    assert source.nodeNames == NAME
    with Image.open(source.thumbnailFileName) as thumbnail:
        assert thumbnail.size == (260, 280)


def test_its_address_and_checksum_are_those_of_the_shipped_file(sample, slicer):
    """`SampleData.downloadSample` fetches the URI and checks it; only the button does not."""
    sample.registerSampleData(str(MODULE_FILE))
    (source,) = slicer.sources
    with urlopen(source.uris) as file:
        data = file.read()
    assert source.checksums == "SHA256:" + hashlib.sha256(data).hexdigest()
    assert source.fileNames == f"{NAME}.nrrd"
    assert len(data) <= 6e6


def test_the_button_loads_the_file_in_the_lung_window(sample, slicer):
    sample.registerSampleData(str(MODULE_FILE))
    (source,) = slicer.sources
    node = source.customDownloader(source)
    assert slicer.loaded == [node]
    assert node.name == NAME
    assert Path(node.file).is_file()
    node.GetDisplayNode().SetAutoWindowLevel.assert_called_once_with(False)
    node.GetDisplayNode().SetWindowLevel.assert_called_once_with(1500, -600)


def test_the_nodules_are_where_it_says(sample):
    """In the file, not only in the JSON: solid ones are denser than the lung around them."""
    assert [n.center_ras_mm for n in DEMO_NODULES] == list(sample.NODULE_CENTERS_RAS)
    volume = read_volume(sample.PHANTOM_FILE)
    for nodule, facts in zip(DEMO_NODULES, sample.FACTS["nodules"], strict=True):
        assert facts["diameterMm"] == nodule.diameter_mm
        i, j, k = np.round(volume.ijk_from_ras(facts["centerRas"])).astype(int)
        density = volume.hu[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2].mean()
        wanted = -560 if nodule.texture == "ground-glass" else 400 if nodule.calcified else 35
        assert density == pytest.approx(wanted, abs=150)
    assert [facts["kind"] for facts in sample.FACTS["nodules"]] == [
        "spiculated", "calcified", "ground-glass", "smooth",
    ]  # fmt: skip


def test_the_first_nodule_is_diagnosed_as_the_tutorial_shows(sample):
    volume = read_volume(sample.PHANTOM_FILE)
    diagnoser = Diagnoser(load_bundle(default_bundle_folder()), "cpu")
    diagnosis = diagnoser.diagnose(volume, sample.NODULE_CENTERS_RAS[0])
    assert diagnosis.malignant
    assert diagnosis.confidence.confident
    assert not diagnosis.notices
