from uuid import uuid4

import neo4j

from integration import arcadedb_peer
from warehouse.records import Entity
from warehouse.testing.harness import FIELDS, Harness
from warehouse_adapters.neo4j import Neo4jAdapter


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

    async def entity(self):
        name = f"Thing{uuid4().hex}"
        self.run(f"CREATE CONSTRAINT {name}_id FOR (n:{name}) REQUIRE n.id IS UNIQUE")
        if self.unique:
            self.run(f"CREATE CONSTRAINT {name}_email FOR (n:{name}) REQUIRE n.email IS UNIQUE")
        return Entity(name)

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        self.run("MATCH (n) DETACH DELETE n")
        for row in self.run("SHOW CONSTRAINTS"):
            self.run(f"DROP CONSTRAINT {row['name']}")

    def run(self, statement):
        with neo4j.GraphDatabase.driver(self.url, auth=self.auth) as driver, driver.session() as session:
            return session.run(statement).data()


class Neo4jServer(GraphHarness):
    name = "neo4j"
    server = "neo4j_server"

    def __init__(self, server):
        self.url = server.url


class ArcadeDB(GraphHarness):
    """It refuses taken values when it commits, so the adapter looks them up: that is no error of a driver."""

    name = "arcadedb"
    unique = False
    driver = False
    auth = (arcadedb_peer.USER, arcadedb_peer.PASSWORD)

    def __init__(self):
        self.url = arcadedb_peer.start().url


HARNESSES = [Neo4jServer, ArcadeDB]
