"""Flink SQL over a CSV of the stream: `flink.py EVENTS.csv scan|card|both` prints seconds.

Flink computes one OVER window in a SELECT, so that windows stand in one query around the other. The sink
drops its rows. Everything runs in one process on all cores.
"""

import os
import sys
import time

# No Python function runs, so nothing is started that could run one.
os.environ["_python_worker_execution_mode"] = "process"

from pyflink.table import EnvironmentSettings, TableEnvironment

path, what = sys.argv[1:]

table = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
table.get_config().set("parallelism.default", "2")
table.get_config().set("taskmanager.memory.managed.size", "64m")
table.execute_sql(f"""
    CREATE TABLE events (
        event_time TIMESTAMP(3), card_id STRING, terminal_id STRING, amount DOUBLE,
        WATERMARK FOR event_time AS event_time
    ) WITH ('connector' = 'filesystem', 'path' = 'file://{path}', 'format' = 'csv')
""")

query, columns = "events", []
keys = {"scan": [], "card": ["card_id"], "both": ["card_id", "terminal_id"]}[what]
for key in keys:
    for days in [1, 7, 30]:
        over = (
            f"(PARTITION BY {key} ORDER BY event_time "
            f"RANGE BETWEEN INTERVAL '{days}' DAY PRECEDING AND CURRENT ROW)"
        )
        made = [f"{key}_count_{days}", f"{key}_avg_{days}"]
        query = (
            f"(SELECT *, count(amount) OVER {over} AS {made[0]}, "
            f"avg(amount) OVER {over} AS {made[1]} FROM {query})"
        )
        columns += made
sink = "".join(f", {name} {'BIGINT' if 'count' in name else 'DOUBLE'}" for name in columns)
table.execute_sql(f"""
    CREATE TABLE sink (event_time TIMESTAMP(3), card_id STRING, terminal_id STRING, amount DOUBLE{sink})
    WITH ('connector' = 'blackhole')
""")
begun = time.monotonic()
table.execute_sql(f"INSERT INTO sink SELECT * FROM {query}").wait()
print(time.monotonic() - begun)
