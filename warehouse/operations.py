"""The operations that users write: pydantic models, and plain dicts validated into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from warehouse.errors import InvalidOperation, did_you_mean
from warehouse.records import Entity

AdapterType: TypeAlias = Literal["database", "graph", "vector"]
Data: TypeAlias = dict[str, Any]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9_:@-]+$")]
Count: TypeAlias = Annotated[int, Field(ge=0, strict=True)]
Seconds: TypeAlias = Annotated[float, Field(gt=0)]


def ref(path: str) -> dict[str, str]:
    """The output of an earlier step of the same transaction: `ref("step_0.id")`."""
    return {"$ref": path}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, alias_generator=to_camel, frozen=True)


class Source(_Model):
    """Where an operation goes: the participant's `tag`, and an `entity` or a `relationship` of it."""

    type: AdapterType | None = None
    tag: str = Field(min_length=1)
    entity: str | None = Field(default=None, min_length=1)
    relationship: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_target(self) -> Source:
        if self.entity is None and self.relationship is None:
            raise ValueError("name the `entity`, or in a graph the `relationship`")
        if self.entity is not None and self.relationship is not None:
            raise ValueError("name either `entity` or `relationship`, not both")
        if "\0" in self.target.name:
            raise ValueError("a name cannot contain NUL")
        return self

    @property
    def target(self) -> Entity:
        """The entity, of whichever kind."""
        if self.relationship is not None:
            return Entity(self.relationship, "relationship")
        return Entity(self.entity or "")


class Expect(_Model):
    """What must be true of a step's outcome, or the step fails."""

    affected_rows: (
        Count
        | Annotated[dict[Literal["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"], Count], Field(min_length=1)]
    )


class _Step(_Model):
    name: Name | None = None
    after: tuple[str, ...] = ()
    timeout: Seconds | None = None
    max_retries: int | None = Field(default=None, ge=0)
    allow_fail: bool = False
    critical: bool = False
    compensation_priority: int = 0


class _StoreStep(_Step):
    # Not `alias`, which type checkers would take for the name of the argument.
    from_: Source = Field(validation_alias="from", serialization_alias="from")
    expect: Expect | None = None
    returning: tuple[str, ...] | None = None


class _Records(_StoreStep):
    data: Data | list[Data]

    @model_validator(mode="after")
    def _some_records(self) -> _Records:
        if not self.records or not all(self.records):
            raise ValueError("`data` must be a record with at least one field, or a non-empty list of them")
        return self

    @property
    def records(self) -> Sequence[Data]:
        """`data` as a list."""
        return self.data if isinstance(self.data, list) else [self.data]


class _Filtered(_StoreStep):
    where: Data | None = None
    all: bool = False

    @model_validator(mode="after")
    def _some_condition(self) -> _Filtered:
        if not self.where and not self.all:
            raise ValueError("without `where` every record would be meant; say all=True if that is intended")
        if self.where and self.all:
            raise ValueError("give either `where` or all=True")
        return self


class Insert(_Records):
    """Create one record or a list of them; fails where one is there already."""

    operation: Literal["insert"] = "insert"


class Update(_Filtered):
    """Change the fields of every record that matches `where`."""

    operation: Literal["update"] = "update"
    data: Data


class Upsert(_Records):
    """Insert, or update the record that has the same `conflict_keys` (default: the entity's key).

    `update_fields` are the fields that are written where the record exists (default: all).
    """

    operation: Literal["upsert"] = "upsert"
    conflict_keys: tuple[str, ...] | None = Field(default=None, min_length=1)
    update_fields: tuple[str, ...] | None = None


class Delete(_Filtered):
    """Delete every record that matches `where`; a node with its relationships, unless `detach=False`."""

    operation: Literal["delete"] = "delete"
    detach: bool = True


class Call(_Step):
    """Call a registered action with `args`, by name; its compensation takes it back."""

    operation: Literal["call"] = "call"
    action: str = Field(min_length=1)
    args: Data = Field(default_factory=dict)


StoreOperation: TypeAlias = Insert | Update | Upsert | Delete
Operation: TypeAlias = StoreOperation | Call
MODELS: dict[str, type[_Step]] = {
    "insert": Insert,
    "update": Update,
    "upsert": Upsert,
    "delete": Delete,
    "call": Call,
}
_ADAPTER: TypeAdapter[Operation] = TypeAdapter(Annotated[Operation, Field(discriminator="operation")])


def parse(operation: Mapping[str, Any] | Operation, step: str) -> Operation:
    """One operation as its model; raises InvalidOperation naming the step, the field and what to do."""
    if isinstance(operation, Insert | Update | Upsert | Delete | Call):
        return operation
    if not isinstance(operation, Mapping):
        raise InvalidOperation(f"an operation is a mapping or a model, not {operation!r}", step=step)
    kind = operation.get("operation")
    if not isinstance(kind, str) or kind not in MODELS:
        problem = f"is {kind!r}" if "operation" in operation else "is missing"
        hint = did_you_mean(str(kind), MODELS)
        raise InvalidOperation(f"`operation` {problem}", step=step, field="operation", hint=hint)
    try:
        return _ADAPTER.validate_python(operation)
    except ValidationError as error:
        raise translate(error, MODELS[kind], step=step) from None


def translate(error: ValidationError, model: type[BaseModel], *, step: str | None = None) -> InvalidOperation:
    """A pydantic error as an InvalidOperation about its first complaint (an unknown key before all others)."""
    found = error.errors(include_url=False)
    first = next((item for item in found if item["type"] == "extra_forbidden"), found[0])
    location = first["loc"][1:] if first["loc"][:1] and first["loc"][0] in MODELS else first["loc"]
    names, owner = _place(location, model)
    field = ".".join(names) or None
    if first["type"] == "extra_forbidden":
        known = [_own_name(name) for name in owner.model_fields]
        if names[-1] in known:
            return InvalidOperation("it is given twice, in camel case too", step=step, field=field)
        return InvalidOperation(
            f"unknown key {names[-1]!r}", step=step, field=field, hint=did_you_mean(names[-1], known)
        )
    if first["type"] == "missing":
        return InvalidOperation(f"{field!r} is missing", step=step, field=field)
    if field in _TAKES and first["type"] != "value_error":
        return InvalidOperation(f"it takes {_TAKES[field]}", step=step, field=field)
    message = first["msg"].removeprefix("Value error, ")
    return InvalidOperation(message[0].lower() + message[1:], step=step, field=field)


# What pydantic can only say in terms of types.
_TAKES: dict[str, str] = {
    "from": "a mapping, as {'tag': ..., 'entity': ...}",
    "from.type": "database, graph or vector",
    "from.tag": "a non-empty text",
    "from.entity": "a non-empty text",
    "from.relationship": "a non-empty text",
    "action": "a non-empty text",
    "timeout": "a positive number of seconds",
    "max_retries": "a count from 0",
    "compensation_priority": "an integer",
    "allow_fail": "true or false",
    "critical": "true or false",
    "all": "true or false",
    "detach": "true or false",
    "data": "a mapping of fields, or (for new records) a list of such",
    "where": "a mapping of fields to conditions",
    "name": "letters, digits and _ : @ -, at most 120 of them",
    "after": "a list of step names",
    "returning": "a list of field names",
    "conflict_keys": "a list of at least one field name",
    "update_fields": "a list of field names",
    "expect": "a mapping, as {'affected_rows': 1}",
    "expect.affected_rows": "a count, or a mapping of $eq, $ne, $gt, $gte, $lt, $lte to one",
}


def _own_name(name: str) -> str:
    return "from" if name == "from_" else name


def _place(location: Sequence[int | str], model: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """The fields on the way to a complaint, by their own names, and the model of the last of them."""
    names: list[str] = []
    for part in location:
        fields = {str(info.validation_alias or name): name for name, info in model.model_fields.items()}
        name = fields.get(str(part), str(part))
        names.append(_own_name(name))
        if name not in model.model_fields:
            break
        kinds = (model.model_fields[name].annotation, *get_args(model.model_fields[name].annotation))
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            break
        model = inner[0]
    return names, model
