#!/usr/bin/env python3
"""Writes the lines on standard input into a SQLite file: all of them or none.

    ackring work lines --batch 1000 -- python3 to_sqlite.py FILE
    python3 to_sqlite.py --count FILE

The words of ACKRING_JOB_ID and ACKRING_ATTEMPT belong to the lines in their order. Every delivery is a row, so
that lines that came twice can be counted.
"""

import os
import sqlite3
import sys


def count(path):
    if not os.path.exists(path):
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60) as database:
        try:
            return database.execute("SELECT max(rowid) FROM deliveries").fetchone()[0] or 0
        except sqlite3.OperationalError:
            return 0


def write(path):
    ids = os.environ["ACKRING_JOB_ID"].split(" ")
    attempts = os.environ["ACKRING_ATTEMPT"].split(" ")
    lines = sys.stdin.buffer.read().split(b"\n")[:-1]
    if not len(ids) == len(attempts) == len(lines):
        sys.exit(f"{len(lines)} lines for {len(ids)} jobs")
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("CREATE TABLE IF NOT EXISTS deliveries (job TEXT, attempt INTEGER, line BLOB)")
    database.execute("BEGIN IMMEDIATE")
    database.executemany("INSERT INTO deliveries VALUES (?, ?, ?)", zip(ids, attempts, lines))
    database.execute("COMMIT")


if sys.argv[1] == "--count":
    print(count(sys.argv[2]))
else:
    write(sys.argv[1])
