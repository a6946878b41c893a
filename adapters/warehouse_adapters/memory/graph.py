"""Nodes and relationships in memory.

A relationship is kept as `{"start": {"entity": "User", "key": {"id": 1}}, "end": {...},
"properties": {...}}`; to insert one, each end names its node by `where` in place of `key`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Final

from warehouse import conditions
from warehouse.adapter import EntityInfo, Request
from warehouse.conditions import Compare, Condition, Or
from warehouse.config import EntityConfig
from warehouse.errors import ConstraintViolated, InvalidOperation, StoreError, did_you_mean
from warehouse.planning import freeze, key_in
from warehouse.records import ABSENT, Change, Entity, Record, get, overlaps
from warehouse_adapters.memory.rules import Reader, Rules, View, record_lock

_ENDS: Final = ("start", "end")
_PARTS: Final = frozenset({*_ENDS, "properties"})


class GraphRules(Rules):
    """The rules of a graph: relationships end at nodes that are there, and go with them."""

    def describe(self, entity: Entity, config: EntityConfig) -> EntityInfo:
        return self._info(entity, config, _ENDS if entity.kind == "relationship" else ("id",))

    def check(self, request: Request) -> None:
        if request.entity.kind != "relationship":
            return
        for record in request.records:
            _check_relationship(record)
        written = [*(item.path for item in request.assignments), *(request.update_fields or ())]
        for path in written:
            if any(overlaps(path, end) for end in _ENDS):
                raise InvalidOperation("the ends of a relationship cannot be changed", field=path)

    def complete(self, info: EntityInfo, record: Record) -> Record:
        out = super().complete(info, record)
        if info.entity.kind == "relationship":
            out.setdefault("properties", {})
        return out

    async def admit(self, reader: Reader, info: EntityInfo, record: Record) -> Record:
        if info.entity.kind != "relationship":
            return self.complete(info, record)
        ends = {end: await self._resolve(reader, end, record[end]) for end in _ENDS}
        return self.complete(info, record | ends)

    async def _resolve(self, reader: Reader, end: str, given: Mapping[str, Any]) -> Record:
        """The reference to the one node that `given` means, which stays locked where there are locks."""
        info = await reader.describe(Entity(given["entity"]))
        where = conditions.bind(conditions.parse(given["where"]), conditions.literal)
        nodes = await reader.matching(info, where)
        if len(nodes) != 1:
            raise StoreError(f"{len(nodes)} nodes match, and a relationship needs one", field=f"{end}.where")
        return {"entity": given["entity"], "key": key_in(info, nodes[0])}

    async def dependents(
        self, reader: Reader, request: Request, record: Record
    ) -> list[tuple[EntityInfo, Record]]:
        if request.entity.kind == "relationship":
            return []
        node = {"entity": request.entity.name, "key": key_in(request.info, record)}
        out = []
        for entity in reader.entities():
            if entity.kind == "relationship":
                info = await reader.describe(entity)
                out += [(info, relationship) for relationship in await reader.matching(info, _ends_at(node))]
        if out and not request.detach:
            raise _still_connected(node)
        return out

    def touched(self, info: EntityInfo, change: Change) -> Iterator[Hashable]:
        yield from super().touched(info, change)
        if info.entity.kind == "relationship" and change.before is ABSENT:
            for end in _ENDS:
                yield record_lock(Entity(get(change.after, f"{end}.entity")), get(change.after, f"{end}.key"))

    def verify(self, view: View, info: EntityInfo, changes: Sequence[Change]) -> None:
        super().verify(view, info, changes)
        if info.entity.kind == "relationship":
            nodes: dict[str, Mapping[Hashable, Record]] = {}
            for change in changes:
                _verify_ends(view, nodes, change)
        elif any(change.after is ABSENT for change in changes):
            _verify_unconnected(view, changes)


def _check_relationship(record: Record) -> None:
    for name in record:
        if name not in _PARTS:
            raise InvalidOperation(
                f"a relationship has no {name!r}", field=name, hint=did_you_mean(name, _PARTS)
            )
    for end in _ENDS:
        given = record.get(end)
        if not isinstance(given, Mapping) or given.keys() != {"entity", "where"} or not given["where"]:
            raise InvalidOperation("it takes {'entity': ..., 'where': {...}}", field=end)
        conditions.parse(given["where"])
    if not isinstance(record.get("properties", {}), Mapping):
        raise InvalidOperation("it takes a mapping", field="properties")


def _verify_ends(view: View, nodes: dict[str, Mapping[Hashable, Record]], change: Change) -> None:
    """`nodes` keeps the tables that were looked into, by label."""
    if change.after is ABSENT:
        return
    for end in _ENDS:
        node = get(change.after, end)
        if change.before is not ABSENT and node != get(change.before, end):
            raise ConstraintViolated("the ends of a relationship cannot be changed", constraint=end)
        label = node["entity"]
        if label not in nodes:
            nodes[label] = view.table(Entity(label))
        if freeze(node["key"]) not in nodes[label]:
            raise ConstraintViolated(f"its {end} node {node['key']} is not there", constraint=end)


def _verify_unconnected(view: View, changes: Sequence[Change]) -> None:
    connected = {
        conditions.bucket(record[end])
        for entity in view.entities()
        if entity.kind == "relationship"
        for record in view.table(entity).values()
        for end in _ENDS
    }
    for change in changes:
        node = {"entity": change.entity.name, "key": change.key}
        if change.after is ABSENT and conditions.bucket(node) in connected:
            raise _still_connected(node)


def _ends_at(node: Record) -> Condition:
    return Or(tuple(Compare(end, "$eq", node) for end in _ENDS))


def _still_connected(node: Record) -> ConstraintViolated:
    return ConstraintViolated(
        f"the {node['entity']} node {node['key']} still has relationships", constraint="relationships"
    )
