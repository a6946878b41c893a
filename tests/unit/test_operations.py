"""Operations: dicts and models, aliases, and errors that name the step, the field and what to do."""

import pytest

from warehouse import operations
from warehouse.errors import InvalidOperation
from warehouse.operations import Call, Delete, Insert, Source, Update, Upsert, ref
from warehouse.records import Entity

FROM = {"type": "database", "tag": "orders", "entity": "orders"}


class TestParse:
    def test_each_operation(self):
        insert = operations.parse({"operation": "insert", "from": FROM, "data": {"a": 1}}, "step_0")
        assert insert == Insert(from_=Source(type="database", tag="orders", entity="orders"), data={"a": 1})
        assert insert.records == [{"a": 1}]
        update = operations.parse(
            {"operation": "update", "from": FROM, "where": {"a": 1}, "data": {"b": {"$inc": 1}}}, "step_0"
        )
        assert isinstance(update, Update)
        delete = operations.parse({"operation": "delete", "from": FROM, "all": True}, "step_0")
        assert isinstance(delete, Delete)
        assert delete.detach
        assert isinstance(operations.parse({"operation": "call", "action": "charge"}, "step_0"), Call)

    def test_camel_case_is_accepted(self):
        upsert = operations.parse(
            {
                "operation": "upsert",
                "from": FROM,
                "data": [{"a": 1}, {"a": 2}],
                "conflictKeys": ["a"],
                "updateFields": [],
                "allowFail": True,
            },
            "step_0",
        )
        assert isinstance(upsert, Upsert)
        assert (upsert.conflict_keys, upsert.update_fields, upsert.allow_fail) == (("a",), (), True)
        assert upsert.records == [{"a": 1}, {"a": 2}]

    def test_a_model_is_taken_as_it_is(self):
        model = Insert(from_=FROM, data={"a": ref("step_0.id")})
        assert operations.parse(model, "step_1") is model
        assert model.data == {"a": {"$ref": "step_0.id"}}

    def test_targets(self):
        assert Source(tag="t", entity="E").target == Entity("E")
        assert Source(tag="t", relationship="R").target == Entity("R", "relationship")

    @pytest.mark.parametrize(
        ("operation", "field", "text"),
        [
            ("insert", None, "mapping or a model"),
            ({}, "operation", "known are"),
            ({"operation": "insrt"}, "operation", "did you mean 'insert'?"),
            ({"operation": "insert", "from": FROM}, "data", "missing"),
            ({"operation": "insert", "data": {"a": 1}}, "from", "missing"),
            ({"operation": "insert", "from": FROM, "data": []}, None, "non-empty"),
            ({"operation": "insert", "from": FROM, "data": [{}]}, None, "at least one field"),
            (
                {"operation": "insert", "from": FROM, "data": {"a": 1}, "retruning": ["a"]},
                "retruning",
                "returning",
            ),
            (
                {"operation": "insert", "from": FROM | {"tga": 1}, "data": {"a": 1}},
                "from.tga",
                "did you mean 'tag'?",
            ),
            ({"operation": "insert", "from": {"tag": "t"}, "data": {"a": 1}}, "from", "relationship"),
            (
                {"operation": "insert", "from": FROM | {"relationship": "R"}, "data": {"a": 1}},
                "from",
                "either",
            ),
            ({"operation": "insert", "from": FROM | {"entity": "a\0"}, "data": {"a": 1}}, "from", "NUL"),
            (
                {"operation": "insert", "from": FROM | {"type": "graf"}, "data": {"a": 1}},
                "from.type",
                "graph",
            ),
            ({"operation": "update", "from": FROM, "data": {"a": 1}}, None, "all=True"),
            ({"operation": "update", "from": FROM, "data": {"a": 1}, "where": {}}, None, "all=True"),
            ({"operation": "delete", "from": FROM, "all": True, "where": {"a": 1}}, None, "either"),
            (
                {"operation": "upsert", "from": FROM, "data": {"a": 1}, "conflict_keys": []},
                "conflict_keys",
                "at least one",
            ),
            ({"operation": "upsert", "from": FROM, "data": {}, "conflict_kyes": []}, None, ""),
            (
                {"operation": "upsert", "from": FROM, "data": {"a": 1}, "conflict_kyes": []},
                None,
                "conflict_keys",
            ),
            ({"operation": "delete", "from": FROM, "all": True, "timeout": 0}, "timeout", "positive number"),
            ({"operation": "delete", "from": FROM, "all": True, "name": "a b"}, "name", "letters"),
            (
                {"operation": "delete", "from": FROM, "all": True, "expect": {"affected_rows": {"$in": 1}}},
                None,
                "",
            ),
        ],
    )
    def test_mistakes(self, operation, field, text):
        with pytest.raises(InvalidOperation) as caught:
            operations.parse(operation, "step_3")
        assert caught.value.step == "step_3"
        assert field is None or caught.value.field == field
        assert text in str(caught.value)
