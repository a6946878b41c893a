"""MongoDB, by PyMongo's asynchronous client."""

from warehouse_adapters.mongo.adapter import MongoAdapter, MongoSettings

__all__ = ["MongoAdapter", "MongoSettings"]
