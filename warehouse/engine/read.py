"""Reads, checked like steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warehouse import conditions
from warehouse.adapter import Query
from warehouse.engine.checks import check_known, check_operators, check_type, knows
from warehouse.engine.plan import no_reference
from warehouse.engine.references import substitute
from warehouse.errors import InvalidOperation, WarehouseError
from warehouse.operations import Source
from warehouse.registry import Participant, Registry


async def plan_query(
    source: Source, query: Mapping[str, Any], registry: Registry
) -> tuple[Participant, Query]:
    """A read, checked like a step. `query` has the fields of `Query`, with `where` and `fields` as written."""
    participant = registry.get(source.tag)
    try:
        check_type(source, participant)
        participant = await registry.connected(source.tag)
        capabilities = participant.adapter.capabilities
        where = conditions.parse(query["where"])
        where = conditions.bind(where, lambda value: substitute(value, no_reference))
        check_operators(where, (), capabilities)
        if query["near"] is not None and participant.adapter.type != "vector":
            raise InvalidOperation(f"{capabilities.store} has no vectors to be near to", field="near")
        order_by = tuple(query["order_by"] or ())
        named = {
            *conditions.paths(where),
            *(query["fields"] or ()),
            *(name.removeprefix("-") for name in order_by),
        }
        info = await participant.adapter.describe(source.target)
        if not knows(info, named):
            info = await participant.adapter.describe(source.target, fresh=True)
            check_known(info, named)
    except WarehouseError as error:
        error.locate(tag=source.tag, entity=source.target.name)
        raise
    return participant, Query(
        info=info,
        where=where,
        order_by=order_by,
        limit=query["limit"],
        offset=query["offset"] or 0,
        near=query["near"],
        lock=query["lock"],
    )
