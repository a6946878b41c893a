"""Undo as a three-way merge: the table of DESIGN 4 row by row, and what must hold whatever the values are."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse import updates
from warehouse.config import EntityConfig
from warehouse.records import ABSENT, Change, Effect, Entity, get, put, same, same_image
from warehouse.undo import Clash, combine, inverse, merge

THINGS = Entity("things")
FIELDS = EntityConfig()
RECORD = EntityConfig(conflict="record")
KEY = {"id": 1}


def change(before, after, written=None, **details):
    """A change of the record 1; written are the fields that differ, unless told otherwise."""
    if written is None:
        images = [image for image in (before, after) if image is not ABSENT]
        names = {name for image in images for name in image}
        written = names if len(images) == 1 else {n for n in names if not same(before.get(n), after.get(n))}
    return Change(entity=THINGS, key=KEY, before=before, after=after, written=frozenset(written), **details)


def updated(before, data):
    """The change that an update of `data` makes."""
    items = updates.bind(updates.parse(data), lambda value: value)
    after = updates.apply(items, before)
    written = {item.path for item in items}
    return change(before, after, written, effects=updates.effects(items))


def make(write, current):
    """What a store does with a guarded write: None where the guard fails."""
    if not same_image(current, write.before, write.written | write.guard):
        return None
    if write.after is ABSENT or current is ABSENT:
        return write.after
    for path in sorted(write.written):
        current = put(current, path, get(write.after, path))
    return current


def undone(item, current, config=FIELDS, **how):
    """The record after undoing, and what clashed."""
    found = merge(item, current, config, **how)
    if found.write is not None:
        current = make(found.write, current)
        assert current is not None, "the merge's own guard must hold on what it was given"
    return current, [(clash.field, clash.expected, clash.found) for clash in found.clashes]


# The table, row by row

INSERT = change(ABSENT, {"id": 1, "a": 1, "made": "by the store"}, {"id", "a"})
DELETE = change({"id": 1, "a": 1}, ABSENT)
UPDATE = change({"id": 1, "a": 1, "b": 1}, {"id": 1, "a": 2, "b": 1}, {"a"})
COUNT = updated({"id": 1, "n": 5}, {"n": {"$increment": 3}})
PUSH = updated({"id": 1, "list": ["x"]}, {"list": {"$push": "y"}})
KNOWN = {"known": True}


@pytest.mark.parametrize(
    ("item", "current", "how", "expected", "clashes"),
    [
        pytest.param(INSERT, ABSENT, {}, ABSENT, [], id="insert-absent-nothing"),
        pytest.param(INSERT, {"id": 1, "a": 1, "made": "other"}, {}, ABSENT, [], id="insert-equal-delete"),
        pytest.param(
            INSERT, {"id": 1, "a": 9}, {}, {"id": 1, "a": 9}, [("a", 1, 9)], id="insert-differs-conflict"
        ),
        pytest.param(INSERT, {"id": 1}, {}, {"id": 1}, [("a", 1, ABSENT)], id="insert-field-gone-conflict"),
        pytest.param(DELETE, ABSENT, {}, {"id": 1, "a": 1}, [], id="delete-absent-insert-again"),
        pytest.param(DELETE, {"id": 1, "a": 1}, {}, {"id": 1, "a": 1}, [], id="delete-equal-nothing"),
        pytest.param(
            DELETE, {"id": 1, "a": 2}, {}, {"id": 1, "a": 2}, [("a", 1, 2)], id="delete-differs-conflict"
        ),
        pytest.param(
            DELETE,
            {"id": 1, "a": 1, "b": 1},
            {},
            {"id": 1, "a": 1, "b": 1},
            [("b", ABSENT, 1)],
            id="delete-more-fields-conflict",
        ),
        pytest.param(
            UPDATE, {"id": 1, "a": 2, "b": 1}, {}, {"id": 1, "a": 1, "b": 1}, [], id="update-equal-A"
        ),
        pytest.param(
            UPDATE, {"id": 1, "a": 1, "b": 1}, {}, {"id": 1, "a": 1, "b": 1}, [], id="update-equal-B"
        ),
        pytest.param(
            UPDATE,
            {"id": 1, "a": 3, "b": 1},
            KNOWN,
            {"id": 1, "a": 3, "b": 1},
            [("a", 2, 3)],
            id="update-neither-conflict",
        ),
        pytest.param(UPDATE, ABSENT, {}, ABSENT, [(None, UPDATE.after, ABSENT)], id="update-absent-conflict"),
        pytest.param(
            UPDATE,
            {"id": 1, "a": 2, "b": 7},
            {},
            {"id": 1, "a": 1, "b": 7},
            [],
            id="update-foreign-field-stays",
        ),
        pytest.param(COUNT, {"id": 1, "n": 108}, KNOWN, {"id": 1, "n": 105}, [], id="increment-by-delta"),
        pytest.param(
            COUNT,
            {"id": 1, "n": 108},
            {},
            {"id": 1, "n": 108},
            [("n", 8, 108)],
            id="increment-unknown-conflict",
        ),
        pytest.param(COUNT, {"id": 1, "n": 8}, {}, {"id": 1, "n": 5}, [], id="increment-equal-A"),
        pytest.param(
            COUNT, {"id": 1, "n": "x"}, KNOWN, {"id": 1, "n": "x"}, [("n", 8, "x")], id="increment-no-number"
        ),
        pytest.param(
            PUSH,
            {"id": 1, "list": ["y", "x", "y", "z"]},
            KNOWN,
            {"id": 1, "list": ["y", "x", "z"]},
            [],
            id="push",
        ),
        pytest.param(
            PUSH,
            {"id": 1, "list": ["x", "z"]},
            KNOWN,
            {"id": 1, "list": ["x", "z"]},
            [("list", ["x", "y"], ["x", "z"])],
            id="push-gone-conflict",
        ),
        pytest.param(
            PUSH,
            {"id": 1, "list": ["x", "y", "z"]},
            {},
            {"id": 1, "list": ["x", "y", "z"]},
            [("list", ["x", "y"], ["x", "y", "z"])],
            id="push-unknown-conflict",
        ),
    ],
)
def test_each_row_of_the_table(item, current, how, expected, clashes):
    assert undone(item, current, **how) == (expected, clashes)


def test_everything_else_is_undone_beside_a_conflict():
    item = change({"id": 1, "a": 1, "b": 1}, {"id": 1, "a": 2, "b": 2})
    assert undone(item, {"id": 1, "a": 2, "b": 9}) == ({"id": 1, "a": 1, "b": 9}, [("b", 2, 9)])


def test_an_increment_from_nothing_leaves_the_other_part():
    item = updated({"id": 1}, {"n": {"$increment": 5}})
    assert undone(item, {"id": 1, "n": 6}, known=True) == ({"id": 1, "n": 1}, [])
    assert undone(item, {"id": 1, "n": 5}) == ({"id": 1}, [])


@pytest.mark.parametrize(
    "current", [Decimal("sNaN"), Decimal("NaN"), float("inf"), float("nan"), True, "9"], ids=repr
)
def test_a_delta_that_cannot_be_taken_out_is_a_conflict(current):
    item = updated({"id": 1, "n": 1}, {"n": {"$increment": 2}})
    after, clashes = undone(item, {"id": 1, "n": current}, known=True)
    assert same(after["n"], current)
    assert [field for field, *_ in clashes] == ["n"]


def test_a_delta_of_decimals_is_exact():
    long = Decimal("1234567890123456789012345678901.5")
    item = updated({"id": 1, "n": Decimal(1)}, {"n": {"$increment": Decimal("0.25")}})
    expected = {"id": 1, "n": Decimal("1234567890123456789012345678901.25")}
    assert undone(item, {"id": 1, "n": long}, known=True) == (expected, [])


# Paths inside a field


def test_a_parent_that_the_update_made_goes_again():
    item = updated({"id": 1}, {"address.home.city": "Ulm"})
    assert item.after == {"id": 1, "address": {"home": {"city": "Ulm"}}}
    assert undone(item, item.after) == ({"id": 1}, [])


def test_a_parent_that_was_null_is_null_again():
    item = updated({"id": 1, "address": None}, {"address.city": "Ulm"})
    assert undone(item, item.after) == ({"id": 1, "address": None}, [])


def test_a_parent_that_somebody_else_uses_stays():
    item = updated({"id": 1}, {"address.city": "Ulm"})
    current = {"id": 1, "address": {"city": "Ulm", "zip": "89073"}}
    assert undone(item, current) == ({"id": 1, "address": {"zip": "89073"}}, [])


def test_two_paths_in_one_new_parent():
    item = updated({"id": 1}, {"address.city": "Ulm", "address.zip": "89073"})
    assert undone(item, item.after) == ({"id": 1}, [])


def test_a_parent_that_somebody_else_replaced_is_a_conflict():
    item = updated({"id": 1, "a": {"b": 1}}, {"a.b": {"$unset": True}})
    current = {"id": 1, "a": 5}
    assert undone(item, current) == (current, [("a.b", ABSENT, ABSENT)])


def test_a_shorter_list_is_a_conflict():
    item = updated({"id": 1, "tags": ["x", "y"]}, {"tags.1": {"$unset": True}})
    current = {"id": 1, "tags": []}
    after, clashes = undone(item, current)
    assert after == current
    assert [field for field, *_ in clashes] == ["tags.1"]


# What conflicts together

MONEY = EntityConfig(groups=(("amount", "currency"),))


def test_fields_of_a_group_conflict_together():
    item = change(
        {"id": 1, "amount": 1, "currency": "EUR", "x": 1}, {"id": 1, "amount": 2, "currency": "EUR", "x": 2}
    )
    current = {"id": 1, "amount": 2, "currency": "USD", "x": 2}
    assert undone(item, current, MONEY) == ({**current, "x": 1}, [("currency", "EUR", "USD")])
    assert undone(item, item.after, MONEY) == (item.before, [])
    assert undone(item, {**item.before, "currency": "USD"}, MONEY)[0]["amount"] == 1


def test_no_delta_inside_a_group():
    item = updated({"id": 1, "amount": 1, "currency": "EUR"}, {"amount": {"$increment": 1}})
    current = {"id": 1, "amount": 12, "currency": "EUR"}
    assert undone(item, current, MONEY, known=True) == (current, [("amount", 2, 12)])


def test_an_insert_conflicts_by_its_groups():
    item = change(ABSENT, {"id": 1, "amount": 1, "currency": "EUR"}, {"id", "amount"})
    current = {"id": 1, "amount": 1, "currency": "USD"}
    assert undone(item, current, MONEY) == (current, [("currency", "EUR", "USD")])
    assert undone(item, current) == (ABSENT, [])


def test_a_group_member_above_the_written_path_is_compared_whole():
    config = EntityConfig(groups=(("address",),))
    item = updated({"id": 1, "address": {"city": "Ulm", "zip": 1}}, {"address.city": "Bonn"})
    current = {"id": 1, "address": {"city": "Bonn", "zip": 2}}
    after, clashes = undone(item, current, config)
    assert after == current
    assert [field for field, *_ in clashes] == ["address"]


@pytest.mark.parametrize("name", ["b", "new"])
def test_any_foreign_write_conflicts_by_record(name):
    current = {"id": 1, "a": 2, "b": 1, name: 99}
    assert undone(UPDATE, current, RECORD) == (current, [(name, UPDATE.after.get(name, ABSENT), 99)])
    assert undone(UPDATE, UPDATE.after, RECORD) == (UPDATE.before, [])


def test_by_record_inside_a_written_parent():
    item = updated({"id": 1, "a": {"b": 1, "c": 1}}, {"a.b": 2})
    current = {"id": 1, "a": {"b": 2, "c": 9}}
    assert undone(item, current, RECORD)[0] == current
    assert undone(item, item.after, RECORD) == (item.before, [])


def test_an_insert_by_record():
    current = {**INSERT.after, "made": "other"}
    assert undone(INSERT, current, RECORD) == (current, [("made", "by the store", "other")])


def test_nearly_equal_floats_where_the_store_keeps_them_nearly():
    item = change({"id": 1, "x": 0.1}, {"id": 1, "x": 0.3})
    near = {"id": 1, "x": 0.1 + 0.2}
    assert undone(item, near)[1] != []
    assert undone(item, near, ulps=1) == ({"id": 1, "x": 0.1}, [])


# Whatever the values

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=True)
    | st.sampled_from(["", "x", "y"])
    | st.decimals(allow_nan=False, places=1, min_value=-5, max_value=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("pq"), inner),
    max_leaves=4,
)
RECORDS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4).map(lambda found: {"id": 1, **found})
PATHS = st.sampled_from(["a", "b", "c", "d", "a.p", "b.q.p", "c.0"])
CONFIGS = st.sampled_from(
    [FIELDS, RECORD, EntityConfig(groups=(("a", "b"),)), EntityConfig(groups=(("b", "c.0"),))]
)


@st.composite
def changes(draw):
    before = draw(RECORDS | st.just(ABSENT))
    if before is ABSENT:
        return change(ABSENT, draw(RECORDS))
    if draw(st.integers(0, 3)) == 0:
        return change(before, ABSENT)
    after, written = before, set()
    for path in draw(st.lists(PATHS, unique=True, min_size=1, max_size=3)):
        if any(path.startswith(other + ".") or other.startswith(path + ".") for other in written):
            continue
        try:
            after = put(after, path, draw(VALUES | st.just(ABSENT)))
        except TypeError:
            continue
        written.add(path)
    return change(before, after, written)


def equal(one, other):
    """Equal as images: by type and value, and what is missing here is missing there."""
    if one is ABSENT or other is ABSENT:
        return one is other
    return same(one, other)


@given(changes(), CONFIGS, st.booleans())
def test_undo_leads_back_to_before(item, config, known):
    after, clashes = undone(item, item.after, config, known=known)
    assert not clashes
    assert equal(after, item.before)


@given(changes(), CONFIGS)
def test_undo_of_what_was_never_made_changes_nothing(item, config):
    after, clashes = undone(item, item.before, config)
    assert not clashes
    assert equal(after, item.before)


@given(changes(), RECORDS | st.just(ABSENT), CONFIGS, st.booleans())
def test_undo_twice_equals_undo_once(item, current, config, known):
    """The second attempt does not know what the first made (DESIGN 4)."""
    once, clashes = undone(item, current, config, known=known)
    twice, again = undone(item, once, config)
    by_delta = known and item.effects
    assert equal(twice, once)
    if not by_delta:
        assert [field for field, *_ in again] == [field for field, *_ in clashes]


@given(changes(), RECORDS, CONFIGS, st.booleans())
def test_what_nobody_of_us_wrote_survives(item, current, config, known):
    if item.before is ABSENT or item.after is ABSENT:
        return
    after, _ = undone(item, current, config, known=known)
    tops = {path.partition(".")[0] for path in item.written}
    for name in {*current, *after} - tops:
        assert same(after.get(name), current.get(name))


@given(changes(), RECORDS, CONFIGS)
def test_a_field_is_overwritten_only_where_it_was_as_we_left_it(item, current, config):
    if item.before is ABSENT or item.after is ABSENT:
        return
    after, clashes = undone(item, current, config)
    for path in item.written:
        if not same(get(after, path), get(current, path)):
            assert same(get(current, path), get(item.after, path))
            assert same(get(after, path), get(item.before, path))
    for field, *_ in clashes:
        assert same(get(after, field), get(current, field))


@given(changes(), RECORDS, CONFIGS)
def test_an_insert_goes_only_while_it_is_as_we_wrote_it(item, current, config):
    if item.before is not ABSENT:
        return
    after, clashes = undone(item, current, config)
    untouched = all(same(get(current, path), get(item.after, path)) for path in item.written)
    assert after is ABSENT or after == current
    assert (after is ABSENT) is (not clashes)
    assert untouched or clashes


NUMBERS = st.integers(-100, 100) | st.decimals(places=2, min_value=-100, max_value=100)


@given(NUMBERS, st.integers(-50, 50), st.lists(st.integers(-50, 50), max_size=4))
def test_increments_of_others_stay(start, ours, theirs):
    item = updated({"id": 1, "n": start}, {"n": {"$increment": ours}})
    current = {"id": 1, "n": start + ours + sum(theirs)}
    after, clashes = undone(item, current, known=True)
    if same(current["n"], start):  # cannot be told from never made
        assert after["n"] == start
    else:
        assert after["n"] == start + sum(theirs)
    assert not clashes


@given(st.lists(SCALARS, max_size=3), SCALARS, st.lists(SCALARS, max_size=3), st.lists(SCALARS, max_size=3))
def test_pushes_of_others_stay(start, ours, front, back):
    item = updated({"id": 1, "list": start}, {"list": {"$push": ours}})
    current = {"id": 1, "list": [*front, *start, ours, *back]}
    after, clashes = undone(item, current, known=True)
    assert not clashes
    if not same(current["list"], start):
        assert sorted(map(repr, after["list"])) == sorted(map(repr, [*front, *start, *back]))


@given(changes(), CONFIGS)
def test_redo_is_the_undo_of_the_inverse(item, config):
    assert equal(undone(inverse(item), item.before, config)[0], item.after)
    assert undone(inverse(item), item.after, config)[1] == []
    assert inverse(inverse(item)) == replace(item, effects={})


@given(changes(), RECORDS | st.just(ABSENT), CONFIGS, st.booleans())
def test_the_merge_never_raises_and_its_guard_fits(item, current, config, known):
    found = merge(item, current, config, known=known)
    if found.write is not None:
        assert found.write.written
        assert make(found.write, current) is not None
        assert same_image(found.write.before, current, found.write.written)
    for clash in found.clashes:
        assert isinstance(clash, Clash)


def test_effects_are_read_by_their_operator():
    item = replace(COUNT, effects={"n": Effect("$push", 3)})
    assert undone(item, {"id": 1, "n": 9}, known=True)[1] == [("n", 8, 9)]


# Several changes of one record


def same_place(item):
    return item.key["id"]


@st.composite
def chains(draw):
    """Changes of one record, each starting where the one before it ended."""
    out = [draw(changes())]
    for _ in range(draw(st.integers(0, 3))):
        before = out[-1].after
        following = draw(changes())
        if before is ABSENT:
            following = change(ABSENT, draw(RECORDS))
        elif draw(st.integers(0, 4)) == 0:
            following = change(before, ABSENT)
        else:
            after, written = before, set()
            for path in following.written - {"id"}:
                try:
                    after = put(after, path, get(following.after, path))
                except TypeError:
                    continue
                written.add(path)
            following = change(before, after, written)
        out.append(following)
    return out


@given(chains(), CONFIGS, st.booleans())
def test_changes_of_one_record_are_undone_and_redone_as_one(chain, config, known):
    first, last = chain[0].before, chain[-1].after
    whole = combine(chain, same_place)
    if first is ABSENT and last is ABSENT:
        assert len(chain) == 1 or whole == []
        return
    (one,) = whole
    assert (one.before, one.after) == (first, last)
    assert equal(undone(one, last, config, known=known)[0], first)
    assert equal(undone(one, first, config)[0], first)
    assert equal(undone(inverse(one), first, config)[0], last)
    assert undone(inverse(one), last, config)[1] == []


def test_together_they_keep_their_increments():
    one = updated(
        {"id": 1, "n": 5, "m": 1, "list": []}, {"n": {"$increment": 2}, "m": 2, "list": {"$push": "x"}}
    )
    two = updated(one.after, {"n": {"$decrement": 5}, "list": {"$push": "y"}})
    (both,) = combine([one, two], same_place)
    assert both.effects == {"n": Effect("$increment", -3)}
    assert undone(both, {**two.after, "n": 102}, known=True) == ({"id": 1, "n": 105, "m": 1, "list": []}, [])
    mixed = combine([one, updated(one.after, {"n": 9})], same_place)[0]
    assert mixed.effects == {"list": Effect("$push", "x")}
    assert combine([one, updated(one.after, {"m": 9})], same_place)[0].effects["n"] == Effect("$increment", 2)
    assert combine([one], same_place) == [one]


def test_together_they_keep_their_order():
    def of(key, before, after):
        return replace(change(before, after, {"id"}), key={"id": key})

    node, record = {"id": 1}, {"id": 1, "x": 1}
    made = [of("node", ABSENT, node), of("edge", ABSENT, node), of("node", node, record)]
    assert [item.key["id"] for item in combine(made, same_place)] == ["node", "edge"]
    gone = [of("node", node, record), of("edge", node, ABSENT), of("node", record, ABSENT)]
    assert [item.key["id"] for item in combine(gone, same_place)] == ["edge", "node"]
    passing = [of("node", ABSENT, node), of("edge", node, record), of("node", node, ABSENT)]
    assert [item.key["id"] for item in combine(passing, same_place)] == ["edge"]
