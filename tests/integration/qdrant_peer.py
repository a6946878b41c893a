"""A Qdrant server's REST interface over the client's local mode, for what no server does on cue.

It follows STORES.md: operation ids and point versions, replies that say COMPLETED whether or not a condition
held, cosine vectors made unit length, floats in the short decimal, doubles one unit off, 404 for points that
are gone. It is no proof of what a server does: that is what the tests marked `needs_url` are for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
from qdrant_client import AsyncQdrantClient, models

Hook = Callable[[str, str], Awaitable[httpx.Response | None]]


class Peer:
    """Use as `QdrantAdapter(..., options={"transport": httpx.MockTransport(peer.handle)})`.

    `before` and `after` are called around every write; what they return is the reply instead.
    """

    def __init__(self, version: str = "1.17.1") -> None:
        self.version = version
        self.store = AsyncQdrantClient(location=":memory:")
        self.collections: dict[str, models.CreateCollection] = {}
        self.aliases: dict[str, str] = {}
        self.versions: dict[tuple[str, int | str], int] = {}
        self.operations = 0
        self.before: Hook | None = None
        self.after: Hook | None = None
        self.requests: list[str] = []

    async def handle(self, request: httpx.Request) -> httpx.Response:
        path, method = request.url.path, request.method
        self.requests.append(f"{method} {path}")
        body = json.loads(request.content or b"{}")
        try:
            return await self._route(method, path, body)
        except KeyError as error:
            return failure(404, f"Not found: No point with id {error.args[0]} found")
        except ValueError as error:
            return failure(404 if "not found" in str(error) else 400, str(error))

    async def _route(self, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
        match [method, *path.strip("/").split("/")]:
            case ["GET", ""]:
                return httpx.Response(200, json={"title": "qdrant", "version": self.version})
            case ["GET", "collections"]:
                return ok({"collections": [{"name": name} for name in self.collections]})
            case ["GET", "aliases"]:
                pairs = self.aliases.items()
                return ok({"aliases": [{"alias_name": a, "collection_name": c} for a, c in pairs]})
            case ["GET", "collections", name]:
                return await self._describe(name)
            case ["PUT", "collections", name]:
                return await self._create(name, models.CreateCollection.model_validate(body))
            case ["DELETE", "collections", name]:
                del self.collections[name]
                return ok(await self.store.delete_collection(name))
            case ["POST", "collections", name, "points", *rest] if rest in ([], ["scroll"], ["query"]):
                return await self._read(name, rest, body)
            case ["POST", "collections", name, "points", "batch"]:
                return await self._batch(name, body["operations"])
            case [_, "collections", name, "points", *rest]:
                return await self._write(name, "/".join(rest) or "upsert", body)
        return failure(404, f"no route {method} {path}")

    # Collections

    async def _create(self, name: str, config: models.CreateCollection) -> httpx.Response:
        self.collections[name] = config
        plain = config.model_copy(deep=True)
        dense = plain.vectors if isinstance(plain.vectors, dict) else {"": plain.vectors}
        for params in dense.values():
            if params is not None:
                params.distance = models.Distance.DOT  # the peer makes vectors unit length itself
        await self.store.create_collection(
            name, vectors_config=plain.vectors, sparse_vectors_config=plain.sparse_vectors
        )
        return ok(True)

    async def _describe(self, name: str) -> httpx.Response:
        info = (await self.store.get_collection(name)).model_dump(mode="json")
        wanted = self.collections[name].model_dump(mode="json")
        info["config"]["params"]["vectors"] = wanted["vectors"]
        info["config"]["params"]["shard_number"] = wanted["shard_number"] or 1
        return ok(info)

    def _spec(self, name: str, vector: str) -> models.VectorParams | None:
        vectors = self.collections[name].vectors
        return vectors.get(vector) if isinstance(vectors, dict) else vectors

    # Reading

    async def _read(self, name: str, rest: list[str], body: dict[str, Any]) -> httpx.Response:
        if rest == []:
            found = await self.store.retrieve(name, body["ids"], with_payload=True, with_vectors=True)
            return ok([shown(record) for record in found])
        if rest == ["scroll"]:
            narrowed = as_filter(body.get("filter"))
            found, offset = await self.store.scroll(
                name, narrowed, body["limit"], offset=body.get("offset"), with_vectors=True
            )
            return ok({"points": [shown(record) for record in found], "next_page_offset": offset})
        hits = await self.store.query_points(
            name,
            query=self._query(body["query"]),
            using=body.get("using"),
            query_filter=as_filter(body.get("filter")),
            limit=body["limit"],
            with_vectors=True,
        )
        points = []
        for hit in hits.points:
            version = self.versions[name, hit.id]
            points.append(shown(hit) | {"version": version, "score": hit.score})
        return ok({"points": points})

    @staticmethod
    def _query(query: Any) -> Any:
        value = query["nearest"] if isinstance(query, dict) and "nearest" in query else query
        return models.SparseVector(**value) if isinstance(value, dict) else value

    # Writing

    async def _write(self, name: str, kind: str, body: dict[str, Any]) -> httpx.Response:
        if self.before is not None and (reply := await self.before(kind, name)) is not None:
            return reply
        self.operations += 1
        for identifier in await self._apply(name, kind, body):
            self.versions[name, identifier] = self.operations
        done = {"operation_id": self.operations, "status": "completed"}
        if self.after is not None and (reply := await self.after(kind, name)) is not None:
            return reply
        return ok(done)

    async def _batch(self, name: str, operations: list[dict[str, Any]]) -> httpx.Response:
        """Writes one after the other, each with a reply; the first that fails ends it, and those before stay."""
        if self.before is not None and (reply := await self.before("batch", name)) is not None:
            return reply
        done = []
        for operation in operations:
            ((kind, body),) = operation.items()
            self.operations += 1
            route = {"update_vectors": "vectors", "set_payload": "payload"}.get(kind, kind)
            for identifier in await self._apply(name, route, body):
                self.versions[name, identifier] = self.operations
            done.append({"operation_id": self.operations, "status": "completed"})
        if self.after is not None and (reply := await self.after("batch", name)) is not None:
            return reply
        return ok(done)

    async def _apply(self, name: str, kind: str, body: dict[str, Any]) -> list[int | str]:
        """Make one write; returns the points that it touched."""
        if kind == "upsert":
            return await self._upsert(name, body)
        if kind == "vectors":
            return await self._update_vectors(name, body)
        selector = models.Filter.model_validate(body["filter"])
        touched = await self._matching(name, selector)
        if kind == "payload":
            await self.store.set_payload(name, off(body["payload"]), selector, key=body.get("key"))
        elif kind == "delete":
            await self.store.delete(name, models.FilterSelector(filter=selector))
        else:
            raise ValueError(f"no write {kind}")
        return touched

    async def _upsert(self, name: str, body: dict[str, Any]) -> list[int | str]:
        (given,) = body["points"]
        point = models.PointStruct.model_validate(given)
        there = bool(await self.store.retrieve(name, [point.id]))
        condition = as_filter(body.get("update_filter"))
        mode = body.get("update_mode") if self.version >= "1.17" else None
        if there and condition is not None:
            only = models.Filter(must=[models.HasIdCondition(has_id=[point.id]), condition])
            if not await self._matching(name, only):
                return []
        if (there and mode == "insert_only") or (not there and mode == "update_only"):
            return []
        point.vector = self._kept(name, point.vector)
        point.payload = off(point.payload)
        await self.store.upsert(name, [point])
        return [point.id]

    async def _update_vectors(self, name: str, body: dict[str, Any]) -> list[int | str]:
        (given,) = body["points"]
        point = models.PointVectors.model_validate(given)
        condition = as_filter(body.get("update_filter"))
        touched = await self._matching(name, condition) if condition is not None else [point.id]
        point.vector = self._kept(name, point.vector)
        await self.store.update_vectors(name, [point], update_filter=condition)
        return touched

    async def _matching(self, name: str, condition: models.Filter) -> list[int | str]:
        found, _ = await self.store.scroll(name, condition, limit=1000)
        return [record.id for record in found]

    def _kept(self, name: str, vector: Any) -> Any:
        if isinstance(vector, dict):
            return {key: self._one(self._spec(name, key), item) for key, item in vector.items()}
        return self._one(self._spec(name, ""), vector)

    @staticmethod
    def _one(spec: models.VectorParams | None, vector: Any) -> Any:
        if spec is None or spec.distance != models.Distance.COSINE:
            return vector
        numbers = np.asarray(vector, dtype=np.float32)
        square = np.float32(np.dot(numbers, numbers))
        if square == 0 or abs(square - 1) <= 1e-6:
            return numbers.tolist()
        return (numbers / np.sqrt(square)).tolist()

    async def close(self) -> None:
        await self.store.close()


def ok(result: Any) -> httpx.Response:
    return httpx.Response(200, json={"status": "ok", "time": 0.0, "result": result})


def failure(status: int, text: str) -> httpx.Response:
    return httpx.Response(status, json={"status": {"error": text}, "time": 0.0})


def as_filter(value: Any) -> models.Filter | None:
    return None if value is None else models.Filter.model_validate(value)


def off(value: Any) -> Any:
    """Doubles one unit off where they take all their digits; again written, they stay."""
    if isinstance(value, dict):
        return {name: off(item) for name, item in value.items()}
    if isinstance(value, list):
        return [off(item) for item in value]
    if isinstance(value, float) and value.hex().rstrip("0").partition("p")[0][-1] in "13579bdf":
        return math.nextafter(value, 0.0)
    return value


def shown(record: models.Record | models.ScoredPoint) -> dict[str, Any]:
    return {"id": record.id, "payload": record.payload, "vector": short(record.vector)}


def short(vector: Any) -> Any:
    """Vectors as the server writes them: the shortest decimals of float32."""
    if isinstance(vector, dict):
        return {name: short(item) for name, item in vector.items()}
    if isinstance(vector, models.SparseVector):
        return {"indices": vector.indices, "values": short(vector.values)}
    if isinstance(vector, list) and vector and isinstance(vector[0], list):
        return [short(row) for row in vector]
    return None if vector is None else [float(str(np.float32(item))) for item in vector]
