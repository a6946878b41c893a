"""The adapter of Neo4j and of ArcadeDB: nodes and relationships, in the store's own transactions."""

from warehouse.errors import ConfigError

try:
    import neo4j  # noqa: F401 - only to say what is missing
except ImportError as missing:
    raise ConfigError(
        "the driver of Neo4j is not installed", hint="pip install 'warehouse[neo4j]'"
    ) from missing

from warehouse_adapters.neo4j.adapter import Neo4jAdapter, Neo4jSettings

__all__ = ["Neo4jAdapter", "Neo4jSettings"]
