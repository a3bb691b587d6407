#!/usr/bin/env python3
"""json_field.py PATH DEFAULT: prints the value at a.b.0.c of the JSON object on standard input."""

import json
import sys

try:
    value = json.load(sys.stdin)
    for step in sys.argv[1].split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
except (ValueError, LookupError):
    value = sys.argv[2]
print(value)
