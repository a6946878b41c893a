from uuid import uuid4

import neo4j

from contract import types_neo4j
from integration import arcadedb_peer
from warehouse.records import Entity
from warehouse.testing.harness import FIELDS, Harness
from warehouse_adapters.neo4j import Neo4jAdapter
from warehouse_adapters.neo4j.connection import Transaction


class GraphHarness(Harness):
    fields = frozenset(FIELDS) - {"details"}
    creates = True
    url: str
    auth: tuple[str, str] | None = None

    async def make(self):
        user, password = self.auth or (None, None)
        return Neo4jAdapter(
            Neo4jAdapter.Settings(adapter="neo4j", url=self.url, user=user, password=password)
        )

    async def __aenter__(self):
        self.sent, self.run_alone = [], Transaction.run

        async def run(transaction, statement, **parameters):
            self.sent.append(statement)
            return await self.run_alone(transaction, statement, **parameters)

        Transaction.run = run
        return await super().__aenter__()

    def statements(self):
        return len(self.sent)

    async def entity(self):
        name = f"Thing{uuid4().hex}"
        self.run(f"CREATE CONSTRAINT {name}_id FOR (n:{name}) REQUIRE n.id IS UNIQUE")
        if self.unique:
            self.run(f"CREATE CONSTRAINT {name}_email FOR (n:{name}) REQUIRE n.email IS UNIQUE")
        return Entity(name)

    async def rendered(self, entity, number):
        """The properties as the driver reads them, each with its type."""
        rows = self.run(f"MATCH (n:{entity.name} {{id: {number}}}) RETURN properties(n) AS found")
        return (
            sorted((name, type(value), repr(value)) for name, value in rows[0]["found"].items())
            if rows
            else None
        )

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        Transaction.run = self.run_alone
        self.run("MATCH (n) DETACH DELETE n")
        for row in self.run("SHOW CONSTRAINTS"):
            self.run(f"DROP CONSTRAINT {row['name']}")

    def run(self, statement):
        with neo4j.GraphDatabase.driver(self.url, auth=self.auth) as driver, driver.session() as session:
            return session.run(statement).data()


class Neo4jServer(GraphHarness):
    name = "neo4j"
    types = types_neo4j.NEO4J
    server = "neo4j_server"

    def __init__(self, server):
        self.url = server.url


class ArcadeDB(GraphHarness):
    """It refuses taken values when it commits, so the adapter looks them up: that is no error of a driver."""

    name = "arcadedb"
    types = types_neo4j.ARCADEDB
    unique = False
    driver = False
    auth = (arcadedb_peer.USER, arcadedb_peer.PASSWORD)

    def __init__(self):
        self.url = arcadedb_peer.start().url


HARNESSES = [Neo4jServer, ArcadeDB]
