"""What a column would not keep exactly, by its declared type: it is refused before it is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import types
from sqlalchemy.dialects import mysql, postgresql

# Why a value cannot be kept, or None.
Limit: TypeAlias = Callable[[Any], str | None]
_MYSQL_BITS: Final[tuple[tuple[type, int], ...]] = (
    (mysql.TINYINT, 8),
    (mysql.SMALLINT, 16),
    (mysql.MEDIUMINT, 24),
    (mysql.BIGINT, 64),
    (mysql.INTEGER, 32),
)
_BITS: Final[tuple[tuple[type, int], ...]] = (
    *_MYSQL_BITS,
    (types.SmallInteger, 16),
    (types.BigInteger, 64),
    (types.Integer, 32),
)
_SECOND: Final = 1_000_000


def limit_of(declared: Any, dialect: str) -> Limit | None:
    """The limit of a reflected type; None where it keeps whatever its kind takes."""
    if isinstance(declared, postgresql.DOMAIN):
        declared = declared.data_type
    if dialect == "SQLite":
        return _sqlite(declared)
    match declared:
        case types.ARRAY():
            element = limit_of(declared.item_type, dialect)
            return None if element is None else lambda value: _leaves(value, element)
        case types.JSON():
            return lambda value: _json(value, dialect)
        case types.Enum():
            return _enum(frozenset(declared.enums))
        case types.Uuid():
            return _uuid
        case types.Integer():
            return _integer(declared)
        case types.Numeric() if not isinstance(declared, types.Float):
            return _decimal(declared.precision, declared.scale)
        case types.DateTime() | types.Time():
            return _moment(declared, dialect)
        case types.String() if not isinstance(declared, mysql.SET):
            return TextLimit(declared.length, dialect)
    return None


def _leaves(value: Any, limit: Limit) -> str | None:
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := _leaves(item, limit)) is not None), None)
    return None if value is None else limit(value)


def _integer(declared: Any) -> Limit | None:
    bits = next((bits for kind, bits in _BITS if isinstance(declared, kind)), None)
    if bits is None:
        return None
    unsigned = bool(getattr(declared, "unsigned", False))
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return IntegerLimit(low, high)


@dataclass(frozen=True)
class IntegerLimit:
    """Numbers from `low` to `high`."""

    low: int
    high: int

    def __call__(self, value: Any) -> str | None:
        if isinstance(value, int | float | Decimal) and not self.low <= value <= self.high:
            return f"the column takes integers from {self.low} to {self.high}"
        return None

    def takes_all(self, values: Sequence[int]) -> bool:
        """Whether it takes all of these, looked at together."""
        return self.low <= min(values) and max(values) <= self.high


def within(limit: Limit, kinds: AbstractSet[type], values: Sequence[Any]) -> bool:
    """Whether a limit that can look at many together takes these, of the types `kinds`; nulls are no matter."""
    if not isinstance(limit, IntegerLimit | TextLimit):
        return False
    some = [value for value in values if value is not None] if NoneType in kinds else values
    return not some or limit.takes_all(some)


def _decimal(precision: int | None, scale: int | None) -> Limit | None:
    if precision is None:
        return None
    places = scale or 0

    def check(value: Any) -> str | None:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        if number.is_nan() or number == 0:
            return None
        if number.is_infinite() or number.adjusted() >= precision - places:
            return f"the column takes {precision - places} digits before the decimal point"
        if _places(number) > places:
            return f"the column keeps {places} decimal places, and would round it"
        return None

    return check


def _places(number: Decimal) -> int:
    """The decimal places that a finite number needs."""
    _, digits, exponent = number.as_tuple()
    zeros = next((count for count, digit in enumerate(reversed(digits)) if digit), 0)
    return -(int(exponent) + zeros)


@dataclass(frozen=True)
class TextLimit:
    """Text that the store can keep: of so many characters, and in PostgreSQL without NUL."""

    length: int | None
    dialect: str

    def __call__(self, value: Any) -> str | None:
        if not isinstance(value, str):
            return None
        if self.dialect == "PostgreSQL" and "\0" in value:
            return "text has no NUL there"
        if not value.isascii() and _is_broken(value):
            return "it has a lone surrogate"
        if self.length is not None and len(value) > self.length:
            return f"the column takes {self.length} characters, and these are {len(value)}"
        return None

    def takes_all(self, values: Sequence[str]) -> bool:
        """Whether it takes all of these, looked at together; False means only that each must be looked at."""
        together = "".join(values)
        if not together.isascii() or "\0" in together:
            return False
        return self.length is None or max(map(len, values)) <= self.length


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _enum(members: frozenset[str]) -> Limit:
    known = ", ".join(sorted(repr(member) for member in members))
    return lambda value: None if value in members or not isinstance(value, str) else f"it is none of {known}"


def _uuid(value: Any) -> str | None:
    if isinstance(value, str):
        try:
            UUID(value)
        except ValueError:
            return "it is no UUID"
    return None


def _moment(declared: Any, dialect: str) -> Limit:
    zoned = bool(getattr(declared, "timezone", False))
    step = _step(declared, dialect)
    is_time = isinstance(declared, types.Time)

    def check(value: Any) -> str | None:
        if isinstance(value, datetime | time):
            if zoned and value.tzinfo is None:
                return "it has no time zone, and the column has one"
            if is_time and not zoned and value.tzinfo is not None:
                return "it has a time zone, and the column would drop it"
        if isinstance(value, datetime | time) and value.microsecond % step:
            return "the column keeps fewer digits of a second"
        if isinstance(value, timedelta) and value.microseconds % step:
            return "the column keeps fewer digits of a second"
        return None

    return check


def _step(declared: Any, dialect: str) -> int:
    """The microseconds that a column can tell apart."""
    digits = getattr(declared, "fsp", None) if dialect == "MariaDB" else getattr(declared, "precision", None)
    if digits is None:
        return 1 if dialect == "PostgreSQL" else _SECOND
    return int(10 ** (6 - digits))


def _json(value: Any, dialect: str) -> str | None:
    """JSON names are text; PostgreSQL takes no NUL in it."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                return f"a name in JSON is text, and {name!r} is none"
        return _json(list(value), dialect) or _json(list(value.values()), dialect)
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := _json(item, dialect)) is not None), None)
    if isinstance(value, str):
        return TextLimit(None, dialect)(value)
    return None


def _sqlite_json(value: Any) -> str | None:
    """SQLite makes a number of a text that is one, and a double of a large one."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "SQLite would make a double of it"
    return _json(value, "SQLite")


def _sqlite(declared: Any) -> Limit | None:
    """A column declared as a number keeps a decimal as the double nearest to it."""
    if isinstance(declared, types.JSON):
        return _sqlite_json
    if not isinstance(declared, types.Numeric | types.Integer):
        return TextLimit(None, "SQLite")

    def check(value: Any) -> str | None:
        if not isinstance(value, Decimal):
            return TextLimit(None, "SQLite")(value)
        if value.is_finite() and Decimal(repr(float(value))) != value:
            return "the column keeps it as a double, with 15 to 17 digits"
        return None

    return check
