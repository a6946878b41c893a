"""Reading points: by id, by condition page by page, and by nearness."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from qdrant_client import AsyncQdrantClient, models

from warehouse import conditions
from warehouse.adapter import EntityInfo, Query
from warehouse.errors import InvalidOperation, did_you_mean
from warehouse.records import ABSENT, Image, Key, Record
from warehouse_adapters.qdrant import filters, points, vectors
from warehouse_adapters.qdrant.errors import store_errors
from warehouse_adapters.qdrant.points import CollectionInfo

_PAGE: Final = 1_000
_NEAR_LIMIT: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What the other side does: conditional upserts at all, and those that never insert.

    `local` is the client's own store, in which nothing happens between two calls that hold `turn`.
    """

    local: bool
    conditional: bool
    update_only: bool
    ulps: int


class Reader:
    """What is read over one client. `turn` is held during every operation of a local client."""

    def __init__(
        self, client: AsyncQdrantClient, abilities: Abilities, turn: AbstractContextManager[Any]
    ) -> None:
        self._client = client
        self._abilities = abilities
        self._turn = turn

    # Reading

    async def load(self, info: EntityInfo, keys: Sequence[Key]) -> list[Image]:
        """The images of `keys`, in order. Raises StoreUnavailable or StoreError."""
        if not keys:
            return []
        ids = [points.point_id(key["id"]) for key in keys]
        with self._turn, store_errors():
            found = await self._client.retrieve(info.entity.name, ids, with_payload=True, with_vectors=True)
        images = {record.id: self._image(info, record) for record in found}
        return [images.get(identifier, ABSENT) for identifier in ids]

    async def scan(self, query: Query) -> list[Record]:
        """Every record that `query.where` matches, or more; with `near`, exactly those asked for."""
        if query.near is not None:
            return await self._near(query, query.near)
        return [record async for page in self.pages(query) for record in page]

    async def pages(self, query: Query) -> AsyncGenerator[list[Record], None]:
        """The records that `query.where` matches, or more, page by page."""
        narrowed, offset = filters.narrow(query.where), None
        while True:
            with self._turn, store_errors():
                found, offset = await self._client.scroll(
                    query.info.entity.name,
                    scroll_filter=narrowed,
                    limit=_PAGE,
                    offset=offset,
                    with_payload=True,
                    with_vectors=True,
                )
            yield [self._image(query.info, record) for record in found]
            if offset is None:
                return

    async def _near(self, query: Query, near: Mapping[str, Any]) -> list[Record]:
        """The nearest records, nearest first, each with its `score`. The filter may let too many through."""
        info = collection(query.info)
        using, vector = near_vector(info, near)
        limit = query.limit if query.limit is not None else near.get("limit", _NEAR_LIMIT)
        wanted = asked = query.offset + limit
        while wanted:
            with self._turn, store_errors():
                found = await self._client.query_points(
                    info.entity.name,
                    query=vectors.to_query(vector),
                    using=using or None,
                    query_filter=filters.narrow(query.where),
                    limit=asked,
                    with_payload=True,
                    with_vectors=True,
                )
            records = [{**self._image(info, hit), "score": hit.score} for hit in found.points]
            records = [record for record in records if conditions.evaluate(query.where, record)]
            if len(records) >= wanted or len(found.points) < asked:
                ordered = conditions.sort_records(records[:wanted], query.order_by)
                return ordered[query.offset :]
            asked *= 4
        return []

    def _image(self, info: EntityInfo, point: models.Record | models.ScoredPoint) -> Record:
        return points.image(collection(info), point, local=self._abilities.local)

    def complete(self, info: EntityInfo, record: Record) -> Record:
        """See `points.complete`."""
        return points.complete(collection(info), record)


def collection(info: EntityInfo) -> CollectionInfo:
    """`info` as `describe` made it."""
    if not isinstance(info, CollectionInfo):
        raise TypeError(f"{info!r} was not described by this adapter")
    return info


def near_vector(info: CollectionInfo, near: Mapping[str, Any]) -> tuple[str, Any]:
    """The name and the vector that `near` asks for; raises InvalidOperation."""
    if extra := set(near) - {"vector", "using", "limit"}:
        raise InvalidOperation(
            f"unknown key {min(extra)!r}",
            field="near",
            hint=did_you_mean(min(extra), {"vector", "using", "limit"}),
        )
    limit = near.get("limit", _NEAR_LIMIT)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise InvalidOperation(f"{limit!r} is no number of records", field="near.limit")
    using = near.get("using") or vectors.UNNAMED
    if using not in info.vectors:
        known = ", ".join(sorted(info.vectors)) or "none"
        raise InvalidOperation(
            "the collection has no such vector", field="near.using", hint=f"its vectors are: {known}"
        )
    return using, vectors.one(info.vectors[using], near.get("vector"), "near.vector")
