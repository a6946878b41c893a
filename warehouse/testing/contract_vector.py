"""Contract: points, their ids, and their vectors, which stay as they are while the payload changes.

Only for adapters of the type `vector`; of any other, each test passes and the matrix says `refused`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import pytest

from warehouse.adapter import Query
from warehouse.errors import ConstraintViolated, InvalidOperation
from warehouse.journal import codec
from warehouse.records import Record, float32
from warehouse.testing.bench import Bench, logical_condition

_SPELLED: Final = "550E8400-E29B-41D4-A716-446655440000"
IDS: Final[dict[Any, Any]] = {
    0: 0,
    2**64 - 1: 2**64 - 1,
    _SPELLED: _SPELLED.lower(),
    _SPELLED.replace("-", ""): _SPELLED.lower(),
    f"urn:uuid:{_SPELLED}": _SPELLED.lower(),
    f"{{{_SPELLED}}}": _SPELLED.lower(),
    UUID(int=5): str(UUID(int=5)),
    "user_123": "user_123",
    "5": "5",
    "caf\u00e9 / \U0001f600": "caf\u00e9 / \U0001f600",
}
ONE, TWO = [0.1, -2.5, 3e-5], [1.0, 0.25, -7.0]
SPARSE: Final = {"indices": [7, 1, 500], "values": [0.5, -0.1, 2.0]}
SORTED: Final = {"indices": [1, 7, 500], "values": [float32(-0.1), 0.5, 2.0]}
MULTI: Final = [[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]]


def single(vector: Any) -> Any:
    """A vector in single precision."""
    return [single(item) if isinstance(item, list) else float32(item) for item in vector]


class VectorContract:
    def _is_asked(self, bench: Bench) -> bool:
        """Whether it is a vector store, noted for the matrix."""
        can = bench.adapter.type == "vector"
        bench.note("vectors", "yes" if can else "refused")
        return can

    async def _named(self, bench: Bench) -> Bench | None:
        """A bench of points with named vectors; None where the store has none."""
        entity = await bench.harness.vectors() if bench.adapter.type == "vector" else None
        bench.note("named vectors", "refused" if entity is None else "yes")
        if entity is None:
            return None
        return Bench(bench.harness, await bench.adapter.describe(entity), bench.note)

    def _point(self, identifier: Any, vector: Any, **metadata: Any) -> Record:
        return {"id": identifier, "vector": vector, "metadata": metadata}

    async def _one(self, bench: Bench) -> Record:
        (record,) = await bench.adapter.find(bench.query())
        return record

    # Ids

    @pytest.mark.parametrize("given", IDS, ids=repr)
    async def test_an_id_reads_back(self, bench: Bench, given: Any) -> None:
        if not self._is_asked(bench):
            return
        shown = IDS[given]
        (step,) = await bench.do(bench.raw_insert(self._point(given, ONE, a=1)))
        assert step.changes[0].key == {"id": shown}
        assert (await self._one(bench))["id"] == shown
        assert (await self._one(bench))["metadata"] == {"a": 1}
        (update,) = await bench.do(bench.raw_update({"id": given}, {"metadata.a": 2}))
        assert [change.key for change in update.changes] == [{"id": shown}]
        async with bench.unit() as unit:
            (image,) = await unit.read(bench.info, [{"id": shown}])
            with pytest.raises(ConstraintViolated):
                await unit.execute(bench.raw_insert(self._point(given, TWO)))
        assert bench.same(image, update.changes[0].after)
        assert await bench.undo(update.changes) == 1
        assert await bench.undo(step.changes) == 1
        assert await bench.adapter.find(bench.query()) == []

    @pytest.mark.parametrize("given", [-1, 2**64, 1.5, True, "", b"x"], ids=repr)
    async def test_what_is_no_id_is_refused(self, bench: Bench, given: Any) -> None:
        if self._is_asked(bench):
            with pytest.raises(InvalidOperation) as caught:
                bench.raw_insert(self._point(given, ONE))
            assert caught.value.field == "id"

    # The one vector of a point

    async def test_the_payload_changes_and_the_vector_stays(self, bench: Bench) -> None:
        if not self._is_asked(bench):
            return
        (inserted,) = await bench.do(bench.raw_insert(self._point(1, ONE, a=1, b="x")))
        before = await self._one(bench)
        (update,) = await bench.do(bench.raw_update({"id": 1}, {"metadata.a": {"$increment": 1}}))
        now = await self._one(bench)
        assert (now["vector"], now["metadata"]) == (before["vector"], {"a": 2, "b": "x"})
        assert bench.same(update.changes[0].after, now)
        await bench.undo(update.changes)
        assert await self._one(bench) == before
        assert bench.same(inserted.changes[0].after, before)

    async def test_the_vector_changes_and_the_payload_stays(self, bench: Bench) -> None:
        if not self._is_asked(bench):
            return
        await bench.do(bench.raw_insert(self._point(1, ONE, a=1)))
        before = await self._one(bench)
        (update,) = await bench.do(bench.raw_update({"id": 1}, {"vector": TWO}))
        now = await self._one(bench)
        assert now["metadata"] == {"a": 1}
        assert bench.same(update.changes[0].after, now)
        assert update.changes[0].written == {"vector"}
        assert self._points_to(now["vector"], TWO)
        assert bench.same(codec.decode(codec.encode(update.changes[0].before)), before)
        await bench.undo(update.changes)
        assert bench.same(await self._one(bench), before)

    @staticmethod
    def _points_to(vector: list[float], given: list[float]) -> bool:
        """Whether it is what was given, or (a Cosine collection) that made unit length."""
        length = math.hypot(*given)
        unit = [item / length for item in given]
        return any(
            all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-7) for a, b in zip(vector, other, strict=True))
            for other in (given, unit)
        )

    @pytest.mark.parametrize(
        "vector",
        [[1.0], [1.0] * 4, "abc", [1.0, "x", 2.0], [1.0, math.nan, 2.0], [math.inf, 0.0, 0.0]],
        ids=repr,
    )
    async def test_a_vector_that_does_not_fit_is_refused(self, bench: Bench, vector: Any) -> None:
        if not self._is_asked(bench):
            return
        await bench.do(bench.raw_insert(self._point(1, ONE)))
        async with bench.unit() as unit:
            with pytest.raises((InvalidOperation, ConstraintViolated)) as caught:
                await unit.execute(bench.raw_insert(self._point(2, vector)))
        assert (caught.value.field or "").startswith("vector")
        assert [record["id"] for record in await bench.adapter.find(bench.query())] == [1]

    async def test_the_nearest_come_first(self, bench: Bench) -> None:
        if not self._is_asked(bench):
            return
        vectors = {1: [1.0, 0.0, 0.0], 2: [0.9, 0.4, 0.0], 3: [0.0, 1.0, 0.0], 4: [-1.0, 0.0, 0.1]}
        points = [self._point(number, vector, even=not number % 2) for number, vector in vectors.items()]
        await bench.do(bench.raw_insert(*points))

        async def nearest(limit: int, **where: Any) -> list[Any]:
            query = Query(
                info=bench.info,
                where=logical_condition(where),
                near={"vector": [1.0, 0.1, 0.0], "limit": limit},
            )
            return [record["id"] for record in await bench.adapter.find(query)]

        assert await nearest(3) == [1, 2, 3]
        assert await nearest(1) == [1]
        assert await nearest(3, **{"metadata.even": True}) == [2, 4]

    # Named vectors

    async def test_each_kind_of_named_vector_reads_back(self, bench: Bench) -> None:
        named = await self._named(bench)
        if named is None:
            return
        given = {"one": ONE, "two": TWO, "sparse": SPARSE, "multi": MULTI}
        (step,) = await named.do(named.raw_insert(self._point(1, given, a=1)))
        found = await self._one(named)
        kept = {"one": single(ONE), "two": TWO, "sparse": SORTED, "multi": single(MULTI)}
        assert self._by_index(found["vector"]) == kept
        assert named.same(step.changes[0].after, found)
        assert named.same(codec.decode(codec.encode(found)), found)

    @staticmethod
    def _by_index(vectors: Mapping[str, Any]) -> dict[str, Any]:
        """Named vectors, sparse ones sorted by index: some stores keep the order."""
        out = dict(vectors)
        pairs = sorted(zip(out["sparse"]["indices"], out["sparse"]["values"], strict=True))
        out["sparse"] = {"indices": [a for a, _ in pairs], "values": [b for _, b in pairs]}
        return out

    async def test_one_named_vector_changes_and_the_others_stay(self, bench: Bench) -> None:
        named = await self._named(bench)
        if named is None:
            return
        given = {"one": ONE, "two": TWO, "sparse": SPARSE, "multi": MULTI}
        await named.do(named.raw_insert(self._point(1, given, a=1)))
        before = await self._one(named)
        for name, other in {"one": TWO, "sparse": {"indices": [3], "values": [1.5]}, "multi": [ONE]}.items():
            (update,) = await named.do(named.raw_update({"id": 1}, {f"vector.{name}": other}))
            now = await self._one(named)
            assert now["metadata"] == {"a": 1}
            assert {key for key in now["vector"] if now["vector"][key] != before["vector"][key]} == {name}
            await named.undo(update.changes)
            assert await self._one(named) == before

    async def test_a_named_vector_may_be_missing(self, bench: Bench) -> None:
        named = await self._named(bench)
        if named is None:
            return
        await named.do(named.raw_insert(self._point(1, {"one": ONE}, a=1)))
        before = await self._one(named)
        assert before["vector"] == {"one": single(ONE)}
        (added,) = await named.do(named.raw_update({"id": 1}, {"vector.two": TWO, "metadata.a": 2}))
        assert (await self._one(named))["vector"] == {"one": single(ONE), "two": TWO}
        (removed,) = await named.do(named.raw_update({"id": 1}, {"vector.one": {"$unset": True}}))
        assert (await self._one(named))["vector"] == {"two": TWO}
        (deleted,) = await named.do(named.delete(None))
        for step in (deleted, removed, added):
            await named.undo(step.changes)
        assert await self._one(named) == before

    async def test_an_upsert_of_a_point(self, bench: Bench) -> None:
        if not self._is_asked(bench) or "upsert" not in bench.capabilities.operations:
            return
        await bench.do(bench.raw_insert(self._point("first", ONE, a=1)))
        before = await self._one(bench)
        request = bench.raw_upsert(self._point("first", TWO, a=2), self._point("second", TWO))
        (step,) = await bench.do(request)
        assert [change.action for change in step.changes] == ["updated", "inserted"]
        assert [change.key["id"] for change in step.changes] == ["first", "second"]
        await bench.undo(step.changes)
        assert bench.same(await self._one(bench), before)
