"""The state database on a real PostgreSQL."""

from __future__ import annotations

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from cluster.database import open_database
from cluster.files import Files
from cluster.settings import Settings


def test_a_server_of_the_c_locale_keeps_any_text(postgres: str) -> None:
    """`initdb` gives it SQL_ASCII, of which psycopg makes bytes."""
    server = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"))
    server.dispose()
    engine = open_database(Settings(database_url=str(make_url(postgres).set(database="ascii"))))
    files = Files(engine)
    made = files.add(files.stored("ann", "Größe 大.jsonl", "fine-tune", b"{}\n"))
    assert files.get("ann", made.id).filename == "Größe 大.jsonl"
