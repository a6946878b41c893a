"""How the journal keeps images: compressed, and encrypted where it has a key.

Encryption is Fernet's (AES in CBC mode, authenticated by HMAC-SHA256): of several keys the first encrypts, and each
may decrypt, so that a key is replaced by putting the new one before it.
"""

from __future__ import annotations

import base64
import re
import zlib
from typing import TYPE_CHECKING, Final

from warehouse.errors import ConfigError, JournalUnavailable

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

# The first byte says what was done; what begins with none of these (CBOR never does here) is as it was given.
_COMPRESSED: Final = b"\x01"
_ENCRYPTED: Final = b"\x02"
# Less than so many bytes are not worth compressing.
_WORTH: Final = 512
_FAST: Final = 1
PROOF: Final = b"warehouse"


class Seal:
    """Closes and opens what is kept."""

    def __init__(self, keys: str | None = None) -> None:
        """Take Fernet keys, the newest first, with spaces or commas between. ConfigError names what is wrong."""
        self._fernet = _fernet([key for key in re.split(r"[\s,]+", keys or "") if key])

    @property
    def encrypts(self) -> bool:
        return self._fernet is not None

    def close(self, plain: bytes) -> bytes:
        """`plain` as it is kept."""
        if len(plain) >= _WORTH:
            small = zlib.compress(plain, _FAST)
            plain = _COMPRESSED + small if len(small) < len(plain) else plain
        if self._fernet is None:
            return plain
        return _ENCRYPTED + base64.urlsafe_b64decode(self._fernet.encrypt(plain))

    def open(self, kept: bytes) -> bytes:
        """What `close` was given. Raises JournalUnavailable where no key opens it, or it is damaged."""
        if kept[:1] == _ENCRYPTED:
            kept = self._decrypt(kept[1:])
        try:
            return zlib.decompress(kept[1:]) if kept[:1] == _COMPRESSED else kept
        except zlib.error as error:
            raise JournalUnavailable(f"what the journal has is damaged: {error}") from error

    def _decrypt(self, kept: bytes) -> bytes:
        if self._fernet is None:
            raise JournalUnavailable("the journal is encrypted, and journal.key is not set")
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(base64.urlsafe_b64encode(kept))
        except InvalidToken:
            raise JournalUnavailable("what the journal has was encrypted with another key") from None

    def check(self, proof: bytes | None) -> None:
        """Raise ConfigError where the journal was closed with another key than this one."""
        try:
            right = proof is None or self.open(proof) == PROOF
        except JournalUnavailable as error:
            raise ConfigError(
                error.message,
                field="journal.key",
                hint="put the key that it was encrypted with after the new one",
            ) from None
        if not right:
            raise ConfigError("the proof of the journal's key is none", field="journal.key")


def _fernet(keys: list[str]) -> MultiFernet | None:
    if not keys:
        return None
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise ConfigError(
            "journal.key needs a library that is not installed: cryptography",
            hint="pip install 'warehouse[encryption]'",
        ) from error
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        raise ConfigError(
            "journal.key is no Fernet key: 32 bytes as URL-safe base64",
            hint="`warehouse key` makes one",
        ) from None
