"""Contract: relationships, by conditions on the nodes at their ends, and what goes and comes back with a node.

Only for adapters that declare `relationships`; of any other, each test passes and the matrix says `refused`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from warehouse import conditions, updates
from warehouse.adapter import EntityInfo, Query, Request, StepChanges, WriteStatus
from warehouse.conditions import EVERYTHING
from warehouse.errors import ConstraintViolated, InvalidOperation, StoreError
from warehouse.journal import codec
from warehouse.records import ABSENT, Change, Record
from warehouse.testing.bench import Bench, logical_condition, without_nulls
from warehouse.undo import inverse

MANY = 300
_PROPERTIES: dict[str, Any] = {"since": 1999, "note": "caf\u00e9", "ratio": 0.5}


@dataclass(slots=True)
class Graph:
    """The nodes of a bench, numbered from 1, and an entity of relationships between them."""

    bench: Bench
    info: EntityInfo

    @property
    def label(self) -> str:
        return self.bench.info.entity.name

    def node(self, number: int) -> Record:
        """How an image names a node."""
        return {"entity": self.label, "key": self.bench.harness.key(number)}

    def to(self, end: int, start: int = 1, **properties: Any) -> Record:
        """The record of a relationship between two nodes."""
        ends = {"start": start, "end": end}
        found = {name: self.found(self.bench.harness.key(number)) for name, number in ends.items()}
        return {**found, "properties": properties}

    def found(self, where: Mapping[str, Any]) -> Record:
        """An end of a relationship that is to be: the node that `where` finds."""
        return {"entity": self.label, "where": where}

    def image(self, end: int, start: int = 1, **properties: Any) -> Record:
        return {"start": self.node(start), "end": self.node(end), "properties": properties}

    def request(self, operation: Any, where: Mapping[str, Any] | None = None, **parts: Any) -> Request:
        condition = EVERYTHING if where is None else logical_condition(where)
        request = Request(step="s", operation=operation, info=self.info, where=condition, **parts)
        self.bench.adapter.check(request)
        return request

    def insert(self, *records: Record) -> Request:
        return self.request("insert", records=records)

    def upsert(self, *records: Record) -> Request:
        return self.request("upsert", records=records, conflict_keys=self.info.key)

    def update(self, where: Mapping[str, Any], data: Mapping[str, Any]) -> Request:
        return self.request(
            "update", where, assignments=updates.bind(updates.parse(data), conditions.literal)
        )

    async def do(self, request: Request) -> list[Change]:
        (step,) = await self.bench.do(request)
        return list(step.changes)

    async def all(self) -> list[Record]:
        """Every relationship, by its ends."""
        return sorted(await self.bench.adapter.find(Query(info=self.info)), key=repr)

    async def undo(self, changes: Sequence[Change]) -> int:
        """Undo changes of nodes and of relationships, last first; how many writes it took."""
        writes = 0
        for change in reversed(changes):
            info = self.info if change.entity == self.info.entity else self.bench.info
            writes += await Bench(self.bench.harness, info, self.bench.note).undo([change])
        return writes


class GraphContract:
    async def _graph(self, bench: Bench, nodes: int = 3) -> Graph | None:
        """Nodes without relationships; None where the adapter has none."""
        can = bench.capabilities.relationships
        bench.note("relationships", "yes" if can else "refused")
        if not can:
            return None
        await bench.seed(*({"id": number, "name": f"n{number}"} for number in range(1, nodes + 1)))
        info = await bench.adapter.describe(await bench.harness.relationship())
        return Graph(bench, info)

    async def test_a_relationship_names_both_ends(self, bench: Bench) -> None:
        graph = await self._graph(bench)
        if graph is None:
            return
        change, other = await graph.do(graph.insert(graph.to(2, **_PROPERTIES, gone=None), graph.to(3)))
        assert bench.same(without_nulls(change.after), graph.image(2, **_PROPERTIES))
        assert change.key == {"start": graph.node(1), "end": graph.node(2)}
        assert other.after == graph.image(3)
        assert bench.same(codec.decode(codec.encode(change.after)), change.after)
        assert await graph.all() == sorted([change.after, other.after], key=repr)

    async def test_ends_are_found_by_any_condition(self, bench: Bench) -> None:
        graph = await self._graph(bench)
        if graph is None:
            return
        path = bench.harness.path
        where = {path("id"): {"$gt": 2}, path("count"): {"$null": True}, path("name"): {"$startsWith": "n"}}
        (change,) = await graph.do(graph.insert(graph.to(1) | {"start": graph.found(where)}))
        assert change.after == graph.image(1, start=3)

    @pytest.mark.parametrize("end", ["start", "end"])
    async def test_an_end_is_exactly_one_node(self, bench: Bench, end: str) -> None:
        graph = await self._graph(bench)
        if graph is None:
            return
        for where in ({bench.harness.path("id"): 9}, {bench.harness.path("id"): {"$gt": 1}}):
            async with bench.unit() as unit:
                with pytest.raises(StoreError) as caught:
                    await unit.execute(graph.insert(graph.to(2) | {end: graph.found(where)}))
            assert (caught.value.field or "").startswith(end)
        assert await graph.all() == []

    async def test_a_second_one_between_the_same_nodes_is_refused(self, bench: Bench) -> None:
        graph = await self._graph(bench)
        if graph is None:
            return
        await graph.do(graph.insert(graph.to(2)))
        for records in ([graph.to(2)], [graph.to(3), graph.to(3)]):
            async with bench.unit() as unit:
                with pytest.raises(ConstraintViolated):
                    await unit.execute(graph.insert(*records))
        await graph.do(graph.insert(graph.to(1, start=2)))
        assert len(await graph.all()) == 2

    async def test_a_relationship_is_updated_and_deleted(self, bench: Bench) -> None:
        graph = await self._graph(bench)
        if graph is None:
            return
        before = [c.after for c in await graph.do(graph.insert(graph.to(2, weight=2), graph.to(3, weight=3)))]
        heavier = graph.update({"properties.weight": {"$gte": 3}}, {"properties.weight": {"$increment": 1}})
        (change,) = await graph.do(heavier)
        assert (change.before, change.after) == (before[1], graph.image(3, weight=4))
        assert change.written == {"properties.weight"}
        assert change.effects["properties.weight"].value == 1
        (gone,) = await graph.do(graph.request("delete", {"properties.weight": 2}))
        assert (gone.before, gone.after) == (before[0], ABSENT)
        assert await graph.undo([change, gone]) == 2
        assert await graph.all() == sorted(before, key=repr)
        assert await graph.undo([change, gone]) == 0

    async def test_an_upsert_of_relationships(self, bench: Bench) -> None:
        graph = await self._graph(bench)
        if graph is None or "upsert" not in bench.capabilities.operations:
            return
        await graph.do(graph.insert(graph.to(2, a=1)))
        changes = await graph.do(graph.upsert(graph.to(2, a=2), graph.to(3), graph.to(3, c=3)))
        assert [change.action for change in changes] == ["updated", "inserted", "updated"]
        assert await graph.all() == sorted([graph.image(2, a=2), graph.image(3, c=3)], key=repr)
        await graph.undo(changes)
        assert await graph.all() == [graph.image(2, a=1)]

    async def test_relationships_of_nodes_of_the_same_unit(self, bench: Bench) -> None:
        graph = await self._graph(bench)
        if graph is None:
            return
        steps = await bench.do(bench.insert({"id": 4}), graph.insert(graph.to(4, start=2, x=1)))
        assert await graph.all() == [graph.image(4, start=2, x=1)]
        await graph.undo(self._changes(steps))
        assert await graph.all() == []
        assert [record["id"] for record in await bench.contents()] == [1, 2, 3]

    # Nodes with relationships

    async def test_a_deleted_node_takes_its_relationships_along(self, bench: Bench) -> None:
        """In both directions, and those to itself; undo brings nodes and relationships back as they were."""
        graph = await self._graph(bench)
        if graph is None:
            return
        records = [graph.to(2, **_PROPERTIES), graph.to(1, start=3, x=1), graph.to(3, start=2), graph.to(1)]
        links = [change.after for change in await graph.do(graph.insert(*records))]
        nodes = await bench.images()
        (step,) = await bench.do(bench.delete({"id": {"$lte": 2}}))
        assert step.affected == 2
        assert sorted(change.dependent for change in step.changes) == [False] * 2 + [True] * 4
        gone = [change.before for change in step.changes if change.dependent]
        assert sorted(gone, key=repr) == sorted(links, key=repr)
        assert (len(await bench.images()), await graph.all()) == (1, [])
        assert await graph.undo(step.changes) == 6
        assert bench.same(await bench.images(), nodes)
        assert bench.same(await graph.all(), sorted(links, key=repr))
        assert await graph.undo(step.changes) == 0

    async def test_without_detach_a_connected_node_stays(self, bench: Bench) -> None:
        graph = await self._graph(bench)
        if graph is None:
            return
        await graph.do(graph.insert(graph.to(2)))
        for number, refused in ((2, True), (3, False)):
            where = logical_condition(bench.harness.key(number))
            request = Request(step="s", operation="delete", info=bench.info, where=where, detach=False)
            async with bench.unit() as unit:
                if refused:
                    with pytest.raises(ConstraintViolated) as caught:
                        await unit.execute(request)
                    assert caught.value.constraint == "relationships"
                else:
                    assert (await unit.execute(request)).affected == 1
        assert len(await bench.images()) == 3

    async def test_undo_does_not_take_along_what_others_connected(self, bench: Bench) -> None:
        graph = await self._graph(bench)
        if graph is None:
            return
        (step,) = await bench.do(bench.insert({"id": 4}, {"id": 5}))
        await graph.do(graph.insert(graph.to(4)))
        for changes in ([step.changes[0]], [step.changes[1], step.changes[0]]):
            back = [inverse(change) for change in changes]
            async with bench.unit() as unit:
                written = await unit.write(back)
            assert written[-1].status is WriteStatus.REFUSED
            assert len(written) == len(changes)
        assert len(await graph.all()) == 1

    async def test_a_relationship_is_not_restored_without_its_ends(self, bench: Bench) -> None:
        graph = await self._graph(bench)
        if graph is None:
            return
        changes = await graph.do(graph.insert(graph.to(3), graph.to(2)))
        await bench.do(bench.delete({"id": {"$gte": 2}}))
        await bench.seed({"id": 3})
        async with bench.unit() as unit:
            written = await unit.write(changes)
        assert [item.status for item in written] == [WriteStatus.APPLIED, WriteStatus.REFUSED]
        assert isinstance(written[-1].error, ConstraintViolated)
        assert written[-1].error.constraint == "end"

    async def test_many_nodes_with_relationships(self, bench: Bench) -> None:
        """Statements grow by chunks: of the nodes, and of what lies between them."""
        graph = await self._graph(bench, nodes=MANY)
        if graph is None:
            return
        before = bench.harness.statements()
        ring = [graph.to(number % MANY + 1, start=number, n=number) for number in range(1, MANY + 1)]
        await graph.do(graph.insert(*ring))
        links = await graph.all()
        (step,) = await bench.do(bench.delete(None))
        assert len(step.changes) == 2 * MANY
        nodes = [change for change in step.changes if not change.dependent]
        between = [change for change in step.changes if change.dependent]
        await bench.undo(nodes)
        await Bench(bench.harness, graph.info, bench.note).undo(between)
        assert await graph.all() == links
        after = bench.harness.statements()
        if before is not None and after is not None:
            assert 0 < after - before <= MANY / 10

    @pytest.mark.parametrize(
        "change",
        [{"since": 1999}, {"end": {}}, {"end": None}, {"properties": 5}, {"start": {"entity": "x"}}],
        ids=repr,
    )
    async def test_what_is_no_relationship_is_refused(self, bench: Bench, change: dict[str, Any]) -> None:
        graph = await self._graph(bench)
        if graph is not None:
            with pytest.raises(InvalidOperation):
                graph.insert(graph.to(2) | change)

    @pytest.mark.parametrize("path", ["start", "end", "start.key", "end.key.id"])
    async def test_the_ends_are_not_updated(self, bench: Bench, path: str) -> None:
        graph = await self._graph(bench)
        if graph is not None:
            with pytest.raises(InvalidOperation):
                graph.update({"properties.x": 1}, {path: 1})

    @staticmethod
    def _changes(steps: Sequence[StepChanges]) -> list[Change]:
        return [change for step in steps for change in step.changes]
