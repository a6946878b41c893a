"""What the store knows of its labels and relationship types: their constraints, and so their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from warehouse.adapter import EntityInfo
from warehouse.config import EntityConfig
from warehouse.errors import StoreError
from warehouse.records import Entity, Key, Record

SHOW: Final = "SHOW CONSTRAINTS YIELD name, type, entityType, labelsOrTypes, properties"
ELEMENT_ID: Final = "$elementId"  # what stands for the key in the images of a label that has none
ENDS: Final = ("start", "end")
_DEFAULT: Final = EntityConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One constraint of a label or relationship type, on these properties."""

    name: str
    kind: Literal["unique", "key", "required"]
    entity: Entity
    fields: tuple[str, ...]


def constraint_of(row: Mapping[str, Any]) -> Constraint | None:
    """A row of `SHOW CONSTRAINTS`; None where it says nothing that matters here (property types)."""
    kind: Literal["unique", "key", "required"]
    if row["type"].endswith("UNIQUENESS"):
        kind = "unique"
    elif row["type"].endswith("KEY"):
        kind = "key"
    elif row["type"].endswith("EXISTENCE"):
        kind = "required"
    else:
        return None
    is_node = row["entityType"] == "NODE"
    entity = Entity(row["labelsOrTypes"][0], "record" if is_node else "relationship")
    return Constraint(name=row["name"], kind=kind, entity=entity, fields=tuple(row["properties"]))


class Schema:
    """The constraints of one database, and the keys configured besides.

    `immediate`: the store refuses a taken unique value at once, not first at the commit.
    """

    def __init__(
        self, constraints: Sequence[Constraint], entities: Mapping[str, EntityConfig], *, immediate: bool
    ) -> None:
        self._constraints = constraints
        self._entities = entities
        self._immediate = immediate

    def describe(self, entity: Entity) -> EntityInfo:
        """What is known of a label or relationship type; any name is one."""
        if entity.kind == "relationship":
            return self._describe_relationship(entity)
        key = self.key(entity.name)
        unique = [item.fields for item in self._unique(entity) if set(item.fields) != set(key)]
        required = {name for item in self._of(entity) if item.kind == "required" for name in item.fields}
        return EntityInfo(
            entity=entity,
            key=key,
            required=frozenset(required.union(key)),
            unique=tuple(unique),
            config=self._config(entity),
        )

    def _describe_relationship(self, entity: Entity) -> EntityInfo:
        configured = self._config(entity).key
        key = tuple(_property(name) for name in configured) if configured else ENDS
        unique = [tuple(_property(name) for name in item.fields) for item in self._unique(entity)]
        return EntityInfo(
            entity=entity,
            key=key,
            required=frozenset(ENDS),
            unique=tuple(fields for fields in unique if set(fields) != set(key)),
            config=self._config(entity),
        )

    def key(self, label: str) -> tuple[str, ...]:
        """The properties that identify a node with this label: configured, or those of its constraint.

        Of several constraints: a node key, one on `id`, the narrowest, the first by its properties.
        """
        configured = self._entities.get(label, _DEFAULT).key
        if configured:
            return configured
        unique = self._unique(Entity(label))
        best = min(unique, key=_rank, default=None)
        return best.fields if best else ()

    def node_key(self, labels: Sequence[str], properties: Record) -> Record:
        """How a relationship names this node: `{"entity": label, "key": {...}}`, by the first label with a key.

        Raises StoreError where no label of it has one.
        """
        for label in sorted(labels):
            key: Key = {name: properties.get(name) for name in self.key(label)}
            if key and None not in key.values():
                return {"entity": label, "key": key}
        raise StoreError(
            f"a node labelled {', '.join(sorted(labels)) or 'nothing'} at the end of a relationship has no key",
            hint="create a uniqueness constraint for its label, or configure its `key`",
        )

    def guaranteed(self, entity: Entity, fields: Sequence[str]) -> bool:
        """Whether a constraint of the store makes the properties `fields` unique."""
        return any(set(item.fields) == set(fields) for item in self._unique(entity))

    def unguarded(self, entity: Entity, key: Sequence[str]) -> list[tuple[str, ...]]:
        """The unique properties (the key among them) that an insert must look up, since the store will not."""
        out = [item.fields for item in self._unique(entity) if not self._immediate]
        if key and not self.guaranteed(entity, key):
            out.append(tuple(key))
        return out

    def name(self, owner: str, fields: Sequence[str]) -> str:
        """The name of the unique constraint on `fields` of a label or type, or words for it."""
        for item in self._constraints:
            if item.entity.name == owner and item.kind != "required" and set(item.fields) == set(fields):
                return item.name
        return f"{owner}({', '.join(fields)})"

    def _of(self, entity: Entity) -> list[Constraint]:
        return [item for item in self._constraints if item.entity == entity]

    def _unique(self, entity: Entity) -> list[Constraint]:
        return [item for item in self._of(entity) if item.kind != "required"]

    def _config(self, entity: Entity) -> EntityConfig:
        return self._entities.get(entity.name, _DEFAULT)


def _rank(item: Constraint) -> tuple[bool, bool, int, tuple[str, ...]]:
    return item.kind != "key", item.fields != ("id",), len(item.fields), item.fields


def _property(name: str) -> str:
    return name if name.startswith("properties.") else f"properties.{name}"
