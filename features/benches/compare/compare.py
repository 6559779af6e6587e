"""Count and mean over 1, 7 and 30 days, side by side: Sanderling, DataFusion and Flink on one file and the same cores.

    python3 features/benches/compare/compare.py FILE.parquet WORK [card] [both]

FILE is the Fraud-Detection-Handbook's stream as one Parquet file, WORK a folder for what is made. The
competitors come from PyPI, release builds of their makers, into an environment of their own under WORK, and
run one after the other in processes of their own. Needs Python 3.9 to 3.12, and Java 17 for Flink.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ["datafusion==55.0.0", "pyarrow==26.0.1", "ruamel.yaml==0.18.16"]
# Without what only its Python functions need.
FLINK = ["apache-flink==2.3.0", "apache-flink-libraries==2.3.0", "py4j==0.10.9.7"]
BENCH = "cargo bench --locked --profile measure --workspace --bench windows --".split()

MAKE = """
import sys
import pyarrow as pa, pyarrow.compute as c, pyarrow.csv, pyarrow.parquet
read = pa.parquet.read_table(sys.argv[1])
name = lambda prefix, column: c.binary_join_element_wise(prefix, read[column].cast(pa.string()), "-")
events = pa.table({
    "event_time": read["TX_DATETIME"].cast(pa.timestamp("us")), "card_id": name("card", "CUSTOMER_ID"),
    "terminal_id": name("terminal", "TERMINAL_ID"), "amount": read["TX_AMOUNT"].cast(pa.float64()),
}).sort_by("event_time")
pa.parquet.write_table(events, sys.argv[2] + "/events.parquet")
text = c.strftime(events["event_time"].cast(pa.timestamp("ms")), format="%Y-%m-%d %H:%M:%S")
options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
pa.csv.write_csv(events.set_column(0, "event_time", text), sys.argv[2] + "/events.csv", options)
print(len(events))
"""


def run(*command):
    """Words that a command prints last."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()


def main():
    file, work = [Path(word).absolute() for word in sys.argv[1:3]]
    keys = sys.argv[3:] or ["card", "both"]
    python = work / "venv/bin/python"
    if not python.exists():
        venv.create(work / "venv", with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        run(*pip, *PACKAGES)
        run(*pip, "--no-deps", *FLINK)
    rows = int(run(python, "-c", MAKE, file, work)[-1])
    parquet, csv = work / "events.parquet", work / "events.csv"
    datafusion, flink = HERE / "datafusion_windows.py", HERE / "flink.py"

    print(f"{rows} events, {os.cpu_count()} cores\n")
    print("| windows by | who | events/s | times as long as Sanderling on one thread | on all |\n|---|---|---|---|---|")
    for what in keys:
        ours = []
        for name, command in [
            ("Sanderling, one thread", [*BENCH, what, file]),
            (f"Sanderling, {os.cpu_count()} threads", [*BENCH, what, file, os.cpu_count()]),
            ("DataFusion 55, batch over memory", [python, datafusion, parquet, "batch", what]),
            ("DataFusion 55, streaming operator over CSV", [python, datafusion, csv, "stream", what]),
            ("Flink 2.3 SQL over CSV", [python, flink, csv, what]),
            ("Flink 2.3, reading the CSV alone", [python, flink, csv, "scan"]),
        ]:
            seconds = float(run(*command)[-1])
            if len(ours) < 2:
                ours.append(seconds)
            times = [f"{seconds / own:.1f}" for own in ours]
            print(f"| {what} | {name} | {rows / seconds:,.0f} | {' | '.join((*times, '')[:2])} |", flush=True)


main()
