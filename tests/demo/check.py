#!/usr/bin/env python3
"""check.py LINES PUSH_JSON SQLITE: whether every line is there, and how many came more than once."""

import collections
import json
import sqlite3
import sys

lines_path, push_path, database_path = sys.argv[1:]
with open(lines_path, "rb") as file:
    wanted = collections.Counter(line.rstrip(b"\n") for line in file)
with open(push_path) as file:
    push = json.load(file)
database = sqlite3.connect(database_path)
deliveries = database.execute("SELECT count(*) FROM deliveries").fetchone()[0]
# A job's line is the same in all its deliveries, so one of them stands for the job.
found = collections.Counter()
jobs = 0
for (line,) in database.execute("SELECT line FROM deliveries GROUP BY job"):
    found[bytes(line)] += 1
    jobs += 1
missing = sum((wanted - found).values())
strange = sum((found - wanted).values())
print(f"lines in the log        {sum(wanted.values())}")
print(f"confirmed by push       {push['confirmed']}")
print(f"jobs worked             {jobs}")
print(f"lines missing           {missing}")
print(f"lines too many          {strange}")
print(f"deliveries              {deliveries}")
print(f"repeats                 {deliveries - jobs}")
if missing or strange or jobs != push["confirmed"] or jobs != sum(wanted.values()):
    sys.exit("FAILED: see the numbers above")
print("every line is there")
