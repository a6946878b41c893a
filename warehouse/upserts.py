"""Which records an upsert finds in the place of its own: those with the same conflict keys."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from warehouse import conditions
from warehouse.conditions import And, Compare, Condition, Or
from warehouse.errors import ConstraintViolated
from warehouse.records import ABSENT, Absent, Image, Record, get


class Present:
    """Records by the values of `paths`, in the equality of conditions; a null among them equals nothing.

    `place` tells a record by its key.
    """

    def __init__(self, paths: Sequence[str], place: Callable[[Record], Hashable]) -> None:
        self._paths = paths
        self._place = place
        self._found: dict[Hashable, dict[Hashable, Record]] = {}

    def values(self, record: Record) -> tuple[Any, ...] | None:
        """The values of the paths; None where one is null."""
        values = tuple(get(record, path) for path in self._paths)
        return None if any(value is None or value is ABSENT for value in values) else values

    def like(self, record: Record) -> Record | None:
        """The record with the same values. Raises ConstraintViolated where there are several."""
        values = self.values(record)
        if values is None:
            return None
        found = [
            other
            for other in self._found.get(conditions.bucket(values), {}).values()
            if conditions.equal(self.values(other), values)
        ]
        if len(found) > 1:
            raise ConstraintViolated(f"several records match the conflict_keys {list(self._paths)}")
        return found[0] if found else None

    def replace(self, before: Image, after: Image) -> None:
        """A record has become another; either may be ABSENT."""
        for image, is_there in ((before, False), (after, True)):
            values = None if isinstance(image, Absent) else self.values(image)
            if isinstance(image, Absent) or values is None:
                continue
            group = self._found.setdefault(conditions.bucket(values), {})
            place = self._place(image)
            if is_there:
                group[place] = image
            else:
                group.pop(place, None)


def any_of(paths: Sequence[str], wanted: Sequence[tuple[Any, ...]]) -> Condition:
    """The condition that the values of `paths` are one of these combinations."""
    if len(paths) == 1:
        return Compare(paths[0], "$in", [values[0] for values in wanted])
    return Or(
        tuple(
            And(tuple(Compare(path, "$eq", value) for path, value in zip(paths, values, strict=True)))
            for values in wanted
        )
    )
