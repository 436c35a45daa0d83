"""The shipped bundle says what is poor about scans: made poorer, and scanned with thick slices."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.imaging.image_quality import ImageQuality
from contrastdiagnosis.imaging.phantom import DEMO_NODULES, make_phantom
from contrastdiagnosis.imaging.volume import Volume, read_volume
from contrastdiagnosis.report.screen import render_report
from contrastdiagnosis_training.data.degradations.volume import degraded_hu
from scipy import ndimage

from training.conftest import DATA

CLICK = DATA / "ct_click" / "R01-001_right_upper_lung_1mm.nii.gz"
LESION_RAS_MM = (95.694, 144.985, -66.121)
"""An adenocarcinoma of 17 mm (`lesion.json`)."""

THICK = DATA / "ct_lungs" / "image"
MASS_RAS_MM = np.array([[22.0, 64.0, 172.0], [103.0, 130.0, 236.0]])
"""Corners of the box around the carcinoma of the kernel pair (`cts.csv`)."""

SAID = {
    "low_dose": r"the image is noisy: (\d+) HU",
    "thick_slices": r"the slices are thick: about ([\d.]+) mm",
    "blur": r"the image is blurred: details below [\d.]+ mm are lost",
    "motion": "the image is smeared or doubled, as by motion|motion makes them look so",
}
SMEARED = re.compile(r"the image is blurred|the slices are thick|smeared or doubled")
POOR = re.compile(r"noisy|noisier|slices|blurred|smeared")


@pytest.fixture(scope="module")
def diagnoser():
    return Diagnoser(load_bundle(default_bundle_folder()), "cpu")


@pytest.fixture(scope="module", params=["phantom", "real"])
def scan(request):
    """A CT and a nodule in it: of the demo, and a real one where it is at hand."""
    if request.param == "phantom":
        return make_phantom().volume, DEMO_NODULES[0].center_ras_mm
    if not CLICK.is_file():
        pytest.skip(f"no real CT at {CLICK}")
    return read_volume(CLICK), LESION_RAS_MM


def said(diagnosis):
    """All that is told of the image."""
    told = (*diagnosis.confidence.reasons, *diagnosis.notices)
    return [sentence for sentence in told if POOR.search(sentence)]


def poorer(volume, *operations):
    """The whole scan at the worst severity."""
    for operation in operations:
        volume = Volume(degraded_hu(volume, operation, 5, seed=1), volume.ijk_to_ras)
    return volume


def test_nothing_is_said_of_a_good_scan(diagnoser, scan):
    assert said(diagnoser.diagnose(*scan)) == []


@pytest.mark.parametrize("operation", SAID)
def test_what_made_a_scan_poor_is_said_with_its_number(diagnoser, scan, operation):
    volume, point = scan
    diagnosis = diagnoser.diagnose(poorer(volume, operation), point)
    told = [re.search(SAID[operation], sentence) for sentence in said(diagnosis)]
    found = next(match for match in told if match)
    wanted = {"low_dose": 120.0, "thick_slices": 7.5}.get(operation)
    if wanted:
        assert float(found[1]) == pytest.approx(wanted, rel=0.2)


@pytest.mark.parametrize("first", ["blur", "thick_slices"])
def test_noise_does_not_hide_another_fault(diagnoser, scan, first):
    """What smears is told, though overlapping slices are hard to tell from motion where there is
    noise."""
    volume, point = scan
    sentences = said(diagnoser.diagnose(poorer(volume, first, "low_dose"), point))
    assert any(re.search(SAID["low_dose"], sentence) for sentence in sentences)
    assert any(SMEARED.search(sentence) for sentence in sentences)


def test_the_report_says_it(diagnoser, scan):
    volume, point = scan
    thick = poorer(volume, "thick_slices")
    diagnosis = diagnoser.diagnose(thick, point)
    page = render_report(diagnosis, thick, diagnoser.bundle, diagnoser.explain(diagnosis))
    assert re.search(SAID["thick_slices"], page)


@pytest.fixture(scope="module")
def pair():
    """One scan of 8 mm slices through a soft kernel, and through a sharp one."""
    files = [THICK / f"lungdx_a0002_8mm_{kernel}.nii.gz" for kernel in ("b40f", "b70f")]
    if not all(file.is_file() for file in files):
        pytest.skip(f"no kernel pair in {THICK}")
    return [read_volume(file) for file in files]


def test_the_kernel_changes_no_answer_without_a_reason(diagnoser, pair):
    """At the same points, within the carcinoma and beside it; slices are told of at each.

    Of 30 answers one may differ, where the vote is split, and that is said of both then.
    """
    inside = np.linspace(MASS_RAS_MM[0] + 5, MASS_RAS_MM[1] - 5, 3)
    points = [
        *product(*inside.T),
        (-45.0, 110.0, 160.0),
        (-32.0, 141.0, 253.0),
        (60.0, 40.0, 240.0),
    ]
    apart, differing = [], []
    for point in points:
        soft, sharp = (diagnoser.diagnose(volume, point) for volume in pair)
        for diagnosis in (soft, sharp):
            assert any("slices" in sentence for sentence in said(diagnosis)), point
            assert not diagnosis.confidence.confident
        apart.append(abs(soft.probability - sharp.probability))
        if soft.finding != sharp.finding:
            differing.append(point)
            for diagnosis in (soft, sharp):
                assert any("the vote is split" in r for r in diagnosis.confidence.reasons), point
    assert len(points) == 30 and len(differing) <= 1, differing
    assert np.median(apart) < 0.05 and max(apart) < 0.2, apart


def test_every_thick_scan_is_told_of_wherever_it_is_clicked(diagnoser):
    """Also where no nodule is told of: it may have been missed for the slices."""
    files = sorted(THICK.glob("*_[58]mm*.nii.gz"))
    if not files:
        pytest.skip(f"no thick scans in {THICK}")
    for file in files:
        volume = read_volume(file)
        middle = volume.ijk_to_ras @ [*(np.array(volume.hu.shape[::-1]) // 2), 1]
        for shift_mm in (-60.0, 60.0):
            diagnosis = diagnoser.diagnose(volume, np.add(middle[:3], (shift_mm, 0, 0)))
            assert any("slices" in sentence for sentence in said(diagnosis)), (file.name, shift_mm)


@pytest.mark.parametrize("noise_hu", [0.0, 0.5, 2.0, 4.0])
def test_lung_without_noise_is_no_blurred_image(diagnoser, noise_hu):
    """Of a phantom, or of a scan that was cleaned of it: its edges are sharp all the same."""
    phantom = make_phantom().volume
    still = np.where(phantom.hu < -700, -860.0, phantom.hu)
    noise = np.random.default_rng(0).normal(0, noise_hu, still.shape)
    # In-plane, as wide as the details that are told to be lost.
    blurred = ndimage.gaussian_filter(still, (0, *(3.0 / 2.355 / np.array(phantom.spacing_mm[1:]))))
    for hu, wanted in ((still, False), (blurred, True)):
        volume = Volume(np.rint(hu + noise), phantom.ijk_to_ras)
        for nodule in DEMO_NODULES[:3]:
            told = said(diagnoser.diagnose(volume, nodule.center_ras_mm))
            assert any("blurred" in sentence for sentence in told) == wanted, told


def test_coarse_pixels_are_not_told_to_be_thick_slices(diagnoser):
    """Whichever axis is the coarse one, what is said of it is true."""
    phantom = make_phantom().volume
    affine = phantom.ijk_to_ras.copy()
    affine[:3, :2] *= 5
    coarse = Volume(np.ascontiguousarray(phantom.hu[:, ::5, ::5]), affine)
    wanted = f"slices or pixels are too far apart: {max(coarse.spacing_mm):.1f} mm"
    told = said(diagnoser.diagnose(coarse, DEMO_NODULES[0].center_ras_mm))
    assert any(wanted in sentence for sentence in told)
    assert not any("slices are" in sentence for sentence in told)


def test_a_measure_that_nobody_made_is_no_reason(diagnoser):
    """Where nothing could be measured nothing is told to be poor."""
    assert diagnoser.bundle.info.limits.detector.sentences(ImageQuality()) == {}
