"""Settings, and the text of their errors."""

import re
from pathlib import Path

import pytest

from tests.support import SETTINGS, Main


def test_help(main: Main) -> None:
    status, out, _ = main("--help")
    assert status == 0
    for name in SETTINGS:
        assert f"--{name.lower().replace('_', '-')}" in out
    for default in ("127.0.0.1", "8080", "sqlite:///db.sqlite3", "info", "backup"):
        assert default in out


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        ([], {"PORT": "abc"}, "PORT: 'abc'"),
        (["--port", "65536"], {}, "PORT: '65536'"),
        (["--port", "-1"], {}, "PORT"),
        (["--port", "0655359"], {}, "PORT"),
        (["--workers", "0100300"], {}, "WORKERS"),
        (["--port", "٨"], {}, "PORT"),
        ([], {"WORKERS": "0"}, "WORKERS"),
        ([], {"CACHE_MIB": "0"}, "CACHE_MIB"),
        ([], {"CACHE_MIB": "65537"}, "CACHE_MIB"),
        ([], {"WORKERS": "many"}, "WORKERS"),
        ([], {"ALLOW_ANONYMOUS": "yes"}, "ALLOW_ANONYMOUS: 'yes'"),
        ([], {"ACCESS_LOG": "2"}, "'2'"),
        ([], {"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ([], {"CORS_ORIGINS": "*"}, "CORS_ORIGINS: '\\*'"),
        ([], {"CORS_ORIGINS": "https://a.example b.example"}, "'b.example'"),
        ([], {"CORS_ORIGINS": "https://a.example/"}, "'https://a.example/'"),
        ([], {"CORS_ORIGINS": "https://a.example:443"}, "'https://a.example:443'"),
        ([], {"CORS_ORIGINS": "http://a.example:80"}, "'http://a.example:80'"),
        ([], {"CORS_ORIGINS": "https://A.example"}, "'https://A.example'"),
        ([], {"CORS_ORIGINS": "https://a.example:99999"}, "'https://a.example:99999'"),
        ([], {"CORS_ORIGINS": "https://ü.example"}, "CORS_ORIGINS"),
        ([], {"DATABASE_URL": "mysql://host/name"}, "DATABASE_URL"),
        ([], {"DATABASE_URL": "postgresql://host:abc/name"}, "DATABASE_URL"),
        ([], {"DATABASE_URL": "postgresql://a:1,[::1/name"}, "DATABASE_URL"),
        ([], {"DATABASE_URL": "postgresql://127.0.0.1:99999/name"}, "DATABASE_URL"),
        (
            [],
            {"DATABASE_URL": "sqlite:///missing/name"},
            "DATABASE_URL.* no such folder",
        ),
        (["--host", "a..b"], {"ALLOW_ANONYMOUS": "1"}, "HOST: 'a..b'"),
        ([], {"DATABASE_URL": "sqlite:///"}, "DATABASE_URL"),
        ([], {"DATABASE_URL": "sqlite:///:memory:"}, "DATABASE_URL"),
        ([], {"DATABASE_URL": f"sqlite:///{'x' * 300}/y"}, "DATABASE_URL.* too long"),
        ([], {"DATABASE_URL": "sqlite:///by\udcfft"}, "DATABASE_URL"),
        ([], {"API_TOKENS_FILE": "missing"}, "API_TOKENS_FILE missing: No such file"),
        (["--host", "0.0.0.0"], {}, "ALLOW_ANONYMOUS=1"),  # noqa: S104 - refused
        (["--host", "::"], {}, "ALLOW_ANONYMOUS=1"),
        (["--host", "example.org"], {}, "ALLOW_ANONYMOUS=1"),
        (["--unknown"], {}, "--unknown"),
        (["restore"], {}, "restore"),
        (["backup"], {}, "backup"),
        (["token", "two words"], {}, "a name is"),
    ],
)
def test_bad_setting(
    main: Main,
    tmp_path: Path,
    arguments: list[str],
    environment: dict[str, str],
    reason: str,
) -> None:
    status, out, err = main(*arguments, **environment)
    assert (status, out) == (2, ""), err
    assert re.fullmatch(rf"server\.py: .*({reason}).*\n", err), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:zy/xw@127.0.0.1:1/shop",
        "postgresql://ann:zy?xw@127.0.0.1:1/shop",
        "postgresql://ann:zy#xw@127.0.0.1:1/shop",
        "postgresql://ann:zy@xw@127.0.0.1:1/shop",
        "postgresql://ann:zy\u2100xw@127.0.0.1:1/shop",
        "postgresql://ann:zyxw@127.0.0.1:1/shop",
        "postgresql://127.0.0.1:1/shop?user=ann&password=zyxw",
        "postgresql+asyncpg://ann:zyxw@127.0.0.1:1/shop",
        " postgresql://ann:zyxw@127.0.0.1:1/shop",
    ],
)
def test_password_is_kept_secret(main: Main, url: str) -> None:
    for arguments in (
        ("--database-url", url),
        ("--database-url", url, "backup", "copy"),
        ("copy", url, "sqlite:///db.sqlite3"),
    ):
        status, out, err = main(*arguments)
        assert status in (1, 2)
        assert (out, err.count("\n")) == ("", 1)
        assert "zy" not in err
        assert "xw" not in err


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:/shop:SECRET@db/shop",
        "postgres:shop:SECRET@db/shop",
        "postgresql+asyncpg://shop:SECRET@db/shop",
        "postgresql//shop:SECRET@db/shop",
        "postgresql://shop:SECRET/1@db:x/shop",
        "postgresql://shop:SECRET#1@db:99999/shop",
        "postgresql://shop:SECRET?1@[db/shop",
        "postgresql://shop:SECRET/db",
        "Postgresql://shop:SECRET@db/shop",
        "mysql://shop:SECRET@db/shop",
        "shop:SECRET@db",
        "sqlite://shop:SECRET@db",
        "postgresql://db/shop?password=SECRET&pgbouncer=true",
        "postgresql://shop:SECRET@127.0.0.1:1/shop",
    ],
)
def test_password_is_never_shown(main: Main, url: str) -> None:
    """Whatever is wrong with the URL."""
    for arguments in ([], ["--database-url", url], ["copy", "sqlite:///a", url]):
        for setting in ({"DATABASE_URL": url}, {}):
            if arguments or setting:
                status, out, err = main(*arguments, **setting)
                assert status in (1, 2)
                assert "SECRET" not in out + err, err
