"""The configuration: TOML, a dict or keyword arguments, filled in and overridden from the environment."""

# ruff: noqa: E501 - messages as they are shown

import traceback

import pytest

from warehouse import AsyncWarehouse, ConfigError, Warehouse
from warehouse.config import load, read

TOML = """
[journal]
url = "sqlite:///${FOLDER}/journal.db"
lease = 5

[adapters.orders-store]
adapter = "memory"
options = { shared = "${SPACE:-none}-${SPACE:-none}" }
[adapters.orders-store.entities.User]
key = ["email"]
groups = [["amount", "currency"]]

[adapters.cache]
adapter = "memory"
type = "vector"
transactions = false

[transactions]
timeout = 12.5
retry_on_failure = true
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.delenv("SPACE", raising=False)


def loaded(raw):
    return load(read(raw))


def with_adapter(**settings):
    return {"adapters": {"a": {"adapter": "memory", **settings}}}


def test_a_toml_file(tmp_path):
    path = tmp_path / "warehouse.toml"
    path.write_text(TOML)
    for source in (path, str(path)):
        config = loaded(source)
        assert config.journal.url.get_secret_value() == f"sqlite:///{tmp_path}/journal.db"
        assert config.journal.lease == 5
        assert (config.transactions.timeout, config.transactions.retry_on_failure) == (12.5, True)
        assert config.transactions.lock_timeout == 10
        assert config.adapters["orders-store"]["options"] == {"shared": "none-none"}
    warehouse = AsyncWarehouse.from_config(path)
    assert warehouse._defaults.timeout == 12.5
    participant = warehouse._registry.get("orders-store")
    assert participant.settings.entity("User").key == ("email",)
    assert participant.settings.entity("User").groups == (("amount", "currency"),)
    assert participant.settings.entity("other").key is None
    assert warehouse._registry.get("cache").adapter.type == "vector"


def test_nothing_at_all_is_a_configuration():
    config = loaded({})
    assert config.journal.url.get_secret_value() == "sqlite:///warehouse-journal.db"
    assert config.adapters == {}
    assert (config.transactions.timeout, config.transactions.max_retries) == (30, 3)
    assert (config.transactions.max_records, config.transactions.max_image_bytes) == (10_000, 64 * 2**20)


def test_keyword_arguments_are_the_same_shape():
    raw = {
        "journal": {"url": "memory://"},
        "adapters": {"a": {"adapter": "memory"}},
        "transactions": {"timeout": 3},
    }
    for made in (AsyncWarehouse(**raw), AsyncWarehouse.from_config(raw), Warehouse(**raw)._inner):
        assert made._defaults.timeout == 3
        assert made.journal == "memory"
    with pytest.raises(TypeError):
        AsyncWarehouse(jurnal={})


# The environment


def test_variables_are_filled_in(monkeypatch):
    monkeypatch.setenv("SPACE", "here")
    monkeypatch.setenv("EMPTY", "")
    filled = loaded(
        with_adapter(
            options={"a": "x${SPACE}y${NOTHING:-}", "b": ["${SPACE}", {"c": "${EMPTY:-default}"}]}, n=1
        )
    )
    assert filled.adapters["a"]["options"] == {"a": "xherey", "b": ["here", {"c": "default"}]}
    assert filled.adapters["a"]["n"] == 1
    monkeypatch.setenv("SPACE", "${FOLDER}")
    assert loaded(with_adapter(options={"a": "${SPACE}"})).adapters["a"]["options"] == {"a": "${FOLDER}"}


def test_a_variable_that_is_not_set_is_named_with_its_place():
    with pytest.raises(ConfigError) as caught:
        loaded(with_adapter(options={"password": ["${NOT_SET}"]}))
    assert str(caught.value) == (
        "adapters.a.options.password needs the environment variable NOT_SET, which is not set - set it, or write ${NOT_SET:-default}"
    )


def test_variables_override(monkeypatch, tmp_path):
    path = tmp_path / "warehouse.toml"
    path.write_text(TOML)
    monkeypatch.setenv("WAREHOUSE__JOURNAL__URL", "memory://")
    monkeypatch.setenv("WAREHOUSE__TRANSACTIONS__TIMEOUT", "7.5")
    monkeypatch.setenv("WAREHOUSE__TRANSACTIONS__RETRY_ON_FAILURE", "false")
    monkeypatch.setenv("WAREHOUSE__ADAPTERS__ORDERS_STORE__TYPE", "graph")
    monkeypatch.setenv("WAREHOUSE__ADAPTERS__ORDERS_STORE__OPTIONS__SHARED", "mine")
    monkeypatch.setenv("WAREHOUSE__ADAPTERS__EXTRA__ADAPTER", "memory")
    config = loaded(path)
    assert config.journal.url.get_secret_value() == "memory://"
    assert config.journal.lease == 5
    assert (config.transactions.timeout, config.transactions.retry_on_failure) == (7.5, False)
    assert list(config.adapters) == ["orders-store", "cache", "extra"]
    assert config.adapters["orders-store"]["type"] == "graph"
    assert config.adapters["orders-store"]["options"] == {"shared": "mine"}
    assert AsyncWarehouse.from_config(path).journal == "memory"


def test_a_variable_of_ours_that_means_nothing_is_an_error(monkeypatch):
    monkeypatch.setenv("WAREHOUSE__JOURNL__URL", "memory://")
    with pytest.raises(ConfigError) as caught:
        loaded({})
    assert str(caught.value) == (
        "the environment variable WAREHOUSE__JOURNL__URL sets an unknown key journl - did you mean 'journal'?"
    )
    monkeypatch.delenv("WAREHOUSE__JOURNL__URL")
    monkeypatch.setenv("WAREHOUSE__JOURNAL__URLL", "memory://")
    with pytest.raises(ConfigError, match=r"unknown key journal.urll - did you mean 'url'\?"):
        loaded({})
    monkeypatch.delenv("WAREHOUSE__JOURNAL__URLL")
    monkeypatch.setenv("WAREHOUSE__JOURNAL", "secret: not JSON")
    with pytest.raises(ConfigError) as caught:
        loaded({})
    assert "secret" not in str(caught.value)
    assert "WAREHOUSE__JOURNAL" in str(caught.value)


def test_other_variables_are_not_ours(monkeypatch):
    monkeypatch.setenv("WAREHOUSE_TEST_POSTGRES_URL", "x")
    monkeypatch.setenv("WAREHOUSE", "x")
    assert loaded({}).adapters == {}


def test_a_variable_that_fits_two_tags_is_refused(monkeypatch):
    monkeypatch.setenv("WAREHOUSE__ADAPTERS__A_B__TYPE", "graph")
    both = {"adapters": {"a-b": {"adapter": "memory"}, "a_b": {"adapter": "memory"}}}
    with pytest.raises(ConfigError, match="a-b and a_b"):
        loaded(both)
    assert loaded({"adapters": {"A-b": {"adapter": "memory"}}}).adapters["A-b"]["type"] == "graph"


# Mistakes


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"jurnal": {}}, "unknown key jurnal - did you mean 'journal'?"),
        ({"journal": {"ulr": 1}}, "unknown key journal.ulr - did you mean 'url'?"),
        ({"journal": {"lease": 0}}, "journal.lease: Input should be greater than 0"),
        ({"journal": 3}, "journal: Input should be a valid dictionary or instance of JournalSettings"),
        ({"transactions": {"timeot": 1}}, "unknown key transactions.timeot - did you mean 'timeout'?"),
        ({"transactions": {"max_retries": -1}}, "transactions.max_retries: Input should be greater than or equal to 0"),
        ({"adapters": {"a": 3}}, "adapters.a: Input should be a valid dictionary"),
        ({"adapters": {"a": {}}}, "a: adapters.a.adapter is missing - known are memory, mongo, neo4j, qdrant, sql"),
        ({"adapters": {"a": {"adapter": "memroy"}}}, "a: adapters.a.adapter is 'memroy' - did you mean 'memory'?"),
        (with_adapter(tpye="graph"), "unknown key adapters.a.tpye - did you mean 'type'?"),
        (with_adapter(type="sql"), "adapters.a.type: Input should be 'database', 'graph' or 'vector'"),
        (with_adapter(pool_size=0), "adapters.a.pool_size: Input should be greater than 0"),
        (with_adapter(entities={"User": {"kye": ["id"]}}), "unknown key adapters.a.entities.User.kye - did you mean 'key'?"),
        (with_adapter(entities={"User": {"conflict": "no"}}), "adapters.a.entities.User.conflict: Input should be 'field' or 'record'"),
        (with_adapter(options={"sharde": "x"}), "a: unknown key options.sharde - did you mean 'shared'?"),
        ({"journal": {"url": "monogdb://x"}}, "journal.url has the scheme 'monogdb' - use sqlite:///file, postgresql://..., mysql://..., redis://... or memory://"),
        ({"journal": {"url": "journal.db"}}, "journal.url is no URL - use sqlite:///file, postgresql://..., mysql://..., redis://... or memory://"),
        ({"journal": {"url": "sqlite://"}}, "journal.url names no file - use sqlite:///file, or memory://"),
        ({"journal": {"url": "sqlite:///:memory:"}}, "journal.url names no file - use sqlite:///file, or memory://"),
    ],
)  # fmt: skip
def test_mistakes(raw, message):
    with pytest.raises(ConfigError) as caught:
        AsyncWarehouse.from_config(raw)
    assert str(caught.value) == message


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"the configuration .*/nowhere.toml cannot be read: No such file"):
        read(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read(tmp_path)
    broken = tmp_path / "broken.toml"
    for content in (b"[journal\n", b"a = 1\na = 2\n", b"\xff\xfe"):
        broken.write_bytes(content)
        with pytest.raises(ConfigError, match="is not TOML"):
            read(broken)


# Secrets

SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    "raw",
    [
        {"journal": {"url": f"postgresql://me:{SECRET}@host/db", "lease": "never"}},
        {"journal": {"url": f"{SECRET}://"[:3] + f"x://me:{SECRET}@host"}},
        {"journal": {"url": f"sqlite+{SECRET}"}},
        {"journal": {"url": SECRET}},
        {"journal": {"url": f"postgresql://me:{SECRET}@host:notaport/db"}},
        {"journal": {"url": {"a": SECRET}}},
        {"journal": {"url": "memory://"}, "transactions": {"timeout": SECRET}},
        with_adapter(url=SECRET),
        with_adapter(entities={"x": SECRET}),
        with_adapter(options={"shared": [SECRET]}),
        {"adapters": {"a": {"adapter": "sql", "url": f"nosuch://me:{SECRET}@host/db"}}},
        {"adapters": {"a": {"adapter": "mongo", "url": f"mongodb://me:{SECRET}@host", "database": 3}}},
        {"adapters": {"a": {"adapter": "neo4j", "url": "x", "password": SECRET, "user": 3}}},
    ],
)
def test_no_error_shows_a_secret(raw):
    with pytest.raises(ConfigError) as caught:
        AsyncWarehouse.from_config(raw)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_nothing_shows_a_secret_when_printed():
    url = f"postgresql://me:{SECRET}@host/db?password={SECRET}"
    raw = {
        "journal": {"url": url},
        "adapters": {
            "sql": {"adapter": "sql", "url": url},
            "graph": {"adapter": "neo4j", "url": "bolt://host", "user": "me", "password": SECRET},
            "documents": {"adapter": "mongo", "url": f"mongodb://me:{SECRET}@host", "database": "x"},
        },
    }
    warehouse = AsyncWarehouse.from_config(raw)
    registry = warehouse._registry
    shown = [warehouse, Warehouse.from_config(raw), warehouse.journal, warehouse._journal, load(read(raw))]
    shown += [registry.get(tag) for tag in registry.tags] + [
        registry.get(tag).settings for tag in registry.tags
    ]
    for thing in shown:
        assert SECRET not in repr(thing)
        assert SECRET not in str(thing)
