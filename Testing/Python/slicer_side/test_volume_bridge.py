"""Volumes, points and transforms of the scene against the engine's own geometry."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import slicer
import vtk
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, crop_patch, voxels_under_patch
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.protocol.tensors import unpack
from contrastdiagnosis.service.requests import read_request
from ContrastDiagnosisLib.Scene.VolumeBridge import (
    InputError,
    checkVolume,
    cropAround,
    labelmapOf,
    maskOf,
    pointInVolume,
    pointInWorld,
    requestBody,
    sequenceRemark,
)
from scipy.spatial.transform import Rotation


def add_volume(hu, affine, name="CT"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    slicer.util.updateVolumeFromArray(node, hu)
    return node


def affine_of(spacing_ijk, turn_deg=(0, 0, 0), flips=(1, 1, 1), origin=(-80.0, 60.0, -200.0)):
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
    affine[:3, :3] = turn * np.multiply(spacing_ijk, flips)
    affine[:3, 3] = origin
    return affine


def noise(shape, dtype=np.int16):
    return np.random.default_rng(0).integers(-1000, 400, shape).astype(dtype)


CASES = [
    affine_of((0.7, 0.7, 1.25)),
    affine_of((0.6, 0.9, 2.5), (12, -9, 25)),
    affine_of((0.8, 0.7, 1.0), flips=(-1, -1, 1)),
    affine_of((0.8, 0.8, 3.0), (90, 0, 0), (1, -1, 1)),
]


@pytest.mark.parametrize("affine", CASES)
@pytest.mark.parametrize("where", [(0.5, 0.5, 0.5), (0.02, 0.97, 0.5), (0.5, 0.5, 0.98)])
def test_the_crop_gives_the_engine_what_the_whole_volume_would(scene, affine, where):
    hu = noise((40, 90, 100))
    node = add_volume(hu, affine)
    # Off the half voxels, where rounding decides which voxels the patch touches.
    ijk = np.multiply(where, (99, 89, 39)) + 0.13
    point = (affine @ [*ijk, 1])[:3]
    request = read_request(requestBody(node, cropAround(node, point), tellSeries=True))
    whole = Volume(hu, affine)
    np.testing.assert_allclose(request.point_ras_mm, point, atol=1e-9)
    ours, theirs = crop_patch(request.volume, point), crop_patch(whole, point)
    np.testing.assert_array_equal(ours.valid, theirs.valid)
    np.testing.assert_allclose(ours.intensity, theirs.intensity, atol=2e-5)
    np.testing.assert_array_equal(
        voxels_under_patch(request.volume, point, DEFAULT_GEOMETRY),
        voxels_under_patch(whole, point, DEFAULT_GEOMETRY),
    )


def test_the_crop_is_a_copy_and_small(scene):
    node = add_volume(noise((300, 200, 200)), affine_of((0.7, 0.7, 0.5)))
    crop = cropAround(node, (affine_of((0.7, 0.7, 0.5)) @ [100, 100, 150, 1])[:3])
    assert crop.hu.size < 800_000
    crop.hu[:] = 7
    assert (slicer.util.arrayFromVolume(node) != 7).any()


@pytest.mark.parametrize(
    ("dtype", "sent"), [(np.int16, "int16"), (np.uint8, "int16"), (np.int32, "int16"),
                        (np.float32, "float32"), (np.float64, "float32")],
)  # fmt: skip
def test_voxels_travel_as_int16_where_nothing_is_lost(scene, dtype, sent):
    hu = np.abs(noise((40, 90, 100), np.int32)) % 250
    node = add_volume(hu.astype(dtype), CASES[0])
    crop = cropAround(node, (CASES[0] @ [50, 45, 20, 1])[:3])
    assert crop.hu.dtype.name == sent


def test_voxels_beyond_int16_travel_as_float32(scene):
    hu = noise((40, 90, 100), np.int32)
    hu[20, 45, 50] = 70_000
    node = add_volume(hu, CASES[0])
    crop = cropAround(node, (CASES[0] @ [50, 45, 20, 1])[:3])
    assert crop.hu.dtype.name == "float32"
    assert crop.hu.max() == 70_000


def test_a_transformed_volume_is_asked_about_in_its_own_frame(scene):
    node = add_volume(noise((40, 90, 100)), CASES[1])
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", (5, 40, -20), degrees=True).as_matrix()
    turn[:3, 3] = 30, -40, 50
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(turn))
    ras = (CASES[1] @ [50, 45, 20, 1])[:3]
    before = cropAround(node, ras)
    node.SetAndObserveTransformNodeID(transform.GetID())
    world = (turn @ [*ras, 1])[:3]
    np.testing.assert_allclose(pointInVolume(node, world), ras, atol=1e-6)
    np.testing.assert_allclose(pointInWorld(node, ras), world, atol=1e-6)
    after = cropAround(node, world)
    assert after.startKji == before.startKji
    np.testing.assert_array_equal(after.hu, before.hu)


def test_a_warped_volume_is_asked_about_where_the_point_comes_from(scene):
    node = add_volume(noise((40, 90, 100)), CASES[0])
    spline = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for p in ((-80, 60, -200), (0, 60, -200), (-80, 120, -200), (-80, 60, -150), (-40, 90, -170)):
        source.InsertNextPoint(p)
        target.InsertNextPoint(p[0] + 3, p[1], p[2] + (4 if p[0] == -40 else 0))
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    spline.SetBasisToR()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    transform.SetAndObserveTransformToParent(spline)
    node.SetAndObserveTransformNodeID(transform.GetID())
    np.testing.assert_allclose(pointInVolume(node, (-37, 90, -166)), (-40, 90, -170), atol=0.01)


def test_what_is_no_ct_is_refused_with_its_name(scene):
    with pytest.raises(InputError, match="Select a CT volume"):
        checkVolume(None)
    label = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    with pytest.raises(InputError, match="Wanted a CT volume, got labels, which is a LabelMap"):
        checkVolume(label)
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow")
    with pytest.raises(InputError, match="hollow has no voxels"):
        checkVolume(empty)
    node = add_volume(noise((5, 6, 7)), CASES[0])
    colours = vtk.vtkImageData()
    colours.SetDimensions(4, 4, 4)
    colours.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node.SetAndObserveImageData(colours)
    with pytest.raises(InputError, match="Wanted one value per voxel, CT has 3"):
        checkVolume(node)


def test_a_point_outside_is_refused(scene):
    node = add_volume(noise((40, 90, 100)), CASES[0])
    with pytest.raises(InputError, match="outside the volume CT"):
        cropAround(node, (CASES[0] @ [50, 45, 41, 1])[:3])


@pytest.mark.parametrize("affine", CASES)
def test_the_overview_is_a_thin_slab_in_place(scene, affine):
    """Its voxels, by its affine, are those of the volume at the same places."""
    hu = noise((40, 520, 300))
    node = add_volume(hu, affine)
    point = (affine @ [150, 260, 20, 1])[:3]
    body = requestBody(node, cropAround(node, point), ["a"], overview=True, tellSeries=True)
    request = read_request(body)
    assert request.case_ids == ("a",)
    slab = request.overview
    assert min(slab.hu.shape) <= 3
    assert slab.contains(point)
    d, h, w = slab.hu.shape
    for kji in ((0, 0, 0), (d - 1, h - 1, w - 1), (d // 2, h // 2, w // 2)):
        ras = slab.ras_from_ijk(kji[::-1])
        i, j, k = np.round(Volume(hu, affine).ijk_from_ras(ras)).astype(int)
        assert slab.hu[kji] == hu[k, j, i]


def test_no_name_and_no_identifier_travels(scene):
    node = add_volume(noise((40, 90, 100)), CASES[0], name="Miller^Anna 1950-01-01")
    node.SetAttribute("DICOM.instanceUIDs", "1.2.840.1 1.2.840.2")
    crop = cropAround(node, (CASES[0] @ [50, 45, 20, 1])[:3])
    body = requestBody(node, crop, overview=True, tellSeries=True)
    tensors, document = unpack(body)
    assert set(tensors) == {"hu", "overview_hu"}
    assert set(document) == {"ijk_to_ras", "point_ras_mm", "part_of_ct", "overview_ijk_to_ras"}
    assert b"Miller" not in body
    assert b"1.2.840" not in body


def test_a_known_series_travels_as_its_hash_and_not_even_so_to_others(scene, monkeypatch):
    class Database:
        isOpen = True

        def instanceValue(self, uid, tag):
            return {("1.2.840.1", "0020,000E"): "1.3.6.1.4.1"}[uid, tag]

    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    node = add_volume(noise((40, 90, 100)), CASES[0])
    node.SetAttribute("DICOM.instanceUIDs", "1.2.840.1 1.2.840.2")
    crop = cropAround(node, (CASES[0] @ [50, 45, 20, 1])[:3])
    body = requestBody(node, crop, tellSeries=True)
    expected = hashlib.sha256(b"1.3.6.1.4.1").hexdigest()
    assert unpack(body)[1]["series_sha256"] == expected
    assert b"1.3.6.1.4.1" not in body
    abroad = requestBody(node, crop, tellSeries=False)
    assert "series_sha256" not in unpack(abroad)[1]
    assert expected.encode() not in abroad


def test_a_label_map_comes_back_as_it_went(scene):
    mask = (noise((4, 5, 6)) > 0).astype(np.uint8)
    back, start = maskOf(labelmapOf(mask, CASES[1], (7, 8, 9)))
    np.testing.assert_array_equal(back, mask)
    assert start == (7, 8, 9)


def test_a_volume_of_no_sequence_has_no_remark(scene):
    assert sequenceRemark(add_volume(noise((4, 5, 6)), CASES[0])) == ""
