"""Every mistake in an operation is one clear error before any store is touched; all are shown in `bad_input.txt`.

`WAREHOUSE_REWRITE=1 pytest tests/unit/test_bad_input.py` writes the file anew. Read what changed as a user would.
"""

import os
from dataclasses import replace
from pathlib import Path
from pprint import pformat

import pytest

from integration.memory_world import STORES, World, delete, insert, update, upsert
from warehouse import InvalidOperation, ref

pytestmark = pytest.mark.anyio
SHOWN = Path(__file__).with_name("bad_input.txt")
REWRITE = bool(os.environ.get("WAREHOUSE_REWRITE"))
A = {"tag": "a", "entity": "things"}
FIXED = {
    "tag": "fixed",
    "entity": "people",
}  # id, name (unique), born, made (generated); born is kept as text
NODE = {"entity": "User", "where": {"id": 1}}
CONFIG = {
    **STORES,
    "graph": {"adapter": "memory", "type": "graph"},
    "vectors": {"adapter": "memory", "type": "vector"},
    "reports": {"adapter": "memory", "read_only": True},
    "fixed": {"adapter": "memory", "entities": {"people": {"convert": {"born": "text"}}}},
}


def on(source, operation="insert", **content):
    return {"operation": operation, "from": source, **content}


def knows(**data):
    return on({"tag": "graph", "relationship": "KNOWS"}, data=data)


def point(**data):
    return on({"tag": "vectors", "entity": "songs"}, data=data)


def where(condition):
    return [update("a", condition, {"n": 1})]


CASES = {
    "The list": [
        "x",
        {"operation": "insert"},
        None,
        [],
        [1],
        [insert("a", {"id": 1}), "insert"],
    ],
    "The operation": [
        [{}],
        [{"operation": "insrt"}],
        [{"operation": "insert"}],
        [on("a", data={"id": 1})],
        [on({"entity": "x"}, data={"id": 1})],
        [on({"tag": "a"}, data={"id": 1})],
        [on({**A, "entiy": "x"}, data={"id": 1})],
        [on({**A, "type": "sql"}, data={"id": 1})],
        [on(A, data={"id": 1}, dat=1)],
        [on(A)],
        [on(A, data=[])],
        [on(A, data=[{"id": 1}, {}])],
        [on(A, data=3)],
        [on(A, data=[3])],
        [on(A, data={"id": 1}, name="with space")],
        [on(A, data={"id": 1}, timeout=0)],
        [on(A, data={"id": 1}, max_retries=-1)],
        [on(A, data={"id": 1}, expect={"rows": 1})],
        [on(A, data={"id": 1}, expect={"affected_rows": {"$in": 1}})],
        [on(A, data={"id": 1}, expect={"affected_rows": "x"})],
        [{"operation": "call", "action": "charge"}],
        [{"operation": ["insert"]}],
        [{"operation": None}],
        [on(None, data={"id": 1})],
        [on({**A, "relationship": "KNOWS"}, data={"id": 1})],
        [on({"tag": "a", "entity": ""}, data={"id": 1})],
        [on({"tag": "a", "entity": 3}, data={"id": 1})],
        [on({"tag": "a", "entity": "a\0b"}, data={"id": 1})],
        [on({"tag": "", "entity": "things"}, data={"id": 1})],
        [on(A, "upsert", data={"id": 1}, conflict_keys=["id"], conflictKeys=["n"])],
        [on(A, "upsert", data={"id": 1}, conflictkeys=["id"])],
        [on(A, data={"id": 1}, where={"id": 1})],
        [on(A, "delete", where={"id": 1}, data={"n": 1})],
        [on(A, data={"id": 1}, name="")],
        [on(A, data={"id": 1}, name=5)],
        [on(A, data={"id": 1}, name="x" * 121)],
        [on(A, data={"id": 1}, after=[1])],
        [on(A, data={"id": 1}, timeout="soon")],
        [on(A, data={"id": 1}, timeout=float("nan"))],
        [on(A, data={"id": 1}, max_retries=1.5)],
        [on(A, data={"id": 1}, allow_fail="perhaps")],
        [on(A, data={"id": 1}, compensation_priority="high")],
        [on(A, data={"id": 1}, expect=1)],
        [on(A, data={"id": 1}, expect={})],
        [on(A, data={"id": 1}, expect={"affected_rows": {}})],
        [on(A, data={"id": 1}, expect={"affected_rows": -1})],
        [on(A, data={"id": 1}, expect={"affected_rows": True})],
        [on(A, data={"id": 1}, expect={"affected_rows": {"$gte": "x"}})],
        [on(A, data={"id": 1}, returning="id")],
        [on(A, data={"id": 1}, returning=[1])],
        [on(A, data={"id": 1}, returning=["a..b"])],
        [upsert("a", {"id": 1}, conflict_keys="id")],
        [upsert("a", {"id": 1}, update_fields="n")],
        [on(A, "delete", where={"id": 1}, detach="never")],
        [{"operation": "call"}],
    ],
    "Steps among each other": [
        [insert("a", {"id": 1}, name="x"), insert("a", {"id": 2}, name="x")],
        [insert("a", {"id": 1}, name="step_1"), insert("a", {"id": 2})],
        [insert("a", {"id": 1}, name="x"), insert("a", {"id": 2}, after=["y"])],
        [insert("a", {"id": 1}, after=["step_0"])],
        [insert("a", {"id": 1}, after="x")],
        [
            insert("a", {"id": 1}, after=["step_1"]),
            insert("p", {"id": 1}, after=["step_2"]),
            insert("q", {"id": 1}, after=["step_0"]),
        ],
        [insert("a", {"id": 1}, after=["step_1"]), insert("p", {"id": ref("step_0.id")})],
    ],
    "References": [
        [insert("a", {"id": ref("step_1.id")}), insert("p", {"id": 1})],
        [insert("a", {"id": 1}), insert("p", {"id": [{"$ref": "stp_0.id"}]})],
        [insert("a", {"id": 1}), update("p", {"id": {"$in": ref("step_0")}}, {"n": 1})],
        [insert("a", {"id": 1}), insert("p", {"id": {"$ref": 3}})],
        [insert("a", {"id": 1}), insert("p", {"id": ref("step_1.id")})],
        [insert("a", {"id": 1}), insert("p", {"id": ref("step_0.")})],
        [insert("a", {"id": 1}), insert("p", {"id": ref("step_0..id")})],
        [insert("a", {"id": 1}), insert("p", {"id": ref("step_0.1.id")})],
        [insert("a", [{"id": 1}, {"id": 2}]), insert("p", {"id": 1, "of": [ref("step_0.2.id")]})],
        [insert("a", {"id": 1}), insert("p", ref("step_0.id"))],
        [insert("a", {"id": 1}), delete("p", ref("step_0.id"))],
        [insert("a", {"id": 1, "n": 2}, returning=["id"]), insert("p", {"id": ref("step_0.n")})],
        [insert("a", {"id": 1}, returning=["at.day"]), insert("p", {"id": ref("step_0.*.at")})],
        [on(FIXED, data={"id": 1}), insert("p", {"id": ref("step_0.nme")})],
    ],
    "Tags": [
        [insert("b", {"id": 1}), insert("grahp", {"id": 1})],
        [insert("reports", {"id": 1})],
        [on({**A, "type": "graph"}, data={"id": 1})],
        [on({"tag": "a", "relationship": "KNOWS"}, data={"start": 1})],
        [on({"tag": "graph", "relationship": "KNOWS"}, data={"start": 1})],
    ],
    "Conditions": [
        [on(A, "update", data={"n": 1})],
        [on(A, "delete", where={})],
        [on(A, "delete", where={"id": 1}, all=True)],
        [on(A, "delete", where=["id"])],
        [update("a", {"n": {"$gtt": 1}}, {"n": 1})],
        [update("a", {"n": {"$in": 1}}, {"n": 1})],
        [update("a", {"n": {"$gt": 1, "x": 2}}, {"n": 1})],
        [update("a", {"$xor": []}, {"n": 1})],
        where({"": 1}),
        where({3: 1}),
        where({"a..b": 1}),
        where({".a": 1}),
        where({"a\0": 1}),
        where({"$gt": 1}),
        where({"$ref": "step_0.id"}),
        where({"$and": {"n": 1}}),
        where({"$or": []}),
        where({"$or": [1]}),
        where({"$not": 3}),
        where({"n": {"$between": [1, 2]}}),
        where({"n": {"$eq": {"$gt": 1}}}),
        where({"n": {"$in": [{"$gt": 1}]}}),
        where({"n": {"$nin": {"a": 1}}}),
        where({"n": {"$like": 1}}),
        where({"n": {"$ilike": None}}),
        where({"n": {"$startsWith": 1}}),
        where({"n": {"$endsWith": ["x"]}}),
        where({"n": {"$containsAll": "abc"}}),
        where({"n": {"$containsAny": 1}}),
        where({"n": {"$exists": 1}}),
        where({"n": {"$null": "yes"}}),
        where({"n": {"$regex": 1}}),
        where({"n": {"$regex": "("}}),
        where({"n": {"$regex": r"^\d+$"}}),
        where({"n": {"$regex": "(?i)ann"}}),
        where({"n": {"$regex": "a{2,1}"}}),
        where({"n": {"$not": {"$gtt": 1}}}),
    ],
    "Updates": [
        [update("a", 1, {})],
        [update("a", 1, [{"n": 1}])],
        [update("a", 1, {"n": {"$incr": 1}})],
        [update("a", 1, {"n": {"$increment": "1"}})],
        [update("a", 1, {"n": 1, "n.x": 2})],
        [update("a", 1, {"id": 2})],
        [update("a", 1, {"id.x": 2})],
        [update("a", 1, {"$set": {}})],
        [update("a", 1, {"$set": 3})],
        [update("a", 1, {"$st": {"n": 1}})],
        [update("a", 1, {"$set": {"$inc": 1}})],
        [update("a", 1, {"$set": {"n": {"$inc": 1}}})],
        [update("a", 1, {"$set": {"n": 1}, "$unset": {"n": True}})],
        [update("a", 1, {"n": 1, "$inc": {"n.a": 1}})],
        [update("a", 1, {"n": {"$set": 1, "$inc": 2}})],
        [update("a", 1, {"n": {"$inc": 1, "x": 2}})],
        [update("a", 1, {"n": {"$inc": True}})],
        [update("a", 1, {"n": {"$dec": None}})],
        [update("a", 1, {"n": {"$mul": "2"}})],
        [update("a", 1, {"n": {"$inc": float("nan")}})],
        [update("a", 1, {"n": {"$min": None}})],
        [update("a", 1, {"n": {"$max": [1]}})],
        [update("a", 1, {"n": {"$unset": False}})],
        [update("a", 1, {"n": {"$currentDate": "now"}})],
        [update("a", 1, {"n": {"$push": {"$each": [1]}}})],
        [update("a", 1, {"": 1})],
        [update("a", 1, {"a..b": 1})],
        [update("a", 1, {"a\0": 1})],
        [update("a", 1, {"$set": {"a.": 1}})],
        [update("a", 1, {"n": {"$literal": 1, "x": 2}})],
    ],
    "Records": [
        [insert("a", {"id": 1, "n": {"$increment": 1}})],
        [upsert("a", {"id": 1, "$set": {"n": 1}})],
        [insert("a", {"id": 1, "": 1})],
        [insert("a", {"id": 1, "address.city": 1})],
        [insert("a", {1: 1})],
        [upsert("a", {"n": 1})],
        [upsert("a", {"id": 1}, conflict_keys=[])],
        [upsert("a", [{"id": 1, "n": 1}, {"id": 2}], update_fields=["n"])],
        [insert("a", {"id": 1, "a\0": 1})],
        [insert("a", {"id": 1, "a": {1: 2}})],
        [insert("a", {"id": 1, "a": {"b": {"c\0": 2}}})],
        [insert("a", {"id": 1, "n": {"$literal": 1, "x": 2}})],
        [insert("a", {"id": 1, "n": {"$ref": "step_0.id", "x": 2}})],
        [upsert("a", {"id": None, "n": 1})],
        [upsert("a", {"id": 1, "n": 1}, conflict_keys=["n", "m"])],
    ],
    "Fields of a store that knows its own": [
        [on(FIXED, data={"id": 1, "nme": "Ann"})],
        [on(FIXED, data={"id": 1, "made": 1})],
        [on(FIXED, "update", where={"nam": 1}, data={"name": "x"})],
        [on(FIXED, "update", where={"id": 1}, data={"nam.x": 1})],
        [on(FIXED, "update", where={"id": 1}, data={"name": "x"}, returning=["nam"])],
        [on(FIXED, "upsert", data={"id": 1, "name": "x"}, conflict_keys=["nam"])],
        [on(FIXED, "upsert", data={"id": 1, "name": "x", "born": "y"}, conflict_keys=["name", "born"])],
        [on(FIXED, data={"id": 1, "born": b"x"})],
        [on(FIXED, "update", where={"born": {"$gt": 5}}, data={"name": "x"})],
        [on(FIXED, "update", where={"id": 1}, data={"born": {"$inc": 1}})],
    ],
    "Relationships": [
        [knows(start=NODE)],
        [knows(start=NODE, end=3)],
        [knows(start=NODE, end={**NODE, "where": {}})],
        [knows(start=NODE, end={"where": {"id": 1}})],
        [knows(start=NODE, end={**NODE, "where": {"id": {"$gtt": 1}}})],
        [knows(start=NODE, end=NODE, properties=3)],
        [knows(start=NODE, end=NODE, propertys={})],
        [on({"tag": "graph", "relationship": "KNOWS"}, "update", where={"n": 1}, data={"start": NODE})],
    ],
    "Vectors": [
        [on({"tag": "vectors", "entity": "x"}, data={"id": 1, "vector": "x"})],
        [point(id=1, vector=[])],
        [point(id=1, vector=["a"])],
        [point(id=1, vector=[float("nan")])],
        [point(id=-1, vector=[1.0])],
        [point(id=1.5, vector=[1.0])],
        [point(id=True, vector=[1.0])],
        [point(id=1, vector=[1.0], metadata=3)],
        [point(id=1, vector=[1.0], color="red")],
        [on({"tag": "vectors", "entity": "songs"}, "delete", where={"color": "red"})],
        [on({"tag": "vectors", "entity": "songs"}, "update", where={"id": 1}, data={"id": 2})],
    ],
}
PARAMS = [
    pytest.param(section, case, id=f"{section} {number}")
    for section, cases in CASES.items()
    for number, case in enumerate(cases, 1)
]


def shown(operations, message):
    given = pformat(operations, width=110, compact=True, sort_dicts=False)
    return f"{given}\n    {message}\n"


@pytest.fixture(scope="module")
def messages():
    """Collects what each case says, by section; written to the file afterwards, where that is asked for."""
    said = {section: [] for section in CASES}
    yield said
    text = "\n".join("\n".join([section, "=" * len(section), "", *said[section]]) for section in said)
    if REWRITE:
        SHOWN.write_text(text, encoding="utf-8")
    if sum(map(len, said.values())) == len(PARAMS):
        assert SHOWN.read_text(encoding="utf-8") == text


@pytest.fixture
async def world():
    async with World(CONFIG) as world:
        real = world.stores["fixed"].describe

        async def describe(entity, *, fresh=False):
            info = await real(entity, fresh=fresh)
            fields = frozenset({"id", "name", "born", "made"})
            return replace(info, fields=fields, generated=frozenset({"made"}), unique=(("name",),))

        world.stores["fixed"].describe = describe
        yield world


@pytest.mark.parametrize(("section", "operations"), PARAMS)
async def test_one_clear_error_and_no_store_is_touched(world, messages, section, operations):
    with pytest.raises(InvalidOperation) as caught:
        await world.warehouse.transaction(operations)
    entry = shown(operations, caught.value)
    messages[section].append(entry)
    asked = {call.rpartition(".")[2] for call in world.faults.calls if not call.startswith("journal.")}
    assert asked <= {"connect", "describe"}
    assert not [call for call in world.faults.calls if call.startswith("journal.") and "decide" in call]
    assert not any(world.everything().values())
    assert REWRITE or entry in SHOWN.read_text(encoding="utf-8")
