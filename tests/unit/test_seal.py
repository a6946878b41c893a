"""How the journal keeps images: compressed, encrypted, opened by any of its keys and by no other."""

import sqlite3
from contextlib import closing

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from integration.memory_world import World, insert, update
from warehouse import AsyncWarehouse, ConfigError, JournalUnavailable
from warehouse.config import JournalSettings
from warehouse.journal import open_journal
from warehouse.journal.seal import Seal

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))
LONG = b"image " * 1_000


@pytest.mark.parametrize("keys", [None, OLD, f"{NEW}, {OLD}"])
@pytest.mark.parametrize("plain", [b"", b"\x80", b"short", LONG, bytes(range(256)) * 4])
def test_what_is_closed_opens_again(keys, plain):
    seal = Seal(keys)
    kept = seal.close(plain)
    assert seal.open(kept) == plain
    assert len(kept) < 200 or plain != LONG
    assert not (keys and len(plain) > 4 and plain in kept)


def test_a_key_is_replaced_by_putting_the_new_one_before_it():
    kept = Seal(OLD).close(LONG)
    assert Seal(f"{NEW} {OLD}").open(kept) == LONG
    assert Seal(NEW).open(Seal(f"{NEW} {OLD}").close(LONG)) == LONG
    for wrong in (NEW, None):
        with pytest.raises(JournalUnavailable):
            Seal(wrong).open(kept)


def test_what_was_kept_without_a_key_stays_readable():
    assert Seal(OLD).open(Seal().close(LONG)) == LONG


def test_what_was_tampered_with_does_not_open():
    kept = bytearray(Seal(OLD).close(LONG))
    kept[40] ^= 1
    with pytest.raises(JournalUnavailable, match="another key"):
        Seal(OLD).open(bytes(kept))


def test_a_mistaken_key_is_told_without_showing_it():
    with pytest.raises(ConfigError, match="no Fernet key") as caught:
        AsyncWarehouse(journal={"url": "sqlite:///x.db", "key": "hunter2"})
    assert "hunter2" not in str(caught.value)


def settings(path, key):
    return JournalSettings(url=f"sqlite:///{path}/journal.db", key=None if key is None else SecretStr(key))


@pytest.mark.anyio
@pytest.mark.parametrize("key", [None, OTHER])
async def test_a_journal_opens_with_its_key_only(tmp_path, key):
    journal = open_journal(settings(tmp_path, OLD))
    await journal.open()
    await journal.close()
    with pytest.raises(ConfigError, match="encrypted") as caught:
        await open_journal(settings(tmp_path, key)).open()
    assert caught.value.field == "journal.key"
    journal = open_journal(settings(tmp_path, f"{NEW} {OLD}"))
    await journal.open()
    await journal.close()
    journal = open_journal(settings(tmp_path, NEW))  # the proof was renewed
    await journal.open()
    await journal.close()


@pytest.mark.anyio
async def test_no_value_can_be_read_in_the_file_and_everything_works(tmp_path):
    def world(key):
        made = World(journal=f"sqlite:///{tmp_path}/journal.db")
        made.warehouse._journal.inner = made.journal = open_journal(settings(tmp_path, key))
        return made

    async with world(OLD) as one:
        done = await one.run(insert("a", {"id": 1, "name": "Grace Hopper"}), insert("p", {"id": 1}))
        failed = await one.run(
            insert("a", {"id": 2, "name": "Grace Hopper"}), insert("p", {"id": 1}), pattern="saga"
        )
        assert (done.status, failed.status) == ("completed", "compensated")
        stores = one.stores
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert b"Hopper" not in content
        assert b"Grace" not in content
    async with world(f"{NEW} {OLD}") as two:
        for tag, store in stores.items():
            two.stores[tag]._store.space.tables = store._store.space.tables
            two.stores[tag]._store.space.identity = store._store.space.identity
        (change,) = (await two.warehouse.show(done.transaction_id)).steps[0].changes
        assert change.after == {"id": 1, "name": "Grace Hopper"}
        assert (await two.run(update("a", 1, {"name": "Ada"}))).ok
        history = await two.warehouse.history({"tag": "a", "entity": "things"}, {"id": 1})
        assert [item.after["name"] for item in history] == ["Ada", "Grace Hopper"]
    with closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        bodies = [body for (body,) in connection.execute("SELECT body FROM warehouse_steps")]
    assert {body[:1] for body in bodies} == {b"\x02"}
