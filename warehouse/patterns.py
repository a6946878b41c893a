"""Patterns of text: `$like`, `$ilike` and the `$regex` that all stores share."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from warehouse.errors import InvalidOperation

_REGEX_TOKEN: Final = re.compile(
    r"\\[.\[\]*+?{}|()^$\\/-]|\[\^?\]?(?:\\[\]\[^\\-]|[^\]\[\\])*\]|\{\d+(?:,\d*)?\}|\(|.", re.DOTALL
)


def check_regex(path: str, pattern: str) -> None:
    """Refuse what the stores' regular expressions do not share (see DESIGN 3.1)."""
    position, previous = 0, ""
    for match in _REGEX_TOKEN.finditer(pattern):
        part = match.group()
        if _is_foreign(part, previous):
            raise InvalidOperation(
                f"{pattern[position:]!r} in a $regex is not understood alike by all stores",
                field=path,
                hint="literals and . [] * + ? {} | () ^ $ may be used",
            )
        position, previous = match.end(), part[0]
    try:
        re.compile(pattern)
    except re.error as error:
        raise InvalidOperation(f"$regex {pattern!r} is malformed: {error}", field=path) from None


def _is_foreign(part: str, previous: str) -> bool:
    """A shorthand or another escape, a brace or bracket alone, a set operation, a lazy or special group."""
    if part in {"\\", "[", "{"}:
        return True
    if part[0] == "[":
        return any(operation in part for operation in ("&&", "--", "||", "~~"))
    return part in {"*", "+", "?"} and previous in {"(", "*", "+", "?", "{"}


def _like_regex(pattern: str) -> str:
    """The regular expression of a LIKE pattern (`%`, `_`, and backslash to escape them), to match in full."""
    out, characters = [], iter(pattern)
    for character in characters:
        if character == "\\":
            out.append(re.escape(next(characters, "\\")))
        else:
            out.append({"%": ".*", "_": "."}.get(character) or re.escape(character))
    return "".join(out)


def fold(text: str) -> str:
    """`text` with its ASCII capitals made small."""
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in text)


def anchored(pattern: str, end: str) -> str:
    """A checked `$regex` with `end` for its `$`, which in many languages also matches before a last newline."""
    parts = (match.group() for match in _REGEX_TOKEN.finditer(pattern))
    return "".join(end if part == "$" else part for part in parts)


@lru_cache(maxsize=256)
def regex(pattern: str) -> re.Pattern[str]:
    """A checked `$regex` for Python."""
    return re.compile(anchored(pattern, r"\Z"), re.DOTALL)


def like(found: str, pattern: str) -> bool:
    """Whether all of `found` is as a LIKE pattern says."""
    return re.fullmatch(_like_regex(pattern), found, re.DOTALL) is not None
