"""Every mistake of the caller raises before any store is touched, and says what is wrong, where, and what to do."""

from dataclasses import replace

import pytest

from integration.memory_world import STORES, World, insert, update, upsert
from warehouse import (
    ConfigError,
    Delete,
    Insert,
    InvalidOperation,
    NotPermitted,
    Source,
    UnknownField,
    UnknownTag,
    Update,
)
from warehouse.adapter import EntityInfo
from warehouse.config import EntityConfig
from warehouse.records import Entity

pytestmark = pytest.mark.anyio
A = {"tag": "a", "entity": "things"}
CONFIG = {
    **STORES,
    "graph": {"adapter": "memory", "type": "graph"},
    "vectors": {"adapter": "memory", "type": "vector"},
    "reports": {"adapter": "memory", "read_only": True},
}


def on(source, operation="insert", **content):
    return {"operation": operation, "from": source, **content}


async def test_a_mistake_is_found_before_any_store_is_even_connected():
    async with World(CONFIG) as world:
        for mistake in (
            update("p", {"n": {"$gtt": 1}}, {"n": 1}),
            update("p", 1, {"n": {"$incr": 1}}),
            insert("nobody", {"id": 1}),
            insert("reports", {"id": 1}),
            insert("p", {"id": 1}, after=["nothing"]),
            insert("p", {"a.b": 1}),
        ):
            with pytest.raises(InvalidOperation):
                await world.run(insert("a", {"id": 1}), mistake)
        assert not [call for call in world.faults.calls if "connect" in call]


OPTIONS = [
    ({"timout": 1}, "timout: unknown option 'timout' - did you mean 'timeout'?"),
    ({"timeout": 0}, "timeout: timeout is a positive number of seconds, not 0"),
    ({"timeout": "30"}, "timeout: timeout is a positive number of seconds, not '30'"),
    ({"timeout": float("nan")}, "timeout: timeout is a positive number of seconds, not nan"),
    ({"step_timeout": True}, "step_timeout: step_timeout is a positive number of seconds, not True"),
    ({"max_retries": 1.5}, "max_retries: max_retries is a count from 0, not 1.5"),
    ({"retry_on_failure": "yes"}, "retry_on_failure: retry_on_failure is true or false, not 'yes'"),
    ({"pattern": "sagas"}, "pattern: pattern is 'sagas' - did you mean 'saga'?"),
    ({"availability": "low"}, "availability: availability is 'low' - known are high"),
    ({"concurrency": 4}, "concurrency: concurrency is 4 - known are parallel, sequential"),
    (
        {"rollback": "none"},
        "rollback: only a saga can keep what it did where a step fails - say pattern='saga'",
    ),
    ({"idempotency_key": ""}, "idempotency_key: idempotency_key is text of at most 255 characters, not ''"),
    ({"idempotency_ttl": 0}, "idempotency_ttl: idempotency_ttl is a positive number of seconds, not 0"),
    ({"name": 3}, "name: name is printable text, not 3"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
async def test_mistakes_in_options(options, message):
    async with World() as world:
        with pytest.raises(InvalidOperation) as caught:
            await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}), **options)
        assert str(caught.value) == message
        assert not any(world.everything().values())


async def test_options_of_a_block():
    async with World() as world:
        for options, message in [
            (
                {"hold": True},
                "name: a held transaction needs a name, of letters, digits and _ . : @ - (at most 120), not None",
            ),
            ({"expires_in": 5}, "expires_in: only what is held expires - say hold=True"),
            (
                {"retry_on_failure": True},
                "retry_on_failure: unknown option 'retry_on_failure' - did you mean 'raise_on_failure'?",
            ),
            ({"name": "a\nb"}, "name: name is printable text, not 'a\\nb'"),
            ({"raise_on_failure": 0}, "raise_on_failure: raise_on_failure is true or false, not 0"),
        ]:
            with pytest.raises(InvalidOperation) as caught:
                world.warehouse.begin(**options)
            assert str(caught.value) == message
        assert world.warehouse.begin("nightly", hold=False, expires_in=None)


async def test_kinds_of_mistakes():
    async with World(CONFIG) as world:
        for kind, operation in [
            (UnknownTag, insert("x", {"id": 1})),
            (NotPermitted, insert("reports", {"id": 1})),
        ]:
            with pytest.raises(kind) as caught:
                await world.run(operation)
            assert (caught.value.step, caught.value.entity) == ("step_0", "things")


async def test_models_are_taken_as_they_are():
    async with World() as world:
        result = await world.run(
            Insert(from_=Source(tag="a", entity="things"), data={"id": 1, "n": 1}),
            Update(
                from_=Source(tag="a", entity="things"), where={"id": 1}, data={"n": {"$inc": 1}}, name="more"
            ),
            Insert(**{"from": Source(tag="p", entity="things")}, data=[{"id": 1}, {"id": 2}]),
            Delete(from_=Source(tag="p", entity="things"), where={"id": 2}),
            {
                "operation": "upsert",
                "from": A,
                "data": {"id": 1, "n": 3},
                "conflictKeys": ["id"],
                "updateFields": ["n"],
            },
        )
        assert list(result.raise_for_status().step_results) == [
            "step_0",
            "more",
            "step_2",
            "step_3",
            "step_4",
        ]
        assert world.rows("a") == {1: {"n": 3}}
        assert world.rows("p") == {1: {}}


async def test_what_a_store_does_not_declare_is_refused():
    async with World() as world:
        world.faults.declare(
            "a",
            operations=frozenset({"insert", "update"}),
            conditions=frozenset({"$eq"}),
            updates=frozenset({"$set"}),
        )
        for operation, message in [
            (upsert("a", {"id": 1}), "step_0 (a, things): memory cannot upsert"),
            (update("a", {"n": {"$gt": 1}}, {"n": 1}), "step_0 (a, things.n): memory does not support $gt"),
            (update("a", 1, {"n": {"$inc": 1}}), "step_0 (a, things.n): memory does not support $increment"),
        ]:
            with pytest.raises(InvalidOperation) as caught:
                await world.run(operation)
            assert str(caught.value) == message


async def test_unguarded_stores_are_refused_unless_the_entity_allows_it():
    allowed = {**STORES["q"], "entities": {"things": {"allow_unguarded": True}}}
    async with World({"p": STORES["p"], "q": allowed}) as world:
        world.faults.declare("p", guards="none")
        world.faults.declare("q", guards="none")
        with pytest.raises(InvalidOperation, match="memory 1 cannot guard its writes - set allow_unguarded"):
            await world.run(insert("p", {"id": 1}))
        assert (await world.run(insert("q", {"id": 1}))).ok


async def test_a_store_with_fixed_fields_is_asked_once_more_before_a_field_is_refused():
    async with World() as world:
        real = world.stores["a"].describe
        asked = []

        async def describe(entity, *, fresh=False):
            asked.append(fresh)
            info = await real(entity)
            known = {"id", "name"} | ({"added"} if fresh else set())
            return EntityInfo(
                entity=entity,
                key=info.key,
                fields=frozenset(known),
                generated=frozenset({"name"}),
                unique=(("name",),),
            )

        async def with_conversion(entity, *, fresh=False):
            return replace(await describe(entity, fresh=fresh), config=EntityConfig(convert={"nme": "text"}))

        world.stores["a"].describe = describe
        assert (await world.run(insert("a", {"id": 1, "added": 1}))).ok
        assert asked == [False, True]
        for operation, field, message in [
            (
                insert("a", {"id": 1, "nam": 1}),
                "nam",
                "step_0 (a, things.nam): 'things' has no such field - did you mean 'name'?",
            ),
            (update("a", {"x": 1}, {"added": 1}), "x", None),
            (update("a", {"id": 1}, {"added": 1}, returning=["y"]), "y", None),
            (upsert("a", {"id": 1, "added": 1}, conflict_keys=["z"]), "z", None),
        ]:
            with pytest.raises(UnknownField) as caught:
                await world.run(operation)
            assert caught.value.field == field
            assert message is None or str(caught.value) == message
        world.stores["a"].describe = with_conversion
        with pytest.raises(ConfigError) as caught:
            await world.run(insert("a", {"id": 1}))
        assert str(caught.value) == (
            "step_0 (a, things.nme): `convert` names a field that is not there - did you mean 'name'?"
        )
        world.stores["a"].describe = describe
        with pytest.raises(InvalidOperation, match="the store generates this field"):
            await world.run(update("a", 1, {"name": "x"}))
        with pytest.raises(InvalidOperation) as caught:
            await world.run(upsert("a", {"id": 1, "added": 1}, conflict_keys=["added"]))
        assert str(caught.value) == (
            "step_0 (a, things.conflict_keys): no unique constraint covers the conflict_keys ['added']"
            " - use ['id'] or ['name']"
        )


@pytest.mark.parametrize("pattern", ["auto", "staged", "saga"])
async def test_records_without_a_key_take_part_alone_only(pattern):
    async with World() as world:

        async def describe(entity, *, fresh=False):
            return EntityInfo(entity=entity, key=())

        world.stores["a"].describe = describe
        world.stores["a"]._store.rules.describe = lambda entity, config: EntityInfo(
            entity=entity, key=("id",)
        )
        with pytest.raises(
            InvalidOperation,
            match=r"nothing identifies its records.*give \[adapters.a.entities.things\] a key",
        ):
            await world.run(insert("a", {"id": 1}), insert("p", {"id": 1}), pattern=pattern)
        if pattern == "saga":
            with pytest.raises(InvalidOperation):
                await world.run(insert("a", {"id": 1}), pattern=pattern)
    assert Entity("things") == Entity("things", "record")
