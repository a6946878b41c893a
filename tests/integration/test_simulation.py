"""The simulator finds nothing in the engine, says the same twice, and misses each rule that is taken away."""

import os
import secrets
import subprocess
import sys

import pytest

from warehouse.adapter import WriteStatus, Written
from warehouse.engine import staged
from warehouse.engine.ending import Ending
from warehouse.engine.leftovers import Leftovers
from warehouse.journal.base import RecordLocked
from warehouse.journal.memory import MemoryJournal
from warehouse.testing import simulate
from warehouse.testing.simulation import Parts

SEEDS = 2000


def test_nothing_is_found():
    base = int(os.environ.get("WAREHOUSE_TEST_SEED") or secrets.randbelow(10**9))
    found = {}
    for seed in range(base, base + SEEDS):
        outcome = simulate(seed)
        if outcome.problems:
            found[seed] = outcome.problems
    assert not found, f"of {SEEDS} seeds from {base}: {found}"


def test_a_seed_is_repeated_exactly():
    """In another process, too, whatever the order of its sets."""
    code = (
        "from warehouse.testing import simulate\n"
        "for seed in range(60):\n"
        "    print(*simulate(seed).trace, sep='\\n')\n"
    )
    out = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for number in ("1", "2")
    }
    assert len(out) == 1


# Each of these takes one rule away (DESIGN 5 to 7).


class NoLocks(MemoryJournal):
    """A decide does not look whether a record is locked."""

    def _check(self, transaction_id, locks, since, seen, leaving=frozenset()):
        try:
            super()._check(transaction_id, locks, since, seen, leaving)
        except RecordLocked as conflict:
            if conflict.holder is None:
                raise

    async def locked(self, locks):
        return None


class NoSequence(MemoryJournal):
    """A decide does not look whether another transaction has finished with a record since it was read."""

    def _check(self, transaction_id, locks, since, seen, leaving=frozenset()):
        super()._check(transaction_id, locks, 10**9, seen, leaving)


class NoTombstone(MemoryJournal):
    """A decide that nobody waits for any more may still arrive."""

    async def settle(self, transaction_id):
        return transaction_id in self._entries


class Forgetful(MemoryJournal):
    """What was decided is not there after a crash: a decide is acknowledged before it is durable."""

    async def claims(self):
        """Whoever recovers does not find it."""
        return {claim: owner for claim, owner in (await super().claims()).items() if claim.epoch > 1}


def unguarded(adapter):
    """A store without transactions writes whatever is there by now."""
    if adapter.unit.__self__._settings.transactions:
        return adapter
    store = adapter._store

    async def apply(info, changes):
        for change in changes:
            store.space.put(info.entity, change.key, change.after)
        return [Written(WriteStatus.APPLIED)] * len(changes)

    store.apply = apply
    return adapter


WEAK = {
    "locks": Parts(journal=NoLocks),
    "sequence": Parts(journal=NoSequence),
    "tombstone": Parts(journal=NoTombstone),
    "guard": Parts(store=unguarded),
    "settle": Parts(settle=0.0),
    "journal before commit": Parts(journal=Forgetful),
}


@pytest.mark.parametrize("rule", WEAK)
def test_every_rule_is_missed(rule):
    for seed in range(SEEDS):
        if simulate(seed, WEAK[rule]).problems:
            return
    pytest.fail(f"without {rule}, {SEEDS} seeds found nothing")


def told_too_soon(run, held):
    """The caller hears `completed` before that is durable, whether or not the stores can be asked later."""
    return bool(held) and run.idempotency is None and not run.calls()


async def held_first(self):
    """Recovery commits what was held before it applies what was planned."""
    held, planned = self._by_store(holds=True), self._by_store(holds=False)
    waiting = await self._still_prepared(held)
    committed = {
        store: store not in waiting and await self._has_committed(steps) for store, steps in held.items()
    }
    for store, steps in held.items():
        if store not in waiting and not committed[store] and not await self._redo(steps):
            return False
    for steps in [] if any(committed.values()) else planned.values():
        if not await self._redo(steps):
            return False
    for store in waiting:
        await self._end_prepared(held[store][0], commit=True)
    return True


decided = Leftovers._verdict


async def presumed_commit(self, transaction_id):
    """What was left prepared, and nothing is journaled of, is committed."""
    entry = await self._lease.journal.entry(transaction_id)
    return True if entry is None else await decided(self, transaction_id)


async def whoever(self):
    """Who recovers a transaction does not look, with the record locked, whether it is still theirs."""


@pytest.mark.parametrize(
    ("place", "name", "weak"),
    [
        (staged, "_can_be_asked", told_too_soon),
        (Ending, "_forward", held_first),
        (Leftovers, "_verdict", presumed_commit),
        (Ending, "_keep", whoever),
    ],
    ids=["finish before answer", "order of recovery", "presumed abort", "epoch"],
)
def test_every_rule_of_the_engine_is_missed(place, name, weak, monkeypatch):
    monkeypatch.setattr(place, name, weak)
    assert any(simulate(seed).problems for seed in range(SEEDS)), f"{SEEDS} seeds found nothing"
