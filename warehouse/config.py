"""The configuration (DESIGN 3.2): a TOML file, a dict of the same shape, or keyword arguments."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from warehouse.errors import ConfigError, did_you_mean

Seconds: TypeAlias = Annotated[float, Field(gt=0)]
Conversion: TypeAlias = Literal["text", "float", "int"]
M = TypeVar("M", bound=BaseModel)


class Settings(BaseModel):
    """Base of all settings: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EntityConfig(Settings):
    """`[adapters.TAG.entities.ENTITY]`.

    `key` overrides what identifies a record. `conflict = "record"` makes any foreign write to a record a
    conflict; `groups` are fields that conflict together. `version` names a row version. `id_field` is the
    payload field that keeps a text id. `allow_unguarded` permits writes that cannot be guarded. `convert` says,
    by field, as what values are kept that the store cannot hold otherwise.
    """

    key: tuple[str, ...] | None = None
    conflict: Literal["field", "record"] = "field"
    groups: tuple[tuple[str, ...], ...] = ()
    version: str | None = None
    id_field: str = "_id"
    allow_unguarded: bool = False
    triggers: bool = False
    convert: dict[str, Conversion] = Field(default_factory=dict)


class AdapterSettings(Settings):
    """`[adapters.TAG]`: what all adapters take; each adds its own. Durations are seconds.

    `options` go to the driver as they are.
    """

    adapter: str
    read_only: bool = False
    settle: float | None = Field(None, ge=0)
    pool_size: int = Field(10, gt=0)
    connect_timeout: float = Field(10.0, gt=0)
    tls: bool | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    entities: dict[str, EntityConfig] = Field(default_factory=dict)

    def entity(self, name: str) -> EntityConfig:
        """What is configured of an entity; the defaults where nothing is."""
        return self.entities.get(name, EntityConfig())


class JournalSettings(Settings):
    """`[journal]`. Durations are seconds; `retention` and `image_retention` count from a transaction's end.

    `recover`: whether an open Warehouse looks for what dead ones left behind (`auto`), or only when told to
    (`manual`). `key` encrypts the images that are kept: a Fernet key, or several, of which the first encrypts and
    each decrypts.
    """

    url: SecretStr = SecretStr("sqlite:///warehouse-journal.db")
    key: SecretStr | None = None
    retention: Seconds = 604_800
    image_retention: Seconds = 604_800
    lease: Seconds = 15
    recover: Literal["auto", "manual"] = "auto"


class TransactionSettings(Settings):
    """`[transactions]`: the defaults of the options of `transaction` and `begin`. Durations are seconds.

    `timeout` bounds the time until the decision, `step_timeout` one step, `lock_timeout` all waiting for
    records that others have, `grace` the clean-up after a cancellation. `max_records` and `max_image_bytes`
    bound one transaction. `idempotency_ttl` is how long an idempotency key is remembered.
    """

    timeout: Seconds = 30
    step_timeout: Seconds | None = None
    lock_timeout: Seconds = 10
    grace: Seconds = 10
    retry_on_failure: bool = False
    max_retries: int = Field(default=3, ge=0)
    compensate_on_timeout: bool = True
    max_records: int = Field(default=10_000, gt=0)
    max_image_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    idempotency_ttl: Seconds = 86_400


class Config(Settings):
    """The whole configuration. `adapters` holds, by tag, what each adapter's own `Settings` will validate."""

    journal: JournalSettings = JournalSettings()
    adapters: dict[str, dict[str, Any]] = Field(default_factory=dict, repr=False)
    transactions: TransactionSettings = TransactionSettings()


class _Environment(BaseSettings):
    """What `WAREHOUSE__...` variables say, before the tags are known."""

    model_config = SettingsConfigDict(env_prefix="WAREHOUSE__", env_nested_delimiter="__", extra="ignore")

    journal: dict[str, Any] = Field(default_factory=dict)
    adapters: dict[str, dict[str, Any]] = Field(default_factory=dict)
    transactions: dict[str, Any] = Field(default_factory=dict)


def load(raw: Mapping[str, Any]) -> Config:
    """The configuration from what `read` gave, filled in and overridden from the environment.

    `${NAME}` and `${NAME:-default}` inside any text are replaced; `WAREHOUSE__JOURNAL__URL` style variables
    override, a tag's hyphens being written `_`. Raises ConfigError, naming the place and the nearest name.
    """
    filled = _fill(raw, ())
    merged = _merge(filled, _overrides(filled))
    return validate(Config, merged, ())


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """What a TOML file, or a dict, says: the keyword arguments of a Warehouse. Raises ConfigError."""
    raw = dict(source) if isinstance(source, Mapping) else _parse(Path(source))
    for name in raw:
        if name not in Config.model_fields:
            raise ConfigError(f"unknown key {name}", hint=did_you_mean(str(name), Config.model_fields))
    return raw


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {path} is not TOML: {error}") from error


_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def _fill(value: Any, where: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {name: _fill(item, (*where, str(name))) for name, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, where) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name) or default
        if found is None and name in os.environ:
            return ""
        if found is None:
            raise ConfigError(
                f"{'.'.join(where)} needs the environment variable {name}, which is not set",
                hint=f"set it, or write ${{{name}:-default}}",
            )
        return found

    return _VARIABLE.sub(replace, value)


def _overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the environment says, with tags spelled as `config` spells them."""
    for variable in os.environ:
        prefix, *path = variable.lower().split("__")
        if prefix == "warehouse" and path and path[0] not in _Environment.model_fields:
            raise ConfigError(
                f"the environment variable {variable} sets an unknown key {path[0]}",
                hint=did_you_mean(path[0], _Environment.model_fields),
            )
    try:
        found = _Environment().model_dump(exclude_defaults=True)
    except (SettingsError, ValidationError):
        names = ", ".join(f"WAREHOUSE__{name.upper()}" for name in _Environment.model_fields)
        raise ConfigError(f"one of the environment variables {names} is no table in JSON") from None
    if "adapters" in found:
        tags = _spelled(config.get("adapters", {}))
        for name in found["adapters"]:
            if len(tags.setdefault(name, [name])) > 1:
                raise ConfigError(f"environment variables cannot tell {' and '.join(tags[name])} apart")
        found["adapters"] = {tags[name][0]: value for name, value in found["adapters"].items()}
    return found


def _spelled(tags: Iterable[str]) -> dict[str, list[str]]:
    """The tags by how they are written in the environment."""
    out: dict[str, list[str]] = {}
    for tag in tags:
        out.setdefault(str(tag).replace("-", "_").lower(), []).append(tag)
    return out


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for name, value in over.items():
        old = out.get(name)
        out[name] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def validate(model: type[M], raw: Mapping[str, Any], where: tuple[str, ...]) -> M:
    """`raw` as `model`; ConfigError names the place in the file, and never shows a value."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = [*where, *map(str, first["loc"])]
        if first["type"] == "extra_forbidden":
            known = _known_names(model, first["loc"][:-1])
            raise ConfigError(
                f"unknown key {'.'.join(path)}", hint=did_you_mean(str(first["loc"][-1]), known)
            ) from None
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{'.'.join(path)}: {message}", hint=_nearest(error)) from None


def _nearest(error: ValidationError) -> str | None:
    """What a value may have been meant to be, where it is one of a few names."""
    first = error.errors(include_url=False)[0]
    if first["type"] != "literal_error" or not isinstance(first["input"], str):
        return None
    near = did_you_mean(first["input"], re.findall(r"'([^']*)'", first["ctx"]["expected"]))
    return near if near.startswith("did") else None


def _known_names(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that may stand at `location` inside `model`."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
        if inner:
            model = inner[0]
    return list(model.model_fields)
