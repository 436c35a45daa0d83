"""Bodies that no sound client sends, and sound ones at the edge of what is allowed.

`Testing/benchmark.py --only fuzz` sends 10,000 of them.
"""

from __future__ import annotations

import json
import struct

import numpy as np
from contrastdiagnosis.protocol.request import FIELDS, TENSORS
from contrastdiagnosis.protocol.revision import BOX_FIELDS, REVISION_FIELDS
from contrastdiagnosis.protocol.tensors import pack, unpack
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

TYPES = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "F32", "F64", "I64", "C64", "F4", "F8_E5M2", "?")
DTYPES = ("int16", "float32", "float64", "uint8", "int64", "bool", "float16")

ODD_NUMBERS = st.one_of(
    st.sampled_from([0, -0.0, 1e-300, 1e5, 1e5 + 1, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**400]),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
)
ODD_TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["P0", "P1_0", "\ud800", "\x00", "../../etc/passwd", "a" * 5000, "🫁", "<b>"]),
)
JSON = st.recursive(
    st.one_of(st.none(), ODD_NUMBERS, ODD_TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(ODD_TEXTS, inner, max_size=4)
    ),
    max_leaves=20,
)
DEEP = st.integers(1, 40_000).map(lambda n: "[" * n + "]" * n)
NAMES = st.one_of(st.sampled_from(sorted(FIELDS)), ODD_TEXTS)


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of any header; `length` tells another length than it has."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def with_document(body: bytes, text: str) -> bytes:
    """The body with another JSON text."""
    length = int.from_bytes(body[:8], "little")
    header = json.loads(body[8 : 8 + length])
    header["__metadata__"]["json"] = text
    return raw(json.dumps(header).encode(), body[8 + length :])


@st.composite
def edited_bytes(draw, body: bytes) -> bytes:
    """The body with some of its bytes changed, lost or doubled."""
    edited = bytearray(body)
    length = 8 + int.from_bytes(body[:8], "little")
    for _ in range(draw(st.integers(1, 6))):
        # Most of a body are voxels, most of what can go wrong is in the header.
        place = draw(st.integers(0, min(length, len(edited)) - 1)) if len(edited) else 0
        part = draw(st.binary(min_size=0, max_size=8))
        edited[place : place + draw(st.integers(0, 8))] = part
    return bytes(edited[: draw(st.integers(0, len(edited)))] if draw(st.booleans()) else edited)


@st.composite
def edited_header(draw, body: bytes) -> bytes:
    """The body with other types, shapes and offsets of its tensors."""
    length = int.from_bytes(body[:8], "little")
    header, data = json.loads(body[8 : 8 + length]), body[8 + length :]
    sizes = st.one_of(st.integers(0, 300), st.sampled_from([2**31, 2**32, 2**63, 2**64, -1]))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        header["hu"]["shape"] = draw(st.lists(sizes, max_size=70))
    elif kind == 1:
        header["hu"]["dtype"] = draw(st.sampled_from(TYPES))
    elif kind == 2:
        header["hu"]["data_offsets"] = draw(st.lists(sizes, min_size=2, max_size=2))
    else:
        header[draw(ODD_TEXTS)] = draw(JSON)
    told = draw(st.one_of(st.none(), st.integers(0, 2**64 - 1)))
    return raw(json.dumps(header).encode(), data, told)


@st.composite
def edited_document(draw, body: bytes) -> bytes:
    """The body with other JSON."""
    _, document = unpack(body)
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return with_document(body, draw(st.one_of(ODD_TEXTS, DEEP)))
    if kind == 1:
        return with_document(body, json.dumps(draw(JSON)))
    for name in draw(st.lists(NAMES, min_size=1, max_size=3)):
        document[name] = draw(JSON)
    if kind == 2:
        document.pop(draw(st.sampled_from(sorted(document))))
    return with_document(body, json.dumps(document))


@st.composite
def edited_numbers(draw, body: bytes) -> bytes:
    """The body with a number or a row of its geometry changed."""
    _, document = unpack(body)
    if draw(st.booleans()):
        document["point_ras_mm"][draw(st.integers(0, 2))] = draw(ODD_NUMBERS)
    for _ in range(draw(st.integers(0, 3))):
        row, column = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        document["ijk_to_ras"][row][column] = draw(ODD_NUMBERS)
    return with_document(body, json.dumps(document))


@st.composite
def edited_tensors(draw, body: bytes) -> bytes:
    """The body with tensors of other types, shapes and values."""
    _, document = unpack(body)
    tensors = {}
    for name in draw(st.lists(st.one_of(st.sampled_from(sorted(TENSORS)), ODD_NAMES), max_size=3)):
        shape = draw(st.lists(st.integers(0, 9), max_size=5))
        array = np.zeros(shape, draw(st.sampled_from(DTYPES)))
        values = draw(st.sampled_from([0, -1000, 1, np.nan, np.inf, 1e38, -40000]))
        if array.size and array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                array.flat[draw(st.integers(0, array.size - 1))] = values
        tensors[name] = array
    if "overview_hu" in tensors:
        document["overview_ijk_to_ras"] = document["ijk_to_ras"]
    return pack(tensors, document)


ODD_NAMES = st.sampled_from(["HU", "", "hu ", "🫁", "__metadata__x"])


@st.composite
def allowed(draw) -> bytes:
    """A body that nothing is wrong with but its content: odd grids, noise, points anywhere.

    Volumes are small, or needles and plates; spacings reach from one end of what is allowed to the
    other; axes are turned and sheared.
    """
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    shape = tuple(draw(st.sampled_from([1, 2, 3, 5, 17, 40])) for _ in range(3))
    tensors = {"hu": _voxels(draw, random, shape)}
    affine = _affine(draw, random)
    size = np.array(shape[::-1])
    ijk = random.uniform(-0.5, size - 0.5) if draw(st.booleans()) else (size - 1) / 2
    point = affine[:3, :3] @ ijk + affine[:3, 3]
    document = {"ijk_to_ras": affine.tolist(), "point_ras_mm": point.tolist()}
    if draw(st.booleans()):
        shape = tuple(draw(st.sampled_from([1, 2, 3, 33])) for _ in range(3))
        tensors["overview_hu"] = _voxels(draw, random, shape)
        document["overview_ijk_to_ras"] = _affine(draw, random).tolist()
    document["patient_id"] = draw(st.one_of(st.none(), ODD_TEXTS))
    return pack(tensors, document)


def _voxels(draw, random, shape) -> np.ndarray:
    low, high = draw(st.sampled_from([(-1000, 400), (-900, -700), (-32768, 32767), (-1000, 32767)]))
    hu = random.uniform(low, high, shape)
    return hu.astype(draw(st.sampled_from(["int16", "float32"])))


def _affine(draw, random) -> np.ndarray:
    spacing = [draw(st.sampled_from([0.051, 0.1, 0.7, 1.0, 2.5, 20.0, 49.0])) for _ in range(3)]
    directions = np.eye(3)
    if draw(st.booleans()):
        directions = Rotation.random(random_state=int(random.integers(2**31))).as_matrix()
    if draw(st.booleans()):
        directions[:, 0] += directions[:, 1] * random.uniform(-3, 3)
        directions /= np.linalg.norm(directions, axis=0)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing * random.choice([-1, 1], 3)
    affine[:3, 3] = random.uniform(-1, 1, 3) * draw(st.sampled_from([0.0, 300.0, 9e4]))
    return affine


def make_body() -> bytes:
    """A small sound body."""
    hu = np.random.default_rng(0).integers(-1000, 300, (12, 16, 16)).astype(np.int16)
    affine = [[-2.9, 0, 0, 22], [0, -2.9, 0, 22], [0, 0, 3.5, -19], [0, 0, 0, 1]]
    return pack({"hu": hu}, {"ijk_to_ras": affine, "point_ras_mm": [0.5, 1, 2]})


def mutated(body: bytes) -> st.SearchStrategy[bytes]:
    """Bodies of every kind; `body` is a sound one."""
    return st.one_of(
        st.binary(max_size=200),
        edited_bytes(body),
        edited_header(body),
        edited_document(body),
        edited_numbers(body),
        edited_tensors(body),
        allowed(),
    )


CONCEPT_NAMES = st.one_of(
    st.sampled_from(["spiculated", "ill-defined margin", "calcified", "", "spiky"]), ODD_TEXTS
)
LENGTHS = st.one_of(st.floats(-60, 60), st.sampled_from([0, 1e-300, 1e5, -1e5]))


def triples(values: st.SearchStrategy) -> st.SearchStrategy[list]:
    """Three numbers."""
    return st.lists(values, min_size=3, max_size=3)


@st.composite
def boxes(draw) -> dict:
    """A box of JSON; most are sound."""
    box = {
        "center_ras_mm": draw(triples(LENGTHS)),
        "size_mm": draw(triples(st.floats(0.1, 90))),
        "look": draw(st.booleans()),
    }
    if draw(st.booleans()):
        turn = Rotation.random(random_state=draw(st.integers(0, 2**31)))
        box["axes"] = turn.as_matrix().tolist()
    if draw(st.booleans()):
        box["concept"] = draw(st.one_of(st.none(), CONCEPT_NAMES))
    if draw(st.integers(0, 3)) == 0:
        box[draw(st.one_of(st.sampled_from(sorted(BOX_FIELDS)), ODD_TEXTS))] = draw(JSON)
    return box


@st.composite
def revisions(draw) -> object:
    """A revision of JSON: sound ones, ones with odd parts, and things that are none."""
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return draw(JSON)
    revision = {
        "boxes": draw(st.lists(boxes(), max_size=4)),
        "rejected": draw(st.lists(CONCEPT_NAMES, max_size=3)),
        "mode": draw(st.sampled_from(["zero", "absent_median", "absent_median", "median"])),
        "elsewhere": draw(st.one_of(st.floats(0, 1), ODD_NUMBERS)),
    }
    if kind == 1:
        revision[draw(st.one_of(st.sampled_from(sorted(REVISION_FIELDS)), ODD_TEXTS))] = draw(JSON)
    for name in draw(st.lists(st.sampled_from(sorted(REVISION_FIELDS)), max_size=3)):
        revision.pop(name, None)
    return revision
