"""What prepared transactions of ours are called in the databases. Both name them for the server as a whole."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Self

from warehouse.adapter import PreparedId

# What marks an XA identifier as ours: any number does, and this one spells WH.
_FORMAT: Final = 0x5748
_LONG: Final = "([0-9a-f]{32})"
_SHORT: Final = "([0-9a-f]{16})"
_GID: Final = re.compile(f"warehouse_{_SHORT}_{_LONG}_{_LONG}_{_SHORT}")
_XID: Final = re.compile(f"{_LONG}{_LONG}{_SHORT}{_SHORT}")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A `PreparedId`, and the `branch` that tells this database from the others of its server."""

    id: PreparedId
    branch: str

    @classmethod
    def of(cls, prepared: PreparedId, identity: str) -> Self:
        """In the database of this identity. ValueError for an id that is none of ours."""
        out = cls(prepared, branch_of(identity))
        if not _GID.fullmatch(out.gid):
            raise ValueError(f"{prepared} cannot be prepared")
        return out

    @property
    def gid(self) -> str:
        """As PostgreSQL knows it, which takes 200 characters."""
        return f"warehouse_{self.id.journal}_{self.id.owner}_{self.id.transaction_id}_{self.branch}"

    @property
    def xid(self) -> str:
        """As XA statements take it: two parts of at most 64 bytes, and the format."""
        return f"'{self.id.owner}{self.id.transaction_id}', '{self.id.journal}{self.branch}', {_FORMAT}"


def from_gid(gid: str) -> PreparedId | None:
    """What PostgreSQL lists; None for what is not ours."""
    found = _GID.fullmatch(gid)
    return None if found is None else PreparedId(found[1], found[2], found[3])


def from_xid(form: int, data: str | bytes, identity: str) -> PreparedId | None:
    """What XA RECOVER lists, of all databases; None for what is not ours, or another database's."""
    text = data.decode("latin-1") if isinstance(data, bytes) else data
    found = _XID.fullmatch(text) if form == _FORMAT else None
    if found is None or found[4] != branch_of(identity):
        return None
    return PreparedId(found[3], found[1], found[2])


def branch_of(identity: str) -> str:
    """16 digits for a database."""
    return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
