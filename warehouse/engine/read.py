"""Reads, checked like steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from warehouse import conditions, conversions
from warehouse.adapter import Query
from warehouse.engine.checks import check_known, check_operators, check_type, knows
from warehouse.engine.plan import no_reference
from warehouse.engine.references import substitute
from warehouse.errors import InvalidOperation, WarehouseError, did_you_mean
from warehouse.operations import Source
from warehouse.registry import Participant, Registry

_NEAR: Final = ("vector", "using", "limit")


async def plan_query(
    source: Source, query: Mapping[str, Any], registry: Registry
) -> tuple[Participant, Query]:
    """A read, checked like a step. `query` has the fields of `Query`, with `where` and `fields` as written."""
    participant = registry.get(source.tag)
    try:
        _check_shape(query)
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
        where = conversions.convert_condition(where, info.config.convert)
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


def _check_shape(query: Mapping[str, Any]) -> None:
    """Refuse values of the wrong kind before they are read as something else."""
    for name in ("fields", "order_by"):
        given = query[name]
        texts = not isinstance(given, str) and all(isinstance(item, str) for item in given or ())
        if not texts or any(not item.removeprefix("-") for item in given or ()):
            raise InvalidOperation(f"{name} is a list of field names, not {given!r}", field=name)
    for name in ("limit", "offset"):
        if not _is_count(query[name], 0):
            raise InvalidOperation(f"{name} is a count from 0, not {query[name]!r}", field=name)
    if query["near"] is not None:
        _check_near(query["near"], query)


def _is_count(value: Any, least: int) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least)


def _check_near(near: Any, query: Mapping[str, Any]) -> None:
    if not isinstance(near, Mapping) or "vector" not in near:
        raise InvalidOperation('it takes {"vector": ..., "using": ..., "limit": ...}', field="near")
    for name in near:
        if name not in _NEAR:
            raise InvalidOperation(f"unknown key {name!r}", field="near", hint=did_you_mean(str(name), _NEAR))
    if not _is_count(near.get("limit"), 1):
        raise InvalidOperation(f"limit is a count from 1, not {near['limit']!r}", field="near")
    for name in ("order_by", "limit", "offset"):
        if query[name] is not None:
            raise InvalidOperation(f"near brings its own order and limit: leave out {name}", field="near")
