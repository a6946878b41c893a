"""What the tests of the Neo4j adapter share: a connected adapter, requests in the users' language, raw Cypher."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import neo4j

from integration import arcadedb_peer
from warehouse import conditions, undo, updates
from warehouse.adapter import Query, Request, UnitSettings, WriteStatus
from warehouse.config import EntityConfig
from warehouse.errors import StoreContention
from warehouse.records import Entity
from warehouse_adapters.neo4j import Neo4jAdapter

STORES = ("neo4j", "arcadedb")


def kit_of(request, **settings):
    """The kit that the parameter of a fixture names."""
    if request.param == "arcadedb":
        return Kit.arcadedb(**settings)
    return Kit.of(request.getfixturevalue("neo4j_server").url, **settings)


def knows(end, start=None):
    """Relationships between users, as an insert takes them."""
    return {
        "start": {"entity": "User", "where": {"id": start or 1}},
        "end": {"entity": "User", "where": {"id": end}},
    }


@dataclass
class Kit:
    adapter: Neo4jAdapter
    url: str
    auth: tuple[str, str] | None

    @classmethod
    def of(cls, url, auth=None, **settings):
        user, password = auth or (None, None)
        entities = {name: EntityConfig(key=key) for name, key in settings.pop("keys", {}).items()}
        settings = {"url": url, "user": user, "password": password, "entities": entities} | settings
        return cls(Neo4jAdapter(Neo4jAdapter.Settings(adapter="neo4j", **settings)), url, auth)

    @classmethod
    def arcadedb(cls, **settings):
        return cls.of(arcadedb_peer.start().url, (arcadedb_peer.USER, arcadedb_peer.PASSWORD), **settings)

    async def __aenter__(self):
        await self.adapter.connect()
        self.clear()
        return self

    async def __aexit__(self, *error):
        await self.adapter.close()
        self.clear()

    @property
    def is_neo4j(self):
        return self.adapter.capabilities.store == "Neo4j"

    # Raw Cypher

    def run(self, statement, **parameters):
        with neo4j.GraphDatabase.driver(self.url, auth=self.auth) as driver, driver.session() as session:
            return session.run(statement, parameters).data()

    def clear(self):
        self.run("MATCH (n) DETACH DELETE n")
        for row in self.run("SHOW CONSTRAINTS"):
            self.run(f"DROP CONSTRAINT {row['name']}")

    def unique(self, label, field="id"):
        self.run(f"CREATE CONSTRAINT {label}_{field} FOR (n:{label}) REQUIRE n.{field} IS UNIQUE")

    # Requests

    async def info(self, name, kind="record"):
        return await self.adapter.describe(Entity(name, kind), fresh=True)

    async def request(self, operation, info, **parts):
        request = Request(step="step", operation=operation, info=info, **parts)
        self.adapter.check(request)
        return request

    async def insert(self, info, *records):
        return await self.request("insert", info, records=records)

    async def upsert(self, info, *records, by=None):
        return await self.request("upsert", info, records=records, conflict_keys=by or info.key)

    async def update(self, info, where, data):
        items = updates.bind(updates.parse(data), conditions.literal)
        return await self.request("update", info, where=conditions.parse(where), assignments=items)

    async def delete(self, info, where=None, *, detach=True):
        return await self.request("delete", info, where=conditions.parse(where), detach=detach)

    # Running

    def unit(self, lock_timeout=10.0):
        return self.adapter.unit(UnitSettings(transaction_id=uuid4().hex, lock_timeout=lock_timeout))

    async def do(self, request):
        """Execute and commit; the changes."""
        async with self.unit() as unit:
            step = await unit.execute(request)
            await unit.commit()
        return step.changes

    async def insisting(self, request):
        """`do`, again and again until nobody is in the way."""
        while True:
            try:
                return await self.do(request)
            except StoreContention:
                continue

    async def find(self, info, where=None, **parts):
        return await self.adapter.find(Query(info=info, where=conditions.parse(where), **parts))

    async def undo(self, changes):
        """As the engine undoes: last change first, each merged with what is there now. The write statuses."""
        statuses = []
        async with self.unit() as unit:
            for change in reversed(changes):
                info = await self.adapter.describe(change.entity)
                (current,) = await unit.read(info, [change.key])
                merged = undo.merge(change, current, info.config)
                assert not merged.clashes
                if merged.write is not None:
                    (written,) = await unit.write([merged.write])
                    statuses.append(written.status)
                    if written.status is not WriteStatus.APPLIED:
                        return statuses
            await unit.commit()
        return statuses
