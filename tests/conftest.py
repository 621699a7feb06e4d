"""Fixtures of all tests: a private HAMLET_HOME for each, and one real Ray head for those that ask for it."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from cluster.auth_token import AUTH_ENVIRONMENT
from cluster.database import open_database
from cluster.head_record import HeadRecord
from cluster.logs import PACKAGES
from cluster.process import OBJECTS_BETWEEN_COLLECTIONS
from cluster.settings import Settings, settings

sys.path.insert(0, str(Path(__file__).parent))  # for scripted_tenants.py

# Ray reads both once, when it is imported, which any test file may do before a head is started.
os.environ.update(AUTH_ENVIRONMENT | {"RAY_TRAIN_V2_ENABLED": "1"})

# Tests leave little garbage, and looking for it among all that is imported was a sixth of the unit tests' time.
gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, 20, 1000)

# Of 200 ms an example by default, which a busy machine exceeds: speed is held by benchmarks.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

REPOSITORY = Path(__file__).parents[1]
USER_CACHE = Path("~/.hamlet/cache").expanduser()


def use_home(patch: pytest.MonkeyPatch, home: Path, **variables: str) -> None:
    """Make `home` the HAMLET_HOME, with `variables` as the only other settings."""
    for name in os.environ:
        if name.startswith("HAMLET_"):
            patch.delenv(name)
    patch.setenv("HAMLET_HOME", str(home))
    for name, value in variables.items():
        patch.setenv(name, value)
    settings.cache_clear()


def link_cache(home: Path) -> None:
    """Share the user's model cache, so that built-in models are fetched once and not per test."""
    USER_CACHE.mkdir(parents=True, exist_ok=True)
    (home / "cache").symlink_to(USER_CACHE)


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state database of the newest schema without a row: to copy it is ten times faster than to migrate."""
    file = tmp_path_factory.mktemp("database") / "hamlet.db"
    open_database(Settings(database_url=f"sqlite:///{file}")).dispose()
    return file


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(autouse=True)
def home(homes: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A HAMLET_HOME for this test: an empty database and the user's model cache; none sees the user's own."""
    # Not in the test's tmp_path, which is the test's own; nor numbered as that is, by a look at all that there are.
    folder = Path(tempfile.mkdtemp(dir=homes))
    shutil.copy(migrated_database, folder)
    link_cache(folder)
    use_home(monkeypatch, folder)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    settings.cache_clear()


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what a command line under test does to logging, which is global."""
    loggers = [logging.getLogger(name) for name in ("", *PACKAGES)]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def _session_head() -> Iterator[tuple[HeadRecord, dict[str, str]]]:
    from cluster.head import down, up
    from cluster.ports import free_port

    # Not below pytest's own temp folder: Ray's socket names would grow too long.
    folder = Path(tempfile.mkdtemp(prefix="hamlet-test-"))
    link_cache(folder)
    variables = {
        "HAMLET_RAY_PORT": str(free_port("127.0.0.1")),
        "HAMLET_DASHBOARD_PORT": str(free_port("127.0.0.1")),
        "HAMLET_NUM_CPUS": "4",
    }
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, folder, **variables)
        record, _ = up()
    try:
        yield record, {"HAMLET_HOME": str(folder), **variables}
    finally:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        with pytest.MonkeyPatch.context() as patch:
            use_home(patch, folder, **variables)
            down()
        settings.cache_clear()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def head(
    home: Path, _session_head: tuple[HeadRecord, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> HeadRecord:
    """The session's real Ray head. HAMLET_HOME is the head's, not the test's own `home`."""
    record, variables = _session_head
    use_home(monkeypatch, Path(variables["HAMLET_HOME"]), **variables)
    return record


@pytest.fixture
def shared() -> Path:
    """The folder of reference data beside the repository; the test is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data in {folder}")
    return folder
