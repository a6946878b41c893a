"""One contract over all journals; and of the files: who may read them, who may write, and what if nobody can."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

import pytest
import redis
import sqlalchemy as sa

import servers
from integration.memory_world import World, insert
from servers.places import database, emptied, schema_of
from warehouse import ConfigError, JournalUnavailable, OutcomeUnknown
from warehouse.config import JournalSettings
from warehouse.journal import Entry, EntryStep, open_journal, schema, tables
from warehouse.journal.base import Claim, RecordLocked, ReplyLost, Superseded, lock, locks
from warehouse.journal.codec import encode
from warehouse.journal.prepared import Prepared
from warehouse.records import ABSENT, Change, Effect, Entity

pytestmark = pytest.mark.anyio
THINGS = Entity("things")


def made(key, before=ABSENT, after=None, **more):
    after = {"id": key, "n": Decimal("1.50")} if after is None else after
    image = before if after is ABSENT else after
    return Change(
        entity=THINGS, key={"id": key}, before=before, after=after, written=frozenset(image), **more
    )


def step(*keys, index=0, store="store"):
    changes = tuple(made(key) for key in keys)
    return EntryStep(index=index, name=f"step_{index}", tag="a", store=store, changes=changes)


def entry(*steps, state="committing", **more):
    return Entry(transaction_id=uuid4().hex, name=None, pattern="staged", state=state, steps=steps, **more)


@pytest.fixture(params=["memory", "sqlite", "postgres", "mariadb", "redis"])
def url(request, tmp_path):
    if request.param == "memory":
        yield "memory://"
    elif request.param == "sqlite":
        servers.used("SQLite", sqlite3.sqlite_version, "embedded")
        yield f"sqlite:///{tmp_path}/journal.db"
    elif request.param == "redis":
        with emptied(request.getfixturevalue("redis_server")) as fresh:
            yield fresh
    elif request.param == "mariadb":
        with schema_of(request.getfixturevalue("mariadb")) as fresh:
            yield fresh
    else:
        with database(request.getfixturevalue("postgres")) as fresh:
            yield fresh


@pytest.fixture
async def journal(url):
    journal = open_journal(JournalSettings(url=url))
    await journal.open()
    yield journal
    await journal.close()


# The contract


async def test_a_transaction_from_beginning_to_end(journal):
    assert await journal.sequence() == 0
    one = entry(step(1, 2), step(3, index=1), tokens={"store": "42"}, detail={"x": [1, None]})
    assert await journal.locked(one.locks()) is None
    await journal.decide(one, 0)
    taken = await journal.locked(one.locks())
    assert isinstance(taken, RecordLocked)
    assert one.transaction_id in taken.message
    assert await journal.locked([lock("store", THINGS, {"id": 4})]) is None
    assert await journal.locked([]) is None
    assert await journal.entries() == [one]
    await journal.change_state(one.claim, "compensating", {"y": 1})
    (now,) = await journal.entries(["compensating"])
    assert (now.state, now.detail, now.steps) == ("compensating", {"x": [1, None], "y": 1}, one.steps)
    assert await journal.locked(one.locks()) is not None
    await journal.finish(one.claim, "failed", {"z": 2})
    assert await journal.locked(one.locks()) is None
    assert await journal.sequence() == 1
    (now,) = await journal.entries(["failed"])
    assert (now.detail, now.tokens) == ({"x": [1, None], "y": 1, "z": 2}, {"store": "42"})
    assert await journal.entries(["committing", "compensating"]) == []
    assert await journal.entries([]) == []


async def test_steps_come_back_as_they_were(journal):
    change = Change(
        entity=Entity("KNOWS", "relationship"),
        key={"id": uuid4(), "sub.id": 2},
        before={"a": [1.5, None, {"b": b"x"}], "big": 2**80},
        after={"a": (), "n": Decimal("NaN")},
        written=frozenset({"a", "n.x"}),
        guard=frozenset({"big"}),
        effects={"n": Effect("$increment", Decimal("-0.10"))},
        claims=({"email": "x@y"},),
        dependent=True,
    )
    kept = EntryStep(
        index=7, name="odd \u00e9", tag="t", store="s", changes=(change, made(1, {"id": 1}, ABSENT))
    )
    await journal.decide(entry(kept), 0)
    ((read,),) = [item.steps for item in await journal.entries()]
    assert (read.index, read.name, read.tag, read.store) == (7, "odd \u00e9", "t", "s")
    assert repr(read.changes) == repr(kept.changes)


async def test_oldest_first(journal):
    made = [entry(step(n), state="running") for n in range(4)]
    for item in made:
        await journal.decide(item, 0)
        await asyncio.sleep(0.001)
    assert [item.transaction_id for item in await journal.entries()] == [item.transaction_id for item in made]


async def test_a_lock_keeps_others_out_wholly(journal):
    one, other = entry(step(1, 2)), entry(step(3), step(2, index=1))
    await journal.decide(one, 0)
    with pytest.raises(RecordLocked) as caught:
        await journal.decide(other, 0)
    assert one.transaction_id in str(caught.value)
    assert caught.value.lock == lock("store", THINGS, {"id": 2})
    assert await journal.entries() == [one]
    assert await journal.locked([lock("store", THINGS, {"id": 3})]) is None
    await journal.decide(entry(step(1, 2, store="another")), 0)
    await journal.finish(one.claim, "completed", {})
    await journal.decide(other, await journal.sequence())


async def test_c08_who_read_before_another_finished_is_refused(journal):
    """Counterexample C8."""
    since = await journal.sequence()
    one = entry(step(1))
    await journal.decide(one, since)
    await journal.finish(one.claim, "compensated", {})
    late = entry(step(2), step(1, index=1))
    with pytest.raises(RecordLocked, match="which was faster") as caught:
        await journal.decide(late, since)
    assert caught.value.lock == lock("store", THINGS, {"id": 1})
    assert len(await journal.entries()) == 1
    await journal.decide(late, await journal.sequence())
    await journal.finish(late.claim, "completed", {})
    again = entry(step(1))
    with pytest.raises(RecordLocked):
        await journal.decide(again, since + 1)
    await journal.decide(again, since + 2)


async def test_several_complete_in_one_write(journal):
    ones = [entry(step(number)) for number in range(3)]
    for one in ones:
        await journal.decide(one, 0)
    taken = await journal.take_over(ones[2].claim, "another")
    await journal.complete([one.claim for one in ones] + [entry(step(9)).claim])
    assert {item.transaction_id: item.state for item in await journal.entries()} == {
        one.transaction_id: state
        for one, state in zip(ones, ["completed", "completed", "committing"], strict=True)
    }
    assert await journal.sequence() == 2
    assert await journal.locked(ones[0].locks() + ones[1].locks()) is None
    assert await journal.locked(ones[2].locks()) is not None
    await journal.complete([one.claim for one in ones])  # once more changes nothing
    assert await journal.sequence() == 2
    await journal.complete([taken])
    assert await journal.locked(ones[2].locks()) is None


async def test_a_decide_carries_ends(journal):
    """Its locks may be those of what ends, where that was seen; all of it is made, or nothing."""
    before, blocker = entry(step(1, 2)), entry(step(3))
    await journal.decide(before, 0)
    await journal.decide(blocker, 0)
    carried, seen = [before.claim], {before.transaction_id}
    with pytest.raises(RecordLocked):
        await journal.decide(entry(step(1, 3)), 0, carried=carried, seen=seen)
    assert await journal.sequence() == 0
    assert (await journal.locked(before.locks())).holder == before.transaction_id
    after = entry(step(1, 4))
    with pytest.raises(RecordLocked):  # it read before that had completed
        await journal.decide(after, 0, carried=carried)
    assert await journal.sequence() == 0
    await journal.decide(after, 0, carried=carried, seen=seen)
    assert await journal.sequence() == 1
    assert (await journal.entry(before.transaction_id)).state == "completed"
    locked = {n: await journal.locked([lock("store", THINGS, {"id": n})]) for n in (1, 2, 4)}
    assert {n: item and item.holder for n, item in locked.items()} == {
        1: after.transaction_id,
        2: None,
        4: after.transaction_id,
    }
    with pytest.raises(RecordLocked, match="which was faster"):  # whoever read before that is refused still
        await journal.decide(entry(step(2)), 0)


async def test_what_was_seen_is_no_reason_to_refuse(journal):
    seen, unseen = entry(step(1)), entry(step(2))
    for one in (seen, unseen):
        await journal.decide(one, 0)
        await journal.complete([one.claim])
    known = {seen.transaction_id}
    with pytest.raises(RecordLocked):
        await journal.decide(entry(step(1, 2)), 0, seen=known)
    one = entry(step(1))
    await journal.decide(one, 0, seen=known)
    with pytest.raises(RecordLocked):
        await journal.append(one.claim, [step(2, index=1)], 0, {}, seen=known)
    await journal.append(one.claim, [step(2, index=1)], 0, {}, seen={*known, unseen.transaction_id})


async def test_some_are_ignored_where_one_looks(journal):
    one = entry(step(1))
    await journal.decide(one, 0)
    mine = {one.transaction_id}
    assert await journal.unfinished("store", THINGS, mine) == []
    assert await journal.unfinished("store", THINGS, {"another"}) == list(one.steps[0].changes)


async def test_a_claimed_value_is_locked_too(journal):
    with_email = EntryStep(
        index=0,
        name="s",
        tag="a",
        store="store",
        changes=(made(1, claims=({"email": "x"}, {"a": 1, "b": 2})),),
    )
    assert len(with_email.locks()) == 3
    await journal.decide(entry(with_email), 0)
    for values in ({"email": "x"}, {"b": 2, "a": 1}):
        assert await journal.locked([lock("store", THINGS, values)]) is not None
    assert await journal.locked([lock("store", THINGS, {"email": "y"})]) is None


async def test_many_locks(journal):
    many = entry(step(*range(1500)))
    await journal.decide(many, 0)
    assert await journal.locked([lock("store", THINGS, {"id": n}) for n in range(1499, 4000)]) is not None
    with pytest.raises(RecordLocked):
        await journal.decide(entry(step(*range(1499, 3000))), 0)
    await journal.finish(many.claim, "completed", {})
    with pytest.raises(RecordLocked):
        await journal.decide(entry(step(*range(1499, 3000))), 0)
    await journal.decide(entry(step(*range(1499, 3000))), 1)


async def test_steps_are_added_and_replaced(journal):
    saga = entry(step(1), state="running", tokens={"a": "1"})
    await journal.decide(saga, 0)
    await journal.append(saga.claim, [step(2, index=1)], 0, {"b": "2"})
    await journal.append(saga.claim, [step(1, 3, index=1)], 0, {})
    (now,) = await journal.entries()
    assert now.steps == (step(1), step(1, 3, index=1))
    assert now.tokens == {"a": "1", "b": "2"}
    other = entry(step(9), state="running")
    await journal.decide(other, 0)
    with pytest.raises(RecordLocked):
        await journal.append(other.claim, [step(3, index=1)], 0, {})
    await journal.finish(saga.claim, "completed", {})
    with pytest.raises(RecordLocked):
        await journal.append(other.claim, [step(3, index=1)], 0, {})
    await journal.append(other.claim, [step(3, index=1)], await journal.sequence(), {})
    for n in range(1, 4):
        assert (await journal.locked([lock("store", THINGS, {"id": n})]) is not None) is (n == 3)


async def test_what_ended_or_never_was_takes_no_more_writes(journal):
    one = entry(step(1))
    await journal.decide(one, 0)
    await journal.finish(one.claim, "completed", {})
    for claim in (one.claim, Claim("nobody")):
        for write in (
            journal.append(claim, [step(2, index=1)], 9, {}),
            journal.change_state(claim, "compensating", {}),
            journal.finish(claim, "compensated", {}),
        ):
            with pytest.raises(JournalUnavailable, match="no open transaction"):
                await write
    with pytest.raises(JournalUnavailable):
        await journal.decide(one, 9)
    assert [item.state for item in await journal.entries()] == ["completed"]
    assert await journal.sequence() == 1


async def test_who_was_superseded_writes_nothing_more(journal):
    one = entry(step(1), state="running", owner="first")
    await journal.decide(one, 0)
    assert await journal.is_mine(one.claim)
    taken = await journal.take_over(one.claim, "second")
    assert taken == Claim(one.transaction_id, 2)
    assert await journal.take_over(one.claim, "third") is None
    assert not await journal.is_mine(one.claim)
    assert await journal.is_mine(taken)
    assert await journal.claims() == {taken: "second"}
    for write in (
        journal.append(one.claim, [step(2, index=1)], 9, {}),
        journal.change_state(one.claim, "compensating", {}),
        journal.finish(one.claim, "completed", {}),
    ):
        with pytest.raises(Superseded):
            await write
    found = await journal.entry(one.transaction_id)
    assert (found.owner, found.epoch, found.state, len(found.steps)) == ("second", 2, "running", 1)
    assert await journal.locked(one.locks()) is not None
    await journal.append(taken, [step(2, index=1)], 9, {})
    await journal.change_state(taken, "compensating", {})
    await journal.finish(taken, "compensated", {})
    assert await journal.take_over(taken, "third") is None
    assert await journal.claims() == {}
    assert not await journal.is_mine(taken)
    assert await journal.locked(one.locks()) is None


async def test_of_many_that_take_over_one_does(journal):
    one = entry(step(1))
    await journal.decide(one, 0)
    claims = await asyncio.gather(*(journal.take_over(one.claim, f"owner_{n}") for n in range(16)))
    assert [claim for claim in claims if claim is not None] == [Claim(one.transaction_id, 2)]


async def test_who_had_a_record_since(journal):
    before, mine, others, undone, away = (entry(step(1)) for _ in range(5))
    item = lock("store", THINGS, {"id": 1})
    for one, state in (
        (before, "completed"),
        (mine, "compensated"),
        (others, "completed"),
        (undone, "failed"),
    ):
        await journal.decide(one, await journal.sequence())
        assert await journal.since(item, one.transaction_id) == []
        await journal.finish(one.claim, state, {})
    await journal.decide(away, await journal.sequence())

    async def since(one, record=item):
        return {
            found.transaction_id: found.steps for found in await journal.since(record, one.transaction_id)
        }

    assert await since(mine) == {one.transaction_id: one.steps for one in (others, undone, away)}
    assert set(await since(undone)) == {away.transaction_id}
    assert await since(away) == {}
    assert await since(mine, lock("store", THINGS, {"id": 2})) == {}


async def test_one_entry(journal):
    one = entry(step(1), owner="me")
    before = time.time()
    assert await journal.entry(one.transaction_id) is None
    await journal.decide(one, 0)
    found = await journal.entry(one.transaction_id)
    assert (found, found.finished) == (one, None)
    assert abs(found.started - before) < 60
    await journal.finish(one.claim, "completed", {})
    assert abs((await journal.entry(one.transaction_id)).finished - before) < 60
    assert await journal.settle("never") is False
    assert await journal.entry("never") is None


async def test_heartbeats(journal):
    assert await journal.heartbeats() == {}
    await journal.beat("one", 15)
    await journal.beat("other", 0.5)
    first = await journal.heartbeats()
    assert {owner: beat.lease for owner, beat in first.items()} == {"one": 15, "other": 0.5}
    await journal.beat("one", 15)
    second = await journal.heartbeats()
    assert second["one"] != first["one"]
    assert second["other"] == first["other"]
    await journal.retire("one")
    await journal.retire("nobody")
    assert (await journal.heartbeats()).keys() == {"other"}


async def test_a_heartbeat_is_another_one_each_time_even_after_somebody_removed_it(journal):
    """Who has seen the one before must not take the owner, who came back, for as dead as it was."""
    seen = []
    for _ in range(3):
        await journal.beat("one", 15)
        seen.append((await journal.heartbeats())["one"])
        await journal.retire("one")
    assert len(set(seen)) == 3


async def test_who_lives_again_is_not_removed_for_having_been_dead(journal):
    await journal.beat("one", 0.5)
    await journal.beat("other", 0.5)
    seen = await journal.heartbeats()
    await journal.beat("one", 0.5)
    for owner, heartbeat in seen.items():
        await journal.retire(owner, heartbeat)
    await journal.retire("nobody", seen["one"])
    assert (await journal.heartbeats()).keys() == {"one"}


async def test_pruning_keeps_what_is_open_or_failed(journal):
    ended = {}
    for number, state in enumerate(("completed", "compensated", "failed")):
        ended[state] = entry(step(number))
        await journal.decide(ended[state], 9)
        await journal.finish(ended[state].claim, state, {})
    still = entry(step(9))
    await journal.decide(still, 9)
    long_ago, soon = time.time() - 1000, time.time() + 1000
    await journal.prune(finished=long_ago, images=long_ago)
    assert all(item.steps for item in await journal.entries())
    await journal.prune(finished=long_ago, images=soon)
    assert {item.state: len(item.steps) for item in await journal.entries()} == {
        "completed": 0,
        "compensated": 0,
        "failed": 1,
        "committing": 1,
    }
    await journal.prune(finished=soon, images=soon)
    assert {item.state for item in await journal.entries()} == {"failed", "committing"}
    assert await journal.locked(still.locks()) is not None
    assert (await journal.settle(still.transaction_id)) is True


async def test_a_tombstone_keeps_a_late_decide_out(journal):
    """Counterexample C2."""
    late = entry(step(1))
    assert await journal.settle(late.transaction_id) is False
    assert await journal.entries() == []
    with pytest.raises(JournalUnavailable):
        await journal.decide(late, 0)
    assert await journal.locked(late.locks()) is None
    early = entry(step(1))
    await journal.decide(early, 0)
    assert await journal.settle(early.transaction_id) is True
    await journal.finish(early.claim, "completed", {})


async def test_it_opens_again_with_everything(journal, url):
    one = entry(step(1))
    await journal.decide(one, 0)
    await journal.finish(one.claim, "completed", {})
    await journal.close()
    await journal.close()
    if url != "memory://":
        with pytest.raises(JournalUnavailable, match="is not open"):
            await journal.sequence()
    await journal.open()
    assert await journal.sequence() == 1
    assert [item.state for item in await journal.entries()] == ["completed"]


async def test_of_many_that_want_the_same_records_one_gets_them(journal):
    """In whatever order each names them."""
    wanted = [entry(step(*order)) for order in ([1, 2, 3], [3, 2, 1], [2, 1, 3], [3, 1, 2]) for _ in range(4)]
    ends = await asyncio.gather(*(journal.decide(item, 0) for item in wanted), return_exceptions=True)
    assert sum(end is None for end in ends) == 1
    assert all(end is None or isinstance(end, RecordLocked) for end in ends)
    assert len(await journal.entries()) == 1


async def test_of_many_that_want_many_records_in_another_order_one_gets_them(journal):
    """More than go into one statement: nobody may wait for somebody who waits for him."""
    keys = range(1300)
    wanted = [entry(step(*keys)) if number % 2 else entry(step(*reversed(keys))) for number in range(6)]
    ends = await asyncio.gather(*(journal.decide(item, 0) for item in wanted), return_exceptions=True)
    assert sum(end is None for end in ends) == 1
    assert all(end is None or isinstance(end, RecordLocked) for end in ends), ends


async def test_at_once_nothing_is_lost(journal):
    count = 0

    async def work(number):
        nonlocal count
        for _ in range(6):
            since = await journal.sequence()
            mine = entry(step(number % 3, 10 + number))
            try:
                await journal.decide(mine, since)
            except RecordLocked:
                await asyncio.sleep(0.002)
                continue
            await journal.change_state(mine.claim, "compensating", {})
            await journal.finish(mine.claim, "compensated", {})
            count += 1

    await asyncio.gather(*(work(number) for number in range(12)))
    assert await journal.sequence() == count == len(await journal.entries(["compensated"])) > 0
    assert await journal.locked([lock("store", THINGS, {"id": n}) for n in range(30)]) is None


@contextmanager
def before_statements(hook):
    """Have `hook(connection, text)` called before each statement that is prepared."""

    def text_of(self, connection):
        found = original(self, connection)
        hook(connection, found.text)
        return found

    original = Prepared._text
    Prepared._text = text_of
    try:
        yield
    finally:
        Prepared._text = original


async def test_a_record_that_came_and_went_during_a_decide_is_noticed(journal, url):
    """Counterexample C8, at its narrowest: between the look at the locks and the taking of them."""
    if not url.startswith("postgres"):
        return  # the writes of the others come one after the other
    since = await journal.sequence()
    seen = threading.Event()
    go = threading.Event()

    def pause(connection, statement):
        if (
            threading.current_thread().name == "slow"
            and "warehouse_locks" in statement
            and statement.startswith("INSERT")
        ):
            seen.set()
            go.wait(5)

    slow, fast = entry(step(1)), entry(step(1))
    ends = []

    def run():
        try:
            journal._write_there(tables.decide, (slow, since, (), (), {}))
            ends.append(None)
        except RecordLocked as error:
            ends.append(error)

    with before_statements(pause):
        thread = threading.Thread(target=run, name="slow")
        thread.start()
        assert await asyncio.to_thread(seen.wait, 5)
        await journal.decide(fast, since)
        await journal.finish(fast.claim, "completed", {})
        go.set()
        await asyncio.to_thread(thread.join)
    assert isinstance(ends[0], RecordLocked)


def test_locks_are_equal_exactly_for_equal_keys():
    same = lock("s", THINGS, {"a": 1, "b": "x"})
    assert same == lock("s", THINGS, {"b": "x", "a": 1})
    assert len(same) == 16
    others = [
        lock("other", THINGS, {"a": 1, "b": "x"}),
        lock("s", Entity("things", "relationship"), {"a": 1, "b": "x"}),
        lock("s", Entity("thing"), {"a": 1, "b": "x"}),
        lock("s", THINGS, {"a": "1", "b": "x"}),
        lock("s", THINGS, {"a": 1}),
    ]
    assert len({same, *others}) == 6
    assert list(locks("s", [made(1), made(1), made(2)]).values()) == [
        (THINGS, {"id": 1}),
        (THINGS, {"id": 2}),
    ]


# Files


def sqlite_url(path):
    return f"sqlite:///{path}"


async def test_only_the_owner_may_read_the_file(tmp_path):
    old = os.umask(0)
    try:
        async with World(journal=sqlite_url(tmp_path / "journal.db")) as world:
            await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(old)
    assert set(modes) >= {"journal.db"}
    assert set(modes.values()) == {0o600}


async def test_reading_takes_no_lock_and_waits_for_none(tmp_path):
    path = tmp_path / "journal.db"
    journal = open_journal(JournalSettings(url=sqlite_url(path)))
    await journal.open()
    writer = sqlite3.connect(path, isolation_level=None, timeout=0.2)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE warehouse_meta SET sequence = 7")
    started = time.monotonic()
    assert await journal.sequence() == 0
    assert await journal.locked([b"x" * 16]) is None
    assert await journal.entries() == []
    assert time.monotonic() - started < 0.5
    writer.execute("COMMIT")
    assert await journal.sequence() == 7
    one = entry(step(1))
    await journal.decide(one, 0)
    await journal.entries()
    writer.execute("BEGIN IMMEDIATE")  # a read that kept a lock would refuse this
    writer.execute("ROLLBACK")
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    writer.close()
    await journal.close()


async def test_it_is_durable_at_every_commit(tmp_path):
    journal = open_journal(JournalSettings(url=sqlite_url(tmp_path / "journal.db")))
    await journal.open()
    with journal._engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 10_000]
    await journal.close()


CHILD = textwrap.dedent(
    """
    import asyncio, sys
    from uuid import uuid4
    from warehouse.config import JournalSettings
    from warehouse.journal import Entry, EntryStep, open_journal, tables
    from warehouse.journal.base import RecordLocked
    from warehouse.records import ABSENT, Change, Entity

    async def main():
        journal = open_journal(JournalSettings(url=sys.argv[1]))
        await journal.open()
        made = 0
        for number in range(10):
            since = await journal.sequence()
            key = {"id": number % 3}
            change = Change(entity=Entity("e"), key=key, before=ABSENT, after=key, written=frozenset(["id"]))
            step = EntryStep(index=0, name="s", tag="t", store="s", changes=(change,))
            entry = Entry(transaction_id=uuid4().hex, name=None, pattern="staged", state="committing", steps=(step,))
            try:
                await journal.decide(entry, since)
            except RecordLocked:
                await asyncio.sleep(0.005)
                continue
            await journal.finish(entry.claim, "completed", {})
            made += 1
        await journal.close()
        print(made)

    asyncio.run(main())
    """
)


async def test_several_processes_at_once(url):
    if url == "memory://":
        return
    children = [asyncio.to_thread(run_child, CHILD, url) for _ in range(3)]
    ends = await asyncio.gather(*children)
    assert [end.returncode for end in ends] == [0, 0, 0], ends
    journal = open_journal(JournalSettings(url=url))
    await journal.open()
    assert (
        await journal.sequence()
        == sum(int(end.stdout) for end in ends)
        == len(await journal.entries(["completed"]))
    )
    await journal.close()


def run_child(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def not_a_database(folder):
    path = folder / "text.db"
    path.write_text("this is no database at all, " * 100)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nowhere" / "journal.db", "No such file or directory"),
        (lambda folder: folder, "Is a directory"),
        (not_a_database, "file is not a database"),
    ],
)
async def test_files_that_cannot_be_opened(tmp_path, make, said):
    path = make(tmp_path)
    world = World(journal=sqlite_url(path))
    for _ in range(2):
        with pytest.raises(JournalUnavailable) as caught:
            await world.run(insert("a", {"id": 1}))
        assert said in str(caught.value)
        assert str(path) in str(caught.value)
    assert not any(world.everything().values())
    assert not [call for call in world.faults.calls if not call.startswith("journal.")]


async def test_a_journal_of_another_layout(tmp_path):
    path = tmp_path / "journal.db"
    journal = open_journal(JournalSettings(url=sqlite_url(path)))
    await journal.open()
    await journal.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE warehouse_meta SET version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="layout 99"):
        await journal.open()


VERSION_1 = """
    CREATE TABLE warehouse_meta (id INTEGER PRIMARY KEY, version INTEGER NOT NULL, sequence BIGINT NOT NULL);
    CREATE TABLE warehouse_transactions (id VARCHAR(120) PRIMARY KEY, name TEXT, pattern VARCHAR(120) NOT NULL,
        state VARCHAR(120) NOT NULL, started DOUBLE PRECISION NOT NULL, finished DOUBLE PRECISION, sequence BIGINT,
        tokens {bytes} NOT NULL, detail {bytes} NOT NULL);
    CREATE TABLE warehouse_steps (transaction_id VARCHAR(120), position INTEGER, name VARCHAR(120) NOT NULL,
        tag TEXT NOT NULL, store TEXT NOT NULL, body {bytes} NOT NULL, PRIMARY KEY (transaction_id, position));
    CREATE TABLE warehouse_locks (record {bytes} PRIMARY KEY, transaction_id VARCHAR(120) NOT NULL);
    CREATE TABLE warehouse_finished (record {bytes} PRIMARY KEY, sequence BIGINT NOT NULL);
    INSERT INTO warehouse_meta VALUES (1, 1, 7)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_journal_of_the_first_layout_is_migrated_by_one_of_many(kind, tmp_path, request):
    with ExitStack() as stack:
        if kind == "sqlite":
            address, kind_of_bytes = sqlite_url(tmp_path / "journal.db"), "BLOB"
        else:
            address, kind_of_bytes = stack.enter_context(database(request.getfixturevalue(kind))), "BYTEA"
        engine = sa.create_engine(address)
        with engine.begin() as connection:
            for statement in VERSION_1.format(bytes=kind_of_bytes).split(";"):
                connection.exec_driver_sql(statement)
            values = {"pattern": "staged", "state": "completed", "started": 1.0, "tokens": encode({})}
            connection.execute(
                sa.text(
                    "INSERT INTO warehouse_transactions (id, pattern, state, started, tokens, detail)"
                    " VALUES ('old', :pattern, :state, :started, :tokens, :tokens)"
                ),
                values,
            )
        engine.dispose()
        journals = [open_journal(JournalSettings(url=address)) for _ in range(5)]
        await asyncio.gather(*(journal.open() for journal in journals))
        assert await journals[0].sequence() == 7
        (old,) = await journals[1].entries()
        assert (old.transaction_id, old.owner, old.epoch) == ("old", "", 1)
        one = entry(step(1), owner="me")
        await journals[2].decide(one, 7)
        assert await journals[3].entry(one.transaction_id) == one
        for journal in journals:
            await journal.close()


async def test_many_open_a_file_that_is_no_write_ahead_log_yet(tmp_path):
    """SQLite does not wait for whoever switches the file at the same moment: it refuses at once."""
    for number in range(10):
        path = tmp_path / f"journal{number}.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE other (x)")
        journals = [open_journal(JournalSettings(url=sqlite_url(path))) for _ in range(8)]
        await asyncio.gather(*(journal.open() for journal in journals))
        for journal in journals:
            await journal.close()


async def test_a_full_disk_leaves_nothing_changed(tmp_path):
    """SQLite is told that its file may not grow any more."""
    async with World(journal=sqlite_url(tmp_path / "journal.db")) as world:
        (await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))).raise_for_status()

        def full(connection, *_):
            connection.execute("PRAGMA max_page_count = 1")

        sa.event.listen(world.journal._engine, "checkout", full)
        big = os.urandom(150_000).hex()  # which cannot be compressed to nothing
        for pattern in ("staged", "saga"):
            with pytest.raises(JournalUnavailable, match="disk is full"):
                await world.run(
                    insert("a", {"id": 2, "big": big}), insert("p", {"id": 2, "big": big}), pattern=pattern
                )
        assert set(world.rows("a")) == set(world.rows("p")) == {1}
        sa.event.remove(world.journal._engine, "checkout", full)

        def room(connection, *_):
            connection.execute("PRAGMA max_page_count = 1000000")

        sa.event.listen(world.journal._engine, "checkout", room)
        assert await world.leftovers() == []
        assert (await world.run(insert("a", {"id": 2}), insert("p", {"id": 2}))).ok


NO_ROOM = textwrap.dedent(
    """
    import asyncio, os, resource, signal, sys
    from warehouse import AsyncWarehouse, JournalUnavailable

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    steps = [
        {"operation": "insert", "from": {"tag": tag, "entity": "e"}, "data": {"id": 1}} for tag in ("a", "p")
    ]

    async def main():
        stores = {"a": {"adapter": "memory"}, "p": {"adapter": "memory", "transactions": False}}
        async with AsyncWarehouse(journal={"url": "sqlite:///" + sys.argv[1]}, adapters=stores) as warehouse:
            size = os.path.getsize(sys.argv[1] + "-wal")
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
            try:
                await warehouse.transaction(steps)
            except JournalUnavailable as error:
                print(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            print((await warehouse.transaction(steps)).status)

    asyncio.run(main())
    """
)


async def test_no_room_at_the_commit_itself(tmp_path):
    """Then nothing was written, and there is no room for a tombstone either."""
    ended = await asyncio.to_thread(run_child, NO_ROOM, str(tmp_path / "journal.db"))
    assert ended.stderr == ""
    assert ended.stdout.splitlines()[1:] == ["completed"]
    assert "cannot be written: disk I/O error" in ended.stdout


async def test_a_file_that_somebody_else_keeps_locked(tmp_path, monkeypatch):
    monkeypatch.setattr("warehouse.journal.sql._BUSY", 100)
    path = tmp_path / "journal.db"
    async with World(journal=sqlite_url(path)) as world:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalUnavailable, match="database is locked"):
            await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
        assert (await world.run(insert("a", {"id": 1}))).ok  # which only reads the locks
        other.execute("ROLLBACK")
        other.close()
        assert world.rows("p") == {}
        assert (await world.run(insert("a", {"id": 2}), insert("p", {"id": 1}))).ok


async def test_a_file_that_may_not_be_written(tmp_path):
    async with World(journal=sqlite_url(tmp_path / "journal.db")) as world:

        def refuse(connection, *_):
            connection.execute("PRAGMA query_only = 1")

        sa.event.listen(world.journal._engine, "checkout", refuse)
        for pattern in ("staged", "saga"):
            with pytest.raises(JournalUnavailable, match="attempt to write a readonly database"):
                await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}), pattern=pattern)
        assert not any(world.everything().values())
        assert (await world.run(insert("a", {"id": 1}))).ok  # which only reads the locks


async def test_a_journal_in_the_file_of_a_store(tmp_path):
    """A transaction would wait for its own lock."""
    path = tmp_path / "same.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY)")
    connection.close()
    (tmp_path / "link").symlink_to(tmp_path)
    stores = {"a": {"adapter": "sql", "url": sqlite_url(tmp_path / "link" / "same.db")}}
    async with World(stores, journal=sqlite_url(path)) as world:
        for _ in range(2):
            with pytest.raises(ConfigError, match="the journal is in the same file") as caught:
                await world.run(insert("a", {"id": 1}))
            assert caught.value.hint == "give journal.url a file of its own"
    async with World(stores, journal=sqlite_url(tmp_path / "other.db")) as world:
        assert (await world.run(insert("a", {"id": 1}))).ok


# Other servers


async def test_a_driver_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    world = World(journal="postgresql://localhost/none")
    with pytest.raises(ConfigError) as caught:
        await world.run(insert("a", {"id": 1}))
    assert caught.value.hint == "pip install 'warehouse[postgres]'"


async def test_a_server_that_is_not_there(tmp_path):
    world = World(journal="postgresql+psycopg://me:secret@127.0.0.1:9/none?connect_timeout=2")
    with pytest.raises(JournalUnavailable) as caught:
        await world.run(insert("a", {"id": 1}))
    assert "cannot be opened" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_server_that_goes_away(postgres):
    """A connection that is lost before the commit is no reply that is lost."""
    with database(postgres) as url:
        async with World(journal=url) as world:
            assert (await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))).ok

            def cut(connection, statement):
                if statement.startswith("INSERT INTO warehouse_steps"):
                    connection.connection.driver_connection.close()

            with before_statements(cut), pytest.raises(JournalUnavailable):
                await world.run(insert("a", {"id": 2}), insert("p", {"id": 2}))
            assert world.rows("a") == {1: {}}

            def cut_commit(connection):
                connection.connection.driver_connection.close()

            sa.event.listen(world.journal._engine, "commit", cut_commit)
            with pytest.raises((JournalUnavailable, OutcomeUnknown)):
                await world.run(insert("a", {"id": 2}), insert("p", {"id": 2}))
            sa.event.remove(world.journal._engine, "commit", cut_commit)
            assert world.rows("a") == {1: {}}
            assert (await world.run(insert("a", {"id": 2}), insert("p", {"id": 2}))).ok


async def test_a_lost_commit_is_settled_by_a_tombstone(postgres):
    with database(postgres) as url:
        journal = open_journal(JournalSettings(url=url))
        await journal.open()

        def lose(connection):
            connection.connection.driver_connection.close()

        sa.event.listen(journal._engine, "commit", lose)
        one = entry(step(1))
        with pytest.raises(ReplyLost):
            await journal.decide(one, 0)
        sa.event.remove(journal._engine, "commit", lose)
        assert await journal.settle(one.transaction_id) is False
        with pytest.raises(JournalUnavailable):
            await journal.decide(one, 0)
        await journal.close()


# Large images


def large(number, size=3_000_000):
    change = Change(
        entity=THINGS,
        key={"id": number},
        before=ABSENT,
        after={"id": number, "x": os.urandom(size)},
        written=frozenset("x"),
    )
    return EntryStep(index=number, name=f"step_{number}", tag="a", store="store", changes=(change,))


async def test_what_is_large_is_kept_in_parts(journal, url):
    """Each is a write of its own, before the one that counts; and goes when its step does."""
    one = entry(large(0), step(5, index=1), large(2, 1_200_000), state="running")
    await journal.decide(one, 0)
    assert await journal.entry(one.transaction_id) == one
    assert await journal.unfinished("store", THINGS) == [
        change for each in one.steps for change in each.changes
    ]
    replaced = replace(large(0), changes=(made(7),))
    await journal.append(one.claim, [replaced], 0, {})
    more = large(3)
    await journal.append(one.claim, [more], 0, {})
    (again,) = await journal.entries()
    assert sorted(again.steps, key=lambda each: each.index) == [replaced, one.steps[1], one.steps[2], more]
    await journal.finish(one.claim, "completed", {})
    noted = entry(large(9), state="completed", finished=time.time())
    await journal.note([noted])
    assert await journal.entry(noted.transaction_id) == noted
    assert await journal.forget(lock("store", THINGS, {"id": 9})) == (1, [])
    await journal.prune(finished=0, images=time.time() + 10)
    assert (await journal.entry(one.transaction_id)).steps == ()
    if isinstance(getattr(journal, "_engine", None), sa.Engine):
        with journal._engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(schema.parts)) == 0


async def test_parts_that_cannot_be_written_leave_nothing(tmp_path):
    async with World(journal=sqlite_url(tmp_path / "journal.db")) as world:
        count = iter(range(100))

        def refuse(connection, cursor, statement, *more):
            if statement.startswith("INSERT INTO warehouse_parts") and next(count) == 1:
                raise sqlite3.OperationalError("disk I/O error")

        sa.event.listen(world.journal._engine, "before_cursor_execute", refuse)
        big = os.urandom(3_000_000)
        with pytest.raises(JournalUnavailable):
            await world.run(insert("a", {"id": 1, "x": big}), insert("p", {"id": 1}))
        assert world.rows("a") == world.rows("p") == {}
        assert (await world.run(insert("a", {"id": 1, "x": big}), insert("p", {"id": 1}))).ok
        assert await world.leftovers() == []


# Group commit


def counting_commits(journal):
    commits = []

    def note(connection, cursor, statement, *more):
        if statement == "COMMIT":
            commits.append(statement)

    sa.event.listen(journal._engine, "before_cursor_execute", note)
    return commits


async def test_those_that_wait_share_a_durable_write_and_each_stands_alone(tmp_path):
    journal = open_journal(JournalSettings(url=sqlite_url(tmp_path / "journal.db")))
    await journal.open()
    holder = entry(step(1, 2))
    await journal.decide(holder, 0)
    commits = counting_commits(journal)
    members = [entry(step(number)) for number in range(3, 20)]
    taken, twice = entry(step(100, 2)), entry(step(3))
    ends = await asyncio.gather(
        *(journal.decide(each, 0) for each in (*members, taken, twice)), return_exceptions=True
    )
    assert ends[: len(members)] == [None] * len(members)
    assert [type(end) for end in ends[len(members) :]] == [RecordLocked, RecordLocked]
    assert len(commits) == 1
    names = {each.transaction_id for each in await journal.entries()}
    assert names == {each.transaction_id for each in (holder, *members)}
    assert await journal.locked([lock("store", THINGS, {"id": 100})]) is None
    assert await journal.entry(members[5].transaction_id) == members[5]
    await journal.close()


async def test_a_group_that_is_refused_its_commit_leaves_nothing(tmp_path):
    journal = open_journal(JournalSettings(url=sqlite_url(tmp_path / "journal.db")))
    await journal.open()

    def refuse(connection, cursor, statement, *more):
        if statement == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")

    sa.event.listen(journal._engine, "before_cursor_execute", refuse)
    members = [entry(step(number)) for number in range(5)]
    ends = await asyncio.gather(*(journal.decide(each, 0) for each in members), return_exceptions=True)
    assert {type(end) for end in ends} <= {JournalUnavailable, ReplyLost}
    assert len({id(end) for end in ends}) == 5
    sa.event.remove(journal._engine, "before_cursor_execute", refuse)
    assert await journal.entries() == []
    await journal.close()


async def test_a_full_disk_fails_the_whole_group(tmp_path):
    journal = open_journal(JournalSettings(url=sqlite_url(tmp_path / "journal.db")))
    await journal.open()
    await journal.decide(entry(step(99)), 0)

    def full(connection, *_):
        connection.execute("PRAGMA max_page_count = 1")

    sa.event.listen(journal._engine, "checkout", full)
    large = Change(
        entity=THINGS,
        key={"id": 1},
        before=ABSENT,
        after={"id": 1, "x": os.urandom(200_000)},
        written=frozenset("x"),
    )
    big = EntryStep(index=0, name="s", tag="a", store="store", changes=(large,))
    members = [entry(step(5)), entry(big), entry(step(6)), entry(step(7))]
    ends = await asyncio.gather(*(journal.decide(each, 0) for each in members), return_exceptions=True)
    assert isinstance(ends[1], JournalUnavailable)
    there = {each.transaction_id for each in await journal.entries()}
    for member, end in zip(members, ends, strict=True):
        assert (member.transaction_id in there) is (end is None)
    await journal.close()


# Redis


@pytest.fixture
def own_redis():
    """A Redis that may be killed."""
    server = servers.start("redis", private=True)
    yield server
    server.remove()


async def test_a_redis_that_is_killed_and_comes_back_has_everything(own_redis):
    async with World(journal=own_redis.url) as world:
        done = await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}))
        assert done.ok
        own_redis.kill()
        with pytest.raises(JournalUnavailable):
            await world.run(insert("a", {"id": 2}), insert("p", {"id": 2}))
        assert world.rows("a") == world.rows("p") == {1: {}}
        own_redis.start()
        assert (await world.warehouse.show(done.transaction_id)).status == "completed"
        assert (await world.run(insert("a", {"id": 2}), insert("p", {"id": 2}))).ok
        assert await world.leftovers() == []
        world.faults.before("journal.finish", lambda: asyncio.to_thread(own_redis.kill))
        with pytest.raises(OutcomeUnknown) as caught:
            await world.run(insert("a", {"id": 3}), insert("p", {"id": 3}))
        own_redis.start()
        (found,) = await world.warehouse.recover()
        assert (found.transaction_id, found.status) == (caught.value.transaction_id, "completed")
        assert set(world.rows("a")) == {1, 2, 3}


async def test_a_redis_that_does_not_write_at_once_is_warned_of(own_redis, caplog):
    with redis.Redis.from_url(own_redis.url) as client:
        for setting, value, warned in (
            ("appendfsync", "always", False),
            ("appendfsync", "everysec", True),
            ("appendonly", "no", True),
        ):
            client.config_set(setting, value)
            caplog.clear()
            journal = open_journal(JournalSettings(url=own_redis.url))
            await journal.open()
            await journal.close()
            assert ("appendfsync always" in caplog.text) is warned


async def test_a_redis_of_another_layout_or_none_at_all(own_redis):
    with redis.Redis.from_url(own_redis.url) as client:
        client.hset("warehouse:meta", "version", "9")
    with pytest.raises(ConfigError, match="layout 9"):
        await open_journal(JournalSettings(url=own_redis.url)).open()
    with pytest.raises(ConfigError, match="no URL of a Redis database"):
        open_journal(JournalSettings(url="redis://localhost:port"))
    own_redis.kill()
    with pytest.raises(JournalUnavailable, match="cannot be opened"):
        await open_journal(JournalSettings(url=own_redis.url)).open()
