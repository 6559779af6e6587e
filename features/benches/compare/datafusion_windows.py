"""DataFusion over the stream: `datafusion_windows.py EVENTS batch|stream card|both` prints seconds.

`batch` runs over a table in memory, made from EVENTS.parquet, and hands every batch of the result back. `stream` reads
EVENTS.csv as an unbounded table in order of event time, so that the planner takes the streaming window operator
(BoundedWindowAggExec over keys in any order), which gives rows out as they are complete.
"""

import sys
import time

import pyarrow.parquet
from datafusion import SessionConfig, SessionContext

path, how, what = sys.argv[1:]

context = SessionContext(SessionConfig().with_target_partitions(2))
if how == "batch":
    context.register_record_batches(
        "events", [pyarrow.parquet.read_table(path).to_batches(max_chunksize=8192)]
    )
else:
    context.sql(f"""
        CREATE UNBOUNDED EXTERNAL TABLE events (
            event_time TIMESTAMP NOT NULL, card_id VARCHAR, terminal_id VARCHAR, amount DOUBLE
        ) STORED AS CSV WITH ORDER (event_time ASC) LOCATION '{path}' OPTIONS ('format.has_header' 'false')
    """)

items = ["event_time"]
for key in {"card": ["card_id"], "both": ["card_id", "terminal_id"]}[what]:
    for days in [1, 7, 30]:
        over = (
            f"(PARTITION BY {key} ORDER BY event_time "
            f"RANGE BETWEEN INTERVAL '{days} days' PRECEDING AND CURRENT ROW)"
        )
        items += [f"count(amount) OVER {over}", f"avg(amount) OVER {over}"]
query = context.sql(f"SELECT {', '.join(items)} FROM events")

plan = query.execution_plan().display_indent()
mode = "mode=[Sorted]" if how == "batch" else "mode=[Linear]"
assert "BoundedWindowAggExec" in plan and mode in plan, plan
begun = time.monotonic()
rows = sum(batch.to_pyarrow().num_rows for batch in query.execute_stream())
assert rows > 0
print(time.monotonic() - begun)
