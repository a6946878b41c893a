"""What an adapter's author writes so that the contract suite can run on the adapter: a `Harness`.

The suite knows one logical record, `FIELDS`; the harness says how the store holds it. For most stores that is
a class of a few lines: how to make the adapter, how to make an empty entity, and where the fields are kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Final, Self
from uuid import uuid4

from hypothesis.strategies import SearchStrategy

from warehouse.adapter import Adapter
from warehouse.records import ABSENT, Entity, Image, Key, Record, get, put

FIELDS: Final = ("id", "name", "count", "ratio", "active", "tags", "email", "moment", "details")


def _unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredType:
    """One type of a store: what the type contract tries, and one row of the table of types in the docs.

    * `field`: the path under which the records of `Harness.typed_entity` keep a value of it.
    * `stored`: how the store calls it, as `numeric(12, 4)`.
    * `takes`, `gives`: the Python types in and out, as the docs say it; `note`: what else they say.
    * `values`: every kind of value that it holds, the ends of its range among them; no null.
    * `expected`: what reading gives back of a value that was written.
    * `refused`: values that `Adapter.check` refuses, naming the field, since the store would not keep them.
    """

    field: str
    stored: str
    takes: str
    gives: str
    values: SearchStrategy[Any]
    expected: Callable[[Any], Any] = _unchanged
    refused: tuple[Any, ...] = ()
    note: str = ""


class Harness(ABC):
    """One kind of store, ready to be tested; an async context manager that connects `adapter` and closes it.

    * `name`: for the ids of the tests and the matrix, as `postgres`.
    * `fields`: the logical fields that the store can hold: `id` (int), `name` (text or null), `count`
      (64-bit int or null), `ratio` (double or null), `active` (bool or null), `tags` (list of text or null),
      `email` (text or null), `moment` (a point in time or null; only `$currentDate` writes it, and `value`
      gives an aware datetime for it), `details` (a mapping or null: texts, numbers, booleans and nulls, in
      lists and mappings of any depth). Leave out `tags` where the store has no lists, and `details` where it
      has no mappings.
    * `unique`: whether `email` carries a uniqueness constraint, in which nulls are not equal.
    * `paths`: where the store keeps a field, if not under its own name: `{"id": "_id"}`.
    * `booleans`: whether the store has booleans; otherwise they are the integers 0 and 1 there.
    * `nulls`: whether a null inside `details` stays; otherwise reading gives the mapping without it.
    * `creates`: whether the store makes an entity by itself, when something is first written to it.
    * `driver`: whether errors come from a driver, and so must have a `__cause__`.
    * `many`: how many records one operation is tried with; fewer only where the store itself is too slow.
    * `types`: every type of the store; each is a field of the records of `typed_entity`.
    """

    name: ClassVar[str]
    fields: ClassVar[frozenset[str]] = frozenset(FIELDS)
    unique: ClassVar[bool] = True
    paths: ClassVar[Mapping[str, str]] = {}
    booleans: ClassVar[bool] = True
    nulls: ClassVar[bool] = True
    creates: ClassVar[bool] = False
    driver: ClassVar[bool] = True
    many: ClassVar[int] = 10_000
    types: ClassVar[tuple[StoredType, ...]] = ()

    adapter: Adapter

    @abstractmethod
    async def make(self) -> Adapter:
        """A fresh adapter, not yet connected; its server, if it needs one, runs."""

    @abstractmethod
    async def entity(self) -> Entity:
        """Create an empty entity with the logical fields, never used before; `adapter` is connected.

        What it leaves behind in a server that outlives the tests, `__aexit__` removes.
        """

    async def relationship(self) -> Entity:
        """An entity of relationships, never used before, between any nodes: for adapters that have such."""
        return Entity(f"LINKED_{uuid4().hex}", "relationship")

    async def vectors(self) -> Entity | None:
        """An empty entity of points with named vectors; None where the store has none. For vector stores.

        They are `one` and `two` (of three numbers, kept in single precision), `sparse` and `multi`.
        """
        return None

    async def typed_entity(self) -> Entity:
        """As `entity`, but with a field for each of `types`, all of which may be null."""
        return await self.entity()

    async def rendered(self, entity: Entity, number: int) -> Any:
        """The whole record with the id `number` as the store itself writes it, past the adapter.

        Text where the store has a text form of its values, otherwise what tells them apart exactly. None where
        there is no such record.
        """
        raise NotImplementedError

    def blank(self, number: int) -> Record:  # noqa: ARG002 - for those that override it
        """What the record with the id `number` has besides the logical fields, as the vector of a point."""
        return {}

    def value(self, field: str, value: Any) -> Any:  # noqa: ARG002 - for those that override it
        """The logical value of what the store keeps in `field` (a store without booleans: `bool(value)`)."""
        return value

    def statements(self) -> int | None:
        """How many statements or requests the adapter has sent so far; None where it sends none."""
        return None

    # The rest follows.

    async def __aenter__(self) -> Self:
        self.adapter = await self.make()
        await self.adapter.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.adapter.close()

    def path(self, field: str) -> str:
        """Where the store keeps a logical field, or what is inside one (`details.city`)."""
        head, dot, rest = field.partition(".")
        return self.paths.get(head, head) + dot + rest

    def key(self, number: int) -> Key:
        """The key of the record with the id `number`."""
        return {self.path("id"): number}

    def record(self, **values: Any) -> Record:
        """The `data` that inserts a record with these logical values."""
        out = self.blank(values["id"])
        for field, value in values.items():
            out = put(out, self.path(field), value)
        return out

    def logical(self, image: Image) -> dict[str, Any] | None:
        """The logical values of an image, null for what is missing; None of ABSENT."""
        if image is ABSENT:
            return None
        out: dict[str, Any] = {}
        for field in FIELDS:
            if field in self.fields:
                found = get(image, self.path(field))
                out[field] = None if found is ABSENT or found is None else self.value(field, found)
        return out
