"""The kinds of payload values and of vectors in Qdrant, as the type contract tries them."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

from hypothesis import strategies as st
from qdrant_client import models

from contract.types_sql import TEXT, integers
from warehouse.records import float32
from warehouse.testing.bench import without_nulls
from warehouse.testing.harness import StoredType
from warehouse_adapters.qdrant import vectors

SIZE = 3
DOT, COSINE = models.Distance.DOT, models.Distance.COSINE
DENSE = {
    "dense": models.VectorParams(size=SIZE, distance=DOT),
    "cosine": models.VectorParams(size=SIZE, distance=COSINE),
    "half": models.VectorParams(size=SIZE, distance=DOT, datatype=models.Datatype.FLOAT16),
    "bytes": models.VectorParams(size=SIZE, distance=DOT, datatype=models.Datatype.UINT8),
    "multi": models.VectorParams(
        size=SIZE,
        distance=DOT,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    ),
}
SPARSE = {"sparse": models.SparseVectorParams()}

DOUBLES = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
NAMES = st.text("abcXYZ\u00fc_- 09", min_size=1, max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | integers(64) | DOUBLES | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
SINGLE = st.floats(-100, 100, width=32)
ANY = st.lists(st.floats(-100, 100) | st.integers(-5, 5), min_size=SIZE, max_size=SIZE)
MISSHAPEN = ([1.0], [1.0] * (SIZE + 1), [1.0, float("nan"), 0.0], "x", [1.0, None, 2.0], [True, 1.0, 1.0])


def payload(stored, values, **more):
    return StoredType(field=f"metadata.{stored}", stored=stored, values=values, **more)


def vector(stored, name, values, **more):
    return StoredType(field=f"vector.{name}", stored=stored, values=values, **more)


def rounded(value):
    return [rounded(item) if isinstance(item, list) else float32(item) for item in value]


def unit_length(value):
    spec = vectors.VectorSpec(kind="dense", size=SIZE, cosine=True)
    return vectors.one(spec, value, "vector")


def by_index(value):
    pairs = sorted(zip(value["indices"], value["values"], strict=True))
    return {"indices": [index for index, _ in pairs], "values": [float32(item) for _, item in pairs]}


QDRANT = (
    payload("string", TEXT, takes="str", gives="str", refused=("\ud800",)),
    payload("integer", integers(64), takes="int", gives="int", refused=(2**63, -(2**63) - 1)),
    payload(
        "double",
        DOUBLES,
        takes="float",
        gives="float",
        note="some come back an ulp off, and are compared within 16",
        refused=(float("nan"), float("inf"), Decimal("1.5")),
    ),
    payload("boolean", st.booleans(), takes="bool", gives="bool"),
    payload(
        "list",
        st.lists(JSON, max_size=4),
        takes="list, tuple",
        gives="list",
        expected=without_nulls,
        refused=([b"x"], [{1: 2}], {1, 2}),
    ),
    payload(
        "mapping",
        st.dictionaries(NAMES, JSON, max_size=4),
        takes="dict",
        gives="dict",
        expected=without_nulls,
        note="null fields in it are left out, its names are sorted",
        refused=(
            {"a": datetime(2020, 1, 1)},
            {"a": datetime(2020, 1, 1, tzinfo=UTC)},
            {"a": date(2020, 1, 1)},
            {"a": b"x"},
            {"a": UUID(int=5)},
            {1: 1},
        ),
    ),
    vector(
        "vector, float32",
        "dense",
        ANY,
        takes="list of numbers",
        gives="list of float",
        expected=rounded,
        note="rounded to single precision",
        refused=MISSHAPEN,
    ),
    vector(
        "vector, float32, Cosine",
        "cosine",
        ANY.filter(lambda value: sum(item * item for item in value) > 1e-3),
        takes="list of numbers",
        gives="list of float",
        expected=unit_length,
        note="made unit length",
        refused=MISSHAPEN,
    ),
    vector(
        "vector, float16",
        "half",
        st.lists(st.floats(-100, 100, width=16), min_size=SIZE, max_size=SIZE),
        takes="list of numbers",
        gives="list of float",
        note="rounded to half precision",
        refused=([1e6, 0, 0],),
    ),
    vector(
        "vector, uint8",
        "bytes",
        st.lists(st.integers(0, 255), min_size=SIZE, max_size=SIZE),
        takes="list of int",
        gives="list of float",
        expected=rounded,
        refused=([256, 0, 0], [-1, 0, 0], [1.5, 0, 0]),
    ),
    vector(
        "multivector",
        "multi",
        st.lists(st.lists(SINGLE, min_size=SIZE, max_size=SIZE), min_size=1, max_size=3),
        takes="list of lists of numbers",
        gives="list of lists of float",
        refused=([], [[1.0]], [1.0, 2.0, 3.0]),
    ),
    vector(
        "sparse vector",
        "sparse",
        st.dictionaries(st.integers(0, 2**32 - 1), SINGLE, min_size=1, max_size=4).map(
            lambda found: {"indices": list(found), "values": list(found.values())}
        ),
        takes="{'indices': [...], 'values': [...]}",
        gives="the same, sorted by index",
        expected=by_index,
        refused=(
            {"indices": [1, 1], "values": [1.0, 2.0]},
            {"indices": [1], "values": []},
            {"indices": [-1], "values": [1.0]},
            {"indices": [2**32], "values": [1.0]},
            [1.0],
        ),
    ),
)
