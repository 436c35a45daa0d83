"""Print forms of the demo's nodule, for `test_reports`: `print_reports.py FOLDER` in a process.

In Slicer the network runs in a process of its own: the libraries of its NumPy and of torch's clash.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.imaging.phantom import DEMO_NODULES, make_phantom
from contrastdiagnosis.protocol.revision import Box, Revision
from contrastdiagnosis.report.paper import render_print_report

POINT = DEMO_NODULES[0].center_ras_mm
TURNED = ((0.6, 0.8, 0.0), (-0.8, 0.6, 0.0), (0.0, 0.0, 1.0))
KINDS = ("plain", "with pictures", "corrected", "without concepts")


def write_print_reports(folder: Path) -> None:
    """With all that one can hold and with the least; named by kind."""
    bundle = load_bundle(default_bundle_folder())
    volume = make_phantom(DEMO_NODULES[:1]).volume
    diagnoser = Diagnoser(bundle, "cpu")
    diagnosis = diagnoser.diagnose(volume, POINT)
    store = PixelStore(folder / "pixels")
    patch = diagnosis.encoding.patch
    inside = diagnosis.encoding.probability * diagnosis.nodule >= 0.5
    shown = {c.case.case_id for c in diagnosis.cases} | {p.case_id for p in bundle.concepts.atlas}
    for case_id in shown:
        store.write(case_id, CasePixels(patch.intensity, np.ones_like(inside), inside))
    pictured = replace(bundle, pixels=store)
    explanations = Diagnoser(pictured, "cpu").explain(diagnosis)
    alone = [replace(e, case=None, pixels=None) for e in explanations]
    first, second, *_, last = (concept.name for concept in bundle.info.concepts)
    boxes = [
        Box(POINT, (20.0, 18.0, 12.0), True),
        Box(POINT, (9.0, 9.0, 9.0), False, first, TURNED),
        Box(POINT, (2.0, 2.0, 2.0), False, second, TURNED),
    ]
    revised = diagnoser.revise(diagnosis, volume, Revision((*boxes,), (second, last), "zero", 0.3))
    bare = replace(diagnosis, concepts=None), replace(bundle, concepts=None)
    made = (
        (diagnosis, volume, bundle, alone),
        (diagnosis, volume, pictured, explanations),
        (revised, volume, pictured, explanations),
        (bare[0], volume, bare[1], alone),
    )
    for kind, what in zip(KINDS, made, strict=True):
        (folder / f"{kind}.html").write_text(render_print_report(*what), encoding="utf-8")


if __name__ == "__main__":
    write_print_reports(Path(sys.argv[1]))
