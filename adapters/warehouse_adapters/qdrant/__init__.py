"""Qdrant: a server by REST or gRPC, or the client's local mode."""

from __future__ import annotations

from warehouse.errors import ConfigError

try:
    from warehouse_adapters.qdrant.adapter import QdrantAdapter, QdrantSettings
except ImportError as error:
    if (error.name or "").partition(".")[0] not in {"qdrant_client", "grpc", "httpx"}:
        raise
    raise ConfigError(
        "the driver of the qdrant adapter is not installed", hint="pip install 'warehouse[qdrant]'"
    ) from error

__all__ = ["QdrantAdapter", "QdrantSettings"]
