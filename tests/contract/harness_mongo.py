from uuid import uuid4

import bson
import pymongo
from bson import Int64
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo.monitoring import CommandListener

from contract import types_mongo
from servers.mongo_peer import MongoPeer
from warehouse.records import Entity
from warehouse.testing.harness import Harness
from warehouse_adapters.mongo import MongoAdapter


def _plain(value):
    """`value` with plain integers: long ones have a type of their own."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return int(value) if isinstance(value, Int64) else value


RAW = CodecOptions(document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_MS)


def _raw_fields(document):
    """The fields of a raw document, each encoded alone."""
    return [(name, bson.encode({name: value})) for name, value in bson.decode(document, RAW).items()]


class Sent(CommandListener):
    """The commands that the driver has sent."""

    def __init__(self):
        self.commands = []

    def started(self, event):
        self.commands.append(event.command_name)

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


class MongoHarness(Harness):
    creates = True
    paths = {"id": "_id"}  # noqa: RUF012
    types = types_mongo.MONGO
    url: str

    async def make(self):
        self.sent = Sent()
        options = {"event_listeners": [self.sent]}
        return MongoAdapter(
            MongoAdapter.Settings(adapter="mongo", url=self.url, database="contract", options=options)
        )

    def statements(self):
        return len(self.sent.commands)

    async def __aenter__(self):
        await super().__aenter__()
        if not self.adapter.capabilities.holds:
            self.unique = False  # mongo-java-server counts nulls as equal
            self.many = 2_000  # and looks at all documents for each guarded write
            self.types = tuple(
                kind for kind in self.types if kind.stored not in types_mongo.JAVA_SERVER_LACKS
            )
        return self

    async def entity(self):
        name = f"things_{uuid4().hex}"
        if self.unique:
            filled = {"email": {"$type": "string"}}
            with pymongo.MongoClient(self.url) as client:
                things = client["contract"][name]
                things.create_index("email", unique=True, partialFilterExpression=filled)
        return Entity(name)

    async def rendered(self, entity, number):
        """Each field as the bytes that the server sends."""
        with pymongo.MongoClient(self.url) as client:
            things = client["contract"].get_collection(entity.name, codec_options=RAW)
            found = things.find_one({"_id": {"$eq": number}})
        return None if found is None else sorted(_raw_fields(found.raw))

    def value(self, field, value):
        return _plain(value)


class MongoServer(MongoHarness):
    """What the server is: a replica set where a URL or a container gives one, else mongo-java-server."""

    name = "mongo"
    server = "mongo"

    def __init__(self, server):
        self.url = server.url

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        with pymongo.MongoClient(self.url) as client:
            client.drop_database("contract")


class MongoTransactions(MongoHarness):
    name = "mongo-peer"

    def __init__(self):
        self.peer = MongoPeer()
        self.url = self.peer.start()

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        self.peer.stop()


HARNESSES = [MongoServer, MongoTransactions]
