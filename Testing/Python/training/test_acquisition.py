"""How series were scanned: which kernels, slices, currents and noise make an image poor."""

from __future__ import annotations

import pytest
from contrastdiagnosis.errors import InputError
from contrastdiagnosis_training.data.acquisition import (
    NOISY_HU,
    Acquisition,
    is_poor_scan,
    read_acquisitions,
)

SHARP = (
    "LUNG", "BONE", "BONEPLUS", "EDGE",  # GE
    "B60f", "B70f", "B80s", "I70f", "U90u", "H60s", "Br64d", "Bl57d", "Hr68h", "Bv60f",  # Siemens
    "D", "E", "L", "YA", "YB", "YD",  # Philips
    "FC50", "FC51", "FC52", "FC58", "FC81", "FC86", "FC30", "FC35",  # Toshiba
    "I70f\\3", "STANDARD\\LUNG", " Br64d \\ 3",  # Several values, as DICOM allows.
)  # fmt: skip
SMOOTH = (
    "STANDARD", "SOFT", "DETAIL", "CHEST", "",
    "B20f", "B30f", "B31s", "B40s", "B45f", "B50f", "I30f", "H40s",
    "A", "B", "C", "F", "XA", "YE",
    "FC01", "FC03", "FC10", "FC13", "FC18", "FC60", "Br40d", "Bv44f", "Hr57",
    "I31f\\3", "STANDARD\\SOFT",
    # No part of a name counts, and nothing that goes on behind one.
    "BONE SOFT", "SOFTLUNG", "FC5", "FC510", "B6", "EDGES",
)  # fmt: skip


@pytest.mark.parametrize("kernel", SHARP)
def test_kernels_for_lung_and_bone_make_an_image_poor(kernel):
    assert Acquisition(kernel=kernel).poor
    assert Acquisition(kernel=f" {kernel.lower()} ").poor


@pytest.mark.parametrize("kernel", SMOOTH)
def test_other_kernels_do_not(kernel):
    assert not Acquisition(kernel=kernel).poor


@pytest.mark.parametrize(
    ("slice_mm", "current_ma", "poor"),
    [
        (None, None, False),
        (0.6, 400.0, False),
        (2.5, 60.0, False),  # What is as much as allowed is allowed.
        (2.51, 400.0, True),
        (5.0, None, True),
        (None, 59.9, True),
        (1.25, 40.0, True),
        (1.25, 0.0, False),  # A current of 0 is one that nobody noted.
        (0.0, None, False),
    ],
)
def test_thick_slices_and_low_dose_make_an_image_poor(slice_mm, current_ma, poor):
    assert Acquisition(slice_mm, current_ma, "STANDARD").poor == poor
    assert Acquisition(slice_mm, current_ma, "LUNG").poor


@pytest.mark.parametrize(
    ("slice_mm", "noise_hu", "told", "poor"),
    [
        (1.25, None, None, False),
        (1.25, float("nan"), None, False),
        (2.5, NOISY_HU, None, False),
        (2.6, None, None, True),
        (1.25, NOISY_HU + 0.1, None, True),
        (1.25, 20.0, Acquisition(), False),
        (1.25, 20.0, Acquisition(5.0), True),
        (3.0, 20.0, Acquisition(1.0), True),  # Read from every third slice only.
        (1.25, NOISY_HU + 9, Acquisition(1.0, 400.0, "STANDARD"), True),
    ],
)
def test_what_is_measured_and_what_is_told_each_make_an_image_poor(slice_mm, noise_hu, told, poor):
    assert bool(is_poor_scan(slice_mm, noise_hu, told)) == poor


HEADER = "series_uid,manufacturer,slice_thickness_mm,tube_current_ma,kernel\n"


def written(folder, text):
    file = folder / "acquisition.csv"
    file.write_text(text)
    return file


def test_a_table_is_read_by_series_and_missing_numbers_are_none(tmp_path):
    file = written(
        tmp_path, HEADER + "1.2.3,GE,2.5,400,LUNG\n1.2.4,SIEMENS,,,B30f\n1.2.5,Philips, ,80.5,\n"
    )
    assert read_acquisitions(file) == {
        "1.2.3": Acquisition(2.5, 400.0, "LUNG"),
        "1.2.4": Acquisition(None, None, "B30f"),
        "1.2.5": Acquisition(None, 80.5, ""),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEADER + "1.2.3,GE,2.5,400,LUNG\n1.2.4,GE,thick,400,LUNG\n",
            r"acquisition.csv, line 3: wanted numbers of mm and mA, got 'thick' and '400'",
        ),
        (HEADER + "1.2.3,GE,2.5,400 mA,LUNG\n", r"line 2: wanted numbers .* '400 mA'"),
        # NaN is below every limit.
        (HEADER + "1.2.3,GE,nan,400,LUNG\n", r"line 2: wanted numbers .* 'nan'"),
        (HEADER + "1.2.3,GE,2.5,inf,LUNG\n", r"line 2: wanted numbers .* 'inf'"),
        # It would stand for every nodule and CT whose series is not known.
        (HEADER + ",GE,2.5,400,LUNG\n", "line 2: wanted a series_uid, got none"),
        (HEADER + "1.2.3,GE,2.5\n", "line 2: wanted 5 fields as in the header"),
        ("series_uid,kernel\n1.2.3,LUNG\n", "lacks the columns slice_thickness_mm, tube_current"),
        ("", "lacks the columns kernel, series_uid"),
    ],
)
def test_a_broken_table_is_told_in_a_sentence(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_acquisitions(written(tmp_path, text))


def test_a_table_that_is_not_there_is_told_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none.csv: No such file"):
        read_acquisitions(tmp_path / "none.csv")
