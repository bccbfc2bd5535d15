"""The device's table: measured milliseconds of operators and engines, one SQLite file a machine, shared by all recipes.

Rows are keyed by device, backend version and precision, so nothing that was measured elsewhere is ever mixed in. The file
is in WAL mode: several processes may profile at once, and what one has measured the others find.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import EdgepruneError
from edgeprune.files import hash_obj, parse_json
from edgeprune.profile.probes import Key
from edgeprune.runtime.signature import Signature

SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS devices (device TEXT PRIMARY KEY, fingerprint TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS operators (
    device TEXT, backend TEXT, precision TEXT, signature TEXT, inputs INTEGER, outputs INTEGER,
    ms REAL NOT NULL, taken REAL NOT NULL,
    PRIMARY KEY (device, backend, precision, signature, inputs, outputs)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS engines (
    device TEXT, backend TEXT, precision TEXT, network TEXT, widths TEXT,
    ms REAL NOT NULL, dense_ms REAL NOT NULL, predicted_ms REAL, taken REAL NOT NULL,
    PRIMARY KEY (device, backend, precision, network, widths)) WITHOUT ROWID;
"""
# of operators' rows: SQLite keeps text and anything else in any column, and a row that is not sound is measured again
_SOUND = (
    "typeof(ms) = 'real' AND ms >= 0 AND ms < 1e7 AND typeof(inputs) = 'integer' AND inputs >= 0 "
    "AND typeof(outputs) = 'integer' AND outputs >= 0"
)


@dataclass(frozen=True)
class Where:
    """What a row is valid for. `fingerprint` is what says which device it is (no load, no clock of the moment)."""

    fingerprint: dict[str, Any]
    backend: str
    precision: str

    @property
    def device(self) -> str:
        return hash_obj(self.fingerprint)[:16]


def default_path() -> Path:
    """`$EDGEPRUNE_TABLE`, or `latency.sqlite` in the user's cache folder."""
    if told := os.environ.get("EDGEPRUNE_TABLE"):
        return Path(told)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edgeprune" / "latency.sqlite"


class Table:
    """The file, opened; safe for parallel processes."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()
        with self._in_one_line():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, timeout=60)
            self._base.execute("PRAGMA journal_mode=WAL")
            found = self._base.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, SCHEMA):
                raise EdgepruneError(
                    f"{self.path}: a latency table of schema {found}; this version knows {SCHEMA}: "
                    "delete it, or set EDGEPRUNE_TABLE to another file"
                )
            with self._base:
                self._base.executescript(_TABLES)
                self._base.execute(f"PRAGMA user_version={SCHEMA}")

    @contextlib.contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """What SQLite and the file system say becomes one line: damaged files are to be deleted, others need a place."""
        try:
            yield
        except sqlite3.OperationalError as error:  # cannot be opened, read-only, locked, disk full
            raise EdgepruneError(
                f"{self.path}: the latency table cannot be used ({error}); set EDGEPRUNE_TABLE to a file that can be written"
            ) from error
        except sqlite3.DatabaseError as error:
            raise EdgepruneError(
                f"{self.path}: not a latency table, or a damaged one ({error}); delete it, or set EDGEPRUNE_TABLE to another "
                "file"
            ) from error
        except OSError as error:
            raise EdgepruneError(
                f"{self.path}: the latency table cannot be opened ({error.strerror}); set EDGEPRUNE_TABLE to a file that can "
                "be written"
            ) from error

    def close(self) -> None:
        self._base.close()

    def add(self, where: Where, times: dict[Key, float]) -> None:
        """Keep measured operators; a key that is there already gets the new time."""
        rows = [
            (where.device, where.backend, where.precision, k.signature.key, k.inputs, k.outputs, ms, time.time())
            for k, ms in times.items()
        ]
        with self._in_one_line(), self._base:
            self._base.execute(
                "INSERT OR IGNORE INTO devices VALUES (?, ?)",
                (where.device, json.dumps(where.fingerprint, sort_keys=True)),
            )
            self._base.executemany("INSERT OR REPLACE INTO operators VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._in_one_line():
            return self._base.execute(query, values).fetchall()

    def times(self, where: Where, signatures: Iterable[Signature]) -> dict[Key, float]:
        """Every measured channel count of these signatures."""
        found: dict[Key, float] = {}
        for s in signatures:
            rows = self._rows(
                "SELECT inputs, outputs, ms FROM operators WHERE device=? AND backend=? AND precision=? AND signature=?"
                f" AND {_SOUND}",
                where.device, where.backend, where.precision, s.key,
            )  # fmt: skip
            found |= {Key(s, inputs, outputs): ms for inputs, outputs, ms in rows}
        return found

    def forget(self, where: Where, signatures: Iterable[Signature]) -> None:
        """Measured operators of these signatures, as if they had never been."""
        rows = [(where.device, where.backend, where.precision, s.key) for s in signatures]
        with self._in_one_line(), self._base:
            self._base.executemany(
                "DELETE FROM operators WHERE device=? AND backend=? AND precision=? AND signature=?", rows
            )

    def add_engine(
        self, where: Where, network: str, widths: dict[str, int], ms: float, dense_ms: float, predicted: float | None
    ) -> None:
        """Keep a measured engine."""
        with self._in_one_line(), self._base:
            self._base.execute(
                "INSERT OR REPLACE INTO engines VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    where.device, where.backend, where.precision, network, json.dumps(widths, sort_keys=True), ms, dense_ms,
                    predicted, time.time(),
                ),
            )  # fmt: skip

    def engines(self) -> list[dict[str, Any]]:
        """The measured engines, oldest first: fingerprint, backend, precision, network, ms, dense_ms, predicted_ms (by a predictor
        that had not seen them)."""
        names = ("backend", "precision", "network", "ms", "dense_ms", "predicted_ms", "fingerprint")
        rows = self._rows(
            f"SELECT {', '.join('e.' + n for n in names[:-1])}, d.fingerprint FROM engines e "
            "LEFT JOIN devices d ON d.device = e.device WHERE typeof(ms) = 'real' AND ms > 0 AND ms < 1e7 "
            "AND typeof(dense_ms) = 'real' AND dense_ms > 0 AND dense_ms < 1e7 "
            "AND (predicted_ms IS NULL OR typeof(predicted_ms) = 'real' AND abs(predicted_ms) < 1e7) ORDER BY e.taken"
        )
        return [dict(zip(names, (*r[:-1], _fingerprint(r[-1])), strict=True)) for r in rows]

    def known(self) -> list[dict[str, Any]]:
        """What is in the file: one row a device, backend, precision and signature, with its number of measurements."""
        rows = self._rows(
            "SELECT d.fingerprint, o.backend, o.precision, o.signature, COUNT(*), o.device FROM operators o "
            f"JOIN devices d ON d.device = o.device WHERE {_SOUND} GROUP BY o.device, o.backend, o.precision, o.signature"
        )
        names = ("fingerprint", "backend", "precision", "signature", "count", "device")
        return [dict(zip(names, (_fingerprint(r[0]), *r[1:]), strict=True)) for r in rows]

    def curve(self, row: dict[str, Any]) -> list[tuple[int, int, float]]:
        """(inputs, outputs, ms) of one row of `known`."""
        return self._rows(
            "SELECT inputs, outputs, ms FROM operators WHERE device=? AND backend=? AND precision=? AND signature=?"
            f" AND {_SOUND}",
            row["device"], row["backend"], row["precision"], row["signature"],
        )  # fmt: skip


def _fingerprint(text: Any) -> dict[str, Any]:
    """What a device said of itself; {} where the row does not hold that."""
    try:
        found = parse_json(str(text).encode())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
