"""The engine: plans a transaction, runs it by its pattern, and decides everything that adapters do not."""
