"""An in-process store: a database, a graph or a vector store, with or without transactions."""

from warehouse_adapters.memory.adapter import MemoryAdapter

__all__ = ["MemoryAdapter"]
