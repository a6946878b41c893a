"""Whose a transaction is once the lease had run out: to be asked, even if the lease was renewed since."""

import pytest

from warehouse.engine.lease import Lease
from warehouse.journal.base import Entry, Superseded
from warehouse.journal.memory import MemoryJournal

pytestmark = pytest.mark.anyio


async def paused(*, renewed):
    """A lease that ran out while a transaction was active; its heartbeat may have gone on first."""
    journal = MemoryJournal()
    lease = Lease(journal, 10)
    await lease.renew()
    entry = Entry(transaction_id="t", name=None, pattern="staged", state="committing", owner=lease.owner)
    await journal.decide(entry, 0)
    lease.active.add("t")
    assert lease.is_ours(entry.claim)
    lease._renewed -= 100
    if renewed:
        await lease.renew()
    return journal, lease, entry.claim


@pytest.mark.parametrize("renewed", [False, True])
async def test_what_was_taken_over_is_not_ours(renewed):
    journal, lease, claim = await paused(renewed=renewed)
    await journal.take_over(claim, "somebody else")
    assert not lease.is_ours(claim)
    with pytest.raises(Superseded):
        await lease.keep(claim)


@pytest.mark.parametrize("renewed", [False, True])
async def test_what_nobody_took_is_claimed_again(renewed):
    journal, lease, claim = await paused(renewed=renewed)
    again = await lease.keep(claim)
    assert again.epoch == claim.epoch + 1
    assert await journal.is_mine(again)
    assert lease.is_ours(again)
    assert await lease.keep(again) == again


async def test_a_heartbeat_that_arrives_after_the_lease_ran_out(monkeypatch):
    """It was sent in time; others have not seen it in time."""
    journal, lease, claim = await paused(renewed=False)
    await lease.keep(claim)
    beat = journal.beat

    async def late(owner, seconds):
        lease._renewed -= 100
        await beat(owner, seconds)

    monkeypatch.setattr(journal, "beat", late)
    await lease.renew()
    assert not lease.is_ours(claim)
