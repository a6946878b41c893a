"""The campaign of faults on real servers, short; and that it finds what it looks for."""

import asyncio
import os
import random
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

import servers
from campaign import judge
from campaign.findings import Left, problems
from campaign.history import Log, Operation, operations
from campaign.layout import GROUPS, TAGS
from campaign.proxy import (
    DELAYED,
    HALF_CLOSED,
    KINDS,
    REPLY_LOST,
    REPLY_TORN,
    REQUEST_LOST,
    REQUEST_TORN,
    Proxies,
    Weather,
)
from campaign.report import Campaign, report
from campaign.rounds import JOURNALS, SERVERS, Plan, Result, play
from campaign.vaults import Cell
from warehouse.testing.simulation.many import simulate_many

SECONDS = 25.0


@pytest.fixture(scope="module")
def running():
    """One server of each kind, to be killed."""
    try:
        with ThreadPoolExecutor() as pool:
            begun = list(pool.map(lambda name: servers.start(name, private=True), SERVERS))
    except servers.ServerMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(f"the campaign needs all its servers: {missing}")
        pytest.skip(str(missing))
    yield dict(zip(SERVERS, begun, strict=True))
    for server in begun:
        server.remove()


@pytest.fixture(scope="module")
def checker():
    """The judge from elsewhere."""
    try:
        return judge.install()
    except servers.ServerMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(f"the judge is required here: {missing}")
        pytest.skip(str(missing))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("journal", JOURNALS)
def test_every_promise_is_kept_under_faults(journal, running, checker, tmp_path):
    seed = secrets.randbelow(10**9)
    result = play(Plan(journal, SECONDS, seed), running, tmp_path)
    assert result.problems == [], f"seed {seed}: {result}"
    assert result.effective >= 2 * SECONDS, f"seed {seed}: {result}"
    assert result.judged >= result.effective
    assert result.operations["bypass"] > SECONDS
    killed = {name for name in result.faults if name.endswith("killed")}
    assert len(killed) >= 3, result.faults


# The judge


def write(number, **seen):
    return Operation(
        "1", "write", {"group": "l0", "tags": list(seen), "key": f"k{number}"}, 10 * number, 10 * number + 5,
        "ok", {"told": "completed", "seen": seen, "calls": ["completed"]},
    )  # fmt: skip


def read(at, **seen):
    cells = {tag: [n, f"k{n}" if n else ""] for tag, n in seen.items()}
    return Operation(
        "2", "read", {"group": "l0", "tags": list(seen)}, at, at + 1, "ok", {"told": "read", "seen": cells}
    )


FINE = [write(1, pg=1, maria=1), read(16, pg=1, maria=1, graph=0), write(2, pg=2, maria=2)]


@pytest.mark.parametrize(
    ("history", "verdict"),
    [
        (FINE, "Ok"),
        ([*FINE, read(13, pg=1, maria=1)], "Ok"),
        ([*FINE, read(26, pg=1, maria=1)], "Illegal"),  # old
        ([*FINE, read(8, pg=1, maria=1)], "Illegal"),  # too early
        ([*FINE, read(12, pg=1, maria=0)], "Illegal"),  # half
        ([write(1, pg=1), write(2, pg=1)], "Illegal"),  # a lost update
        ([replace(write(1, pg=1), type="info", told={}, end=99), write(2, pg=1)], "Ok"),  # took effect late
        ([replace(write(1, pg=1), type="info", told={}, end=99), write(2, pg=3)], "Illegal"),
    ],
)
def test_the_judge_knows_right_from_wrong(history, verdict, checker, tmp_path):
    (found,) = judge.judge(history, tmp_path)
    assert (found.group, found.result, found.operations) == ("l0", verdict, len(history))
    assert (tmp_path / "l0.html").exists() is (verdict != "Ok")


# What is found


def left(**changes):
    """What `FINE` leaves."""
    cells = {tag: {"l0": Cell(0, "", 0)} for tag in TAGS["l"]}
    cells["pg"] = cells["maria"] = {"l0": Cell(2, "k2", 0)}
    ledgers = {"pg": ["k1", "k2"], "maria": ["k1", "k2"], "graph": []}
    return Left(
        cells={**cells, **changes.get("cells", {})},
        ledgers={**ledgers, **changes.get("ledgers", {})},
        prepared=changes.get("prepared", {}),
    )


def told(number, type_, *calls, **more):
    return replace(FINE[number], type=type_, told={**FINE[number].told, "calls": list(calls), **more})


def found(at, n, last, process="1.0"):
    value = {"group": "l0", "tags": ["pg"]}
    return Operation(process, "find", value, at, at + 1, "ok", {"told": "read", "seen": {"pg": [n, last]}})


def bypass(type_="ok"):
    return Operation("bypass", "bypass", {"group": "l0", "tags": ["pg"]}, 1, 2, type_, {"told": "written"})


@pytest.mark.parametrize(
    ("history", "remains", "message"),
    [
        (FINE, left(ledgers={"maria": ["k1"]}), "took effect in {'pg': 1}"),
        (FINE, left(ledgers={"pg": ["k1", "k2", "k2"]}), "took effect in {'pg': 2, 'maria': 1}"),
        (FINE, left(ledgers={"pg": ["k1", "k2", "k3"]}), "pg has k3, which nobody wrote"),
        ([FINE[0], told(2, "fail", "compensated")], left(), "and took effect"),
        (FINE, left(ledgers={"pg": ["k1"], "maria": ["k1"]}), "and did not take effect"),
        ([FINE[0], told(2, "ok", "completed", "compensated")], left(), "when it was asked for twice"),
        ([FINE[0], told(2, "ok", "completed", residue=["x conflict"])], left(), "left ['x conflict']"),
        (FINE, left(cells={"pg": {"l0": Cell(1, "k2", 0)}}), "pg l0 was written 1 times, by 2 transactions"),
        (FINE, left(cells={"pg": {"l0": Cell(2, "k9", 0)}}), "last written by k9"),
        ([*FINE, found(30, 2, "k9")], left(), "a find saw k9 in pg, which did not take effect"),
        ([*FINE, found(30, 1, "k2")], left(), "a find saw 1 by 'k2' in pg, which is 2"),
        ([*FINE, found(30, 1, "k1")], left(), "a find saw 1 in pg l0 after its process was told of more"),
        ([*FINE, bypass()], left(), "pg l0: 1 to 1 foreign writes, 0 are left"),
        (FINE, left(cells={"pg": {"l0": Cell(2, "k2", 1)}}), "pg l0: 0 to 0 foreign writes, 1 are left"),
        (FINE, left(prepared={"pg": ["gid"]}), "pg has something prepared left: ['gid']"),
    ],
)
def test_what_does_not_fit_is_found(history, remains, message):
    assert any(message in item for item in problems(history, remains)), problems(history, remains)


@pytest.mark.parametrize(
    "history",
    [
        FINE,
        [FINE[0], replace(FINE[2], type="info", told={})],
        [FINE[0], told(2, "ok", "compensated", "completed")],
        [*FINE, found(30, 1, "k1", process="3.0"), found(30, 2, "k2"), found(8, 0, "")],
        [*FINE, bypass("info")],
    ],
)
def test_what_fits_is_no_problem(history):
    assert problems(history, left()) == []


def test_a_history_is_read_back_with_what_has_no_end(tmp_path):
    for name in ("1", "2"):
        log = Log(tmp_path / f"history-{name}.jsonl", name)
        log.write("invoke", "find", {"group": name})
        log.write("ok", "find", {"told": "read"})
        log.write("invoke", "write", {"group": name})
        log.close()
    with (tmp_path / "history-2.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"process": "2", "ty')
    history = operations(tmp_path)
    assert [(one.process, one.f, one.type) for one in history] == [
        ("1", "find", "ok"), ("1", "write", "info"), ("2", "find", "ok"), ("2", "write", "info"),
    ]  # fmt: skip
    assert all(one.end >= one.call for one in history)


# The proxy


class Always(Weather):
    """The same happens to every request."""

    def __init__(self, kind):
        super().__init__(1.0, random.Random(1), delays=(0.4, 0.4))
        self.kind = kind

    def strike(self):
        self.happened[self.kind] += 1
        return self.kind


async def _through(kind):
    """What arrives of a request and of its reply; how long the reply takes."""
    arrived = bytearray()

    async def serve(reader, writer):
        while chunk := await reader.read(100):
            arrived.extend(chunk)
            if arrived == b"request":
                writer.write(b"reply")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxies = Proxies(Always(kind) if kind else Weather(0.0, random.Random(1)))
    loop = asyncio.get_running_loop()
    try:
        port = await loop.run_in_executor(
            None, proxies.before, "127.0.0.1", server.sockets[0].getsockname()[1]
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = loop.time()
        writer.write(b"request")
        try:
            reply = await asyncio.wait_for(reader.read(100), 5)
        except ConnectionResetError:
            reply = b"reset"
        took = loop.time() - began
        await asyncio.sleep(0.2)
        writer.close()
    finally:
        server.close()
        await loop.run_in_executor(None, proxies.close)
    return bytes(arrived), reply, took


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_the_proxy_does_what_it_says(kind):
    arrived, reply, took = asyncio.run(_through(kind))
    whole = arrived == b"request"
    assert whole is (kind not in {REQUEST_LOST, REQUEST_TORN})
    assert b"request".startswith(arrived)
    if kind in {REQUEST_LOST, REQUEST_TORN, REPLY_LOST}:
        assert reply in {b"", b"reset"}
    if kind == REPLY_TORN:
        assert reply == b"reset" or (b"reply".startswith(reply) and reply != b"reply")
    if kind == HALF_CLOSED:
        assert reply == b""
    if kind in {None, DELAYED}:
        assert reply == b"reply"
    assert (took >= 0.4) is (kind == DELAYED)


# The report


def test_the_report_tells_what_was_tried_and_found():
    result = Result(seconds=60)
    result.operations.update(write=1234, find=5)
    result.told.update(completed=1000, compensated=234)
    result.faults.update({"PostgreSQL killed": 7, REPLY_LOST: 3})
    result.judged = 999
    campaign = Campaign("make campaign MINUTES=1", rounds=result, stores=["PostgreSQL 15"], absent=["Qdrant"])
    page = report(campaign)
    for text in (
        "1,234",
        "| PostgreSQL killed | 7 |",
        "porcupine",
        "999 operations",
        "Nothing: every promise",
        "Qdrant",
    ):
        assert text in page
    result.problems.append("half of it")
    assert "* half of it" in report(campaign)
    campaign.simulated = simulate_many(5, 4, lambda outcome: None)
    assert "4 seeds from 5 on" in report(campaign)


def test_a_group_is_in_the_stores_of_its_kind():
    assert set(GROUPS.values()) == set(TAGS)
