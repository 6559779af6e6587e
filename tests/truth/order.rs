//! `replay --order`: the input in a recorded order and on its rungs, and `--resume` with what the
//! first run was given.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
    UInt32Array,
};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{Field, Schema};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::check::Replay;
use crate::crash::{checkpoints, killed_and_resumed};
use crate::outcome::{Outcome, read_parquet, same_rows};
use crate::random::Random;
use crate::sanderling::{answer_of, command, finish, scratch, start};
use crate::scenario::Scenario;

/// Rows of the scrambled stream.
const ROWS: usize = 2500;
const RUNGS: [&str; 4] = ["full", "no_graph", "full", "rules"];

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn the_order_that_a_replay_wrote_gives_its_decisions_again() {
    let scenario = Scenario::open("cards");
    let input = scenario.simulated();
    let model = scenario.model(&input);
    let replay = Replay::new(&scenario, &model, &[input]);
    let folder = scratch();
    let out = |name: &str| folder.path().join(name);
    let first = out("first");
    answer_of(command(&replay.with(&[
        "--out",
        text(&first),
        "--batch-rows",
        "97",
    ])));
    let again = out("again");
    answer_of(command(&replay.with(&[
        "--out",
        text(&again),
        "--order",
        text(&first.join("order.parquet")),
        "--against",
        text(&first.join("decisions.parquet")),
        "--threads",
        "2",
    ])));
    Outcome::read(&first).must_equal(&Outcome::read(&again), "in the order of the first");
    // A batch is what the log says that it was, and no more.
    let records = |folder: &Path| read_parquet(&folder.join("order.parquet")).num_rows();
    assert!(records(&first) > 100);
    let empty = empty_records(&read_parquet(&first.join("order.parquet")));
    assert_eq!(records(&again), records(&first) - empty);

    // Another stretch of the same log, and an end that cuts it.
    let stretch = out("stretch");
    let bounds = ["--from", "2025-01-05", "--to", "2025-01-06"];
    let mut args = replay.with(&bounds);
    args.extend(["--out", text(&stretch)].map(String::from));
    answer_of(command(&args));
    let by_order = out("stretch-by-order");
    let mut args = replay.with(&bounds);
    let order = first.join("order.parquet");
    args.extend(["--out", text(&by_order), "--order", text(&order)].map(String::from));
    answer_of(command(&args));
    Outcome::read(&stretch).must_equal(&Outcome::read(&by_order), "a stretch of the order");
}

/// Records without runs: those of labels alone.
fn empty_records(orders: &RecordBatch) -> usize {
    let runs = orders.column_by_name("runs").expect("runs").clone();
    let runs = runs.as_list::<i32>();
    (0..runs.len())
        .filter(|row| runs.value(*row).is_empty())
        .count()
}

/// A recorded stream without labels, of two partitions, and another order for it.
struct Scrambled {
    folder: tempfile::TempDir,
    replay: Replay,
    table: RecordBatch,
    order: PathBuf,
    /// Rows of `table`, in the other order.
    rows: Vec<u32>,
    /// The rung of each of them.
    rungs: Vec<&'static str>,
}

impl Scrambled {
    fn new() -> Self {
        let scenario = Scenario::open("cards");
        let simulated = scenario.simulated();
        let model = scenario.model(&simulated);
        let folder = scratch();
        let table = recorded(&read_parquet(&simulated).slice(0, ROWS));
        let input = folder.path().join("input.parquet");
        write(&input, &table);
        // Rows come up to a few hundred places from where they were, in stretches that keep together.
        let mut random = Random::seeded("scrambled order");
        let mut stretches: Vec<(u64, Vec<u32>)> = Vec::new();
        let mut next = 0;
        while next < ROWS as u64 {
            let end = (next + 1 + random.next() % 30).min(ROWS as u64);
            let at = next + random.next() % 300;
            stretches.push((at, (next as u32..end as u32).collect()));
            next = end;
        }
        stretches.sort();
        let rows: Vec<u32> = stretches.into_iter().flat_map(|(_, rows)| rows).collect();
        let (mut lines, mut rungs) = (Vec::new(), Vec::new());
        for (number, batch) in rows.chunks(61).enumerate() {
            let rung = RUNGS[number % RUNGS.len()];
            let runs: Vec<Value> = (batch.iter())
                .map(|row| {
                    let (partition, offset) = (row % 2, row / 2);
                    json!({"topic": "payments", "partition": partition,
                        "from": offset, "next": offset + 1})
                })
                .collect();
            let versions = json!({"features": "f", "model": "m", "policy": "p", "tables": {}});
            let record = json!({"sequence": rungs.len(), "rung": rung, "versions": versions,
                "runs": runs});
            lines.push(record.to_string());
            rungs.extend(std::iter::repeat_n(rung, batch.len()));
        }
        let order = folder.path().join("order.jsonl");
        fs::write(&order, lines.join("\n") + "\n").expect("a file");
        let replay = Replay::new(&scenario, &model, &[input]);
        Self {
            folder,
            replay,
            table,
            order,
            rows,
            rungs,
        }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[test]
fn a_scrambled_order_is_followed_on_its_rungs_and_resumed() {
    let scrambled = Scrambled::new();
    let order = text(&scrambled.order).to_string();
    let out = scrambled.out("by-order");
    let started = std::time::Instant::now();
    let args = ["--out", text(&out), "--order", &order];
    answer_of(command(&scrambled.replay.with(&args)));
    let took = started.elapsed();
    let by_order = Outcome::read(&out);
    by_order.must_be_sound();
    assert_eq!(by_order.count("decided"), ROWS as u64);
    assert_eq!(by_order.texts("rung"), scrambled.rungs);

    // The same as if the rows had stood in this order in the file; a rung changes scores and no state.
    let moved = scrambled.out("moved").join("input.parquet");
    fs::create_dir(scrambled.out("moved")).expect("a folder");
    let rows = UInt32Array::from(scrambled.rows.clone());
    let moved_table = take_record_batch(&scrambled.table, &rows).expect("rows that are there");
    write(&moved, &moved_table);
    let in_file = scrambled.out("in-file");
    let mut args = scrambled.replay.with(&["--out", text(&in_file)]);
    let at = args.iter().position(|arg| arg == "--input").expect("input");
    args[at + 1] = text(&moved).into();
    answer_of(command(&args));
    let in_file = Outcome::read(&in_file);
    let full: BooleanArray = (scrambled.rungs.iter())
        .map(|rung| Some(*rung == "full"))
        .collect();
    let on_full = |of: &Outcome| filter_record_batch(&of.decisions, &full).expect("of that length");
    same_rows(&on_full(&in_file), &on_full(&by_order), "on the full rung");
    let known = |of: &Outcome| {
        let schema = of.decisions.schema();
        let kept: Vec<usize> = (schema.fields().iter().enumerate())
            .filter(|(_, f)| f.name().starts_with("f_") || f.name() == "id")
            .map(|(at, _)| at)
            .collect();
        of.decisions.project(&kept).expect("columns that are there")
    };
    same_rows(&known(&in_file), &known(&by_order), "features");

    // Small batches, and a crash.
    let ordered = Replay {
        args: scrambled.replay.with(&["--order", &order]),
        pipeline: scrambled.replay.pipeline.clone(),
    };
    let small = scrambled.out("small");
    answer_of(command(&ordered.with(&[
        "--out",
        text(&small),
        "--batch-rows",
        "7",
    ])));
    by_order.must_equal(&Outcome::read(&small), "in pieces");
    let crashed = scrambled.out("crashed");
    killed_and_resumed(&ordered, &crashed, by_order.count("in"), took);
    by_order.must_equal(&Outcome::read(&crashed), "killed and resumed");
}

#[test]
fn lanes_are_folds_of_their_own() {
    let scrambled = Scrambled::new();
    let versions = json!({"features": "f", "model": "m", "policy": "p", "tables": {}});
    let (mut lines, mut backlog) = (Vec::new(), [Vec::new(), Vec::new()]);
    for from in (0..ROWS / 2).step_by(40) {
        for lane in [0, 1] {
            let next = (from + 40).min(ROWS / 2);
            let late = (from / 40 + lane) % 3 == 0;
            backlog[lane].extend(std::iter::repeat_n(late, next - from));
            let run = json!({"topic": "payments", "partition": lane, "from": from, "next": next});
            let record = json!({"sequence": from, "lane": lane, "backlog": late, "rung": "full",
                "versions": versions, "runs": [run]});
            lines.push(record.to_string());
        }
    }
    let order = scrambled.out("lanes.jsonl");
    fs::write(&order, lines.join("\n")).expect("a file");
    let out = scrambled.out("lanes");
    let args = ["--out", text(&out), "--order", text(&order)];
    answer_of(command(&scrambled.replay.with(&args)));
    let in_lanes = Outcome::read(&out);
    assert_eq!(in_lanes.count("decided"), ROWS as u64);
    let partitions = in_lanes.doubles("_partition");
    let flags = in_lanes.texts("flags");
    for lane in [0, 1] {
        let of_lane: BooleanArray = partitions.iter().map(|p| Some(*p == lane as f64)).collect();
        let late: Vec<bool> = (flags.iter().zip(&partitions))
            .filter(|(_, partition)| **partition == lane as f64)
            .map(|(flags, _)| flags.contains("backlog"))
            .collect();
        assert_eq!(late, backlog[lane]);

        // The same as if the other partition had never been.
        let rows: BooleanArray = (0..ROWS).map(|row| Some(row % 2 == lane)).collect();
        let alone = scrambled.out(&format!("partition-{lane}.parquet"));
        let table = filter_record_batch(&scrambled.table, &rows).expect("of that length");
        write(&alone, &table);
        let out = scrambled.out(&format!("alone-{lane}"));
        let mut args = scrambled.replay.with(&["--out", text(&out)]);
        let at = args.iter().position(|arg| arg == "--input").expect("input");
        args[at + 1] = text(&alone).into();
        answer_of(command(&args));
        let unflagged = |decisions: &RecordBatch| {
            let kept: Vec<usize> = (decisions.schema().fields().iter().enumerate())
                .filter(|(_, field)| field.name() != "flags")
                .map(|(at, _)| at)
                .collect();
            decisions.project(&kept).expect("columns that are there")
        };
        let own = filter_record_batch(&in_lanes.decisions, &of_lane).expect("of that length");
        same_rows(
            &unflagged(&Outcome::read(&out).decisions),
            &unflagged(&own),
            &format!("lane {lane}"),
        );
    }
    // The log that a replay in lanes writes is one in lanes.
    let orders = read_parquet(&out.join("order.parquet"));
    assert_eq!(
        orders.column_by_name("lane").expect("lanes").null_count(),
        0
    );
    let again = scrambled.out("lanes-again");
    let order = out.join("order.parquet");
    let args = ["--out", text(&again), "--order", text(&order)];
    answer_of(command(&scrambled.replay.with(&args)));
    let (one, other) = (in_lanes.decisions, Outcome::read(&again).decisions);
    same_rows(&one, &other, "in the order of a replay in lanes");
}

#[test]
fn an_order_that_does_not_fit_is_refused() {
    let scrambled = Scrambled::new();
    let refused = |order: &str, name: &str, status: i32, wanted: &[&str]| {
        let file = scrambled.out(name);
        fs::write(&file, order).expect("a file");
        let out = scrambled.out("refused");
        let args = ["--out", text(&out), "--order", text(&file)];
        let done = finish(command(&scrambled.replay.with(&args)));
        assert_eq!(done.status, status, "{done:?}");
        for words in wanted {
            assert!(done.stderr.contains(words), "{words} in {}", done.stderr);
        }
    };
    let order = fs::read_to_string(&scrambled.order).expect("the order");
    let mut lines: Vec<&str> = order.lines().collect();
    let mut record: Value = serde_json::from_str(lines[3]).expect("a record");
    record["runs"][0]["from"] = json!(5000);
    record["runs"][0]["next"] = json!(5001);
    let beyond = record.to_string();
    lines[3] = &beyond;
    refused(
        &lines.join("\n"),
        "beyond.jsonl",
        1,
        &["/5000..5001, but the input has no payments/", "--input"],
    );
    let mut lines: Vec<&str> = order.lines().collect();
    let lost = lines.remove(5);
    refused(
        &lines.join("\n"),
        "hole.jsonl",
        1,
        &["sequence 366 stands where sequence 305 comes next"],
    );
    lines.push(lost);
    lines.push(lost);
    refused(&lines.join("\n"), "twice.jsonl", 1, &["twice in the order"]);
    refused("{\n", "torn.jsonl", 1, &["torn.jsonl", "not an order log"]);
    refused("", "order.csv", 2, &["order.csv", ".parquet"]);
}

#[test]
fn resume_takes_what_the_first_run_was_given() {
    let scrambled = Scrambled::new();
    let out = scrambled.out("out");
    let state = out.join("state").join(&scrambled.replay.pipeline);
    let args = scrambled.replay.with(&[
        "--out",
        text(&out),
        "--batch-rows",
        "16",
        "--from",
        "2025-01-02",
        "--set",
        "state.interval=1ms",
    ]);
    // Killed with a checkpoint to go on from.
    loop {
        let mut child = start(command(&args));
        while checkpoints(&state).is_empty() && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.kill().expect("a child can be killed");
        if !child.wait().expect("a child ends").success() && !checkpoints(&state).is_empty() {
            break;
        }
        fs::remove_dir_all(&out).expect("an output folder");
    }
    let resumed = |change: &dyn Fn(&mut Vec<String>)| {
        let mut args = args.clone();
        args.push("--resume".into());
        change(&mut args);
        finish(command(&args))
    };
    let other = scrambled.out("other.parquet");
    write(&other, &scrambled.table);
    let put = |flag: &'static str, value: String| {
        move |args: &mut Vec<String>| match args.iter().position(|arg| arg == flag) {
            Some(at) => args[at + 1] = value.clone(),
            None => args.extend([flag.to_string(), value.clone()]),
        }
    };
    for (flag, value) in [
        ("--input", text(&other)),
        ("--from", "2025-01-03"),
        ("--to", "2025-01-04"),
        ("--order", text(&scrambled.order)),
    ] {
        let done = resumed(&put(flag, value.into()));
        assert_eq!(done.status, 2, "{done:?}");
        for words in [flag, value, "--resume"] {
            assert!(done.stderr.contains(words), "{words} in {}", done.stderr);
        }
    }
    // What changes no decision may change, and so may the way to the file.
    let input = args[args.iter().position(|arg| arg == "--input").expect("input") + 1].clone();
    let (folder, name) = input.rsplit_once('/').expect("a path");
    let around = format!("{folder}/./{name}");
    let done = resumed(&|args: &mut Vec<String>| {
        put("--input", around.clone())(args);
        put("--batch-rows", "500".into())(args);
        put("--threads", "2".into())(args);
    });
    assert_eq!(done.status, 0, "{done:?}");
    let whole = scrambled.out("whole");
    let from = ["--out", text(&whole), "--from", "2025-01-02"];
    answer_of(command(&scrambled.replay.with(&from)));
    Outcome::read(&whole).must_equal(&Outcome::read(&out), "resumed");
}

/// The table without its labels, with an origin in one of two partitions for each row.
fn recorded(table: &RecordBatch) -> RecordBatch {
    let kept: Vec<usize> = (table.schema().fields().iter().enumerate())
        .filter(|(_, field)| field.name() != "is_fraud")
        .map(|(at, _)| at)
        .collect();
    let table = table.project(&kept).expect("columns that are there");
    let mut fields: Vec<Arc<Field>> = table.schema().fields().iter().cloned().collect();
    let mut columns: Vec<ArrayRef> = table.columns().to_vec();
    let rows = 0..table.num_rows() as i64;
    let origins: [(&str, ArrayRef); 3] = [
        (
            "_topic",
            Arc::new(StringArray::from_iter_values(
                rows.clone().map(|_| "payments"),
            )),
        ),
        (
            "_partition",
            Arc::new(Int32Array::from_iter_values(
                rows.clone().map(|row| row as i32 % 2),
            )),
        ),
        (
            "_offset",
            Arc::new(Int64Array::from_iter_values(rows.map(|row| row / 2))),
        ),
    ];
    for (name, column) in origins {
        fields.push(Arc::new(Field::new(
            name,
            column.data_type().clone(),
            false,
        )));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of one length")
}

fn write(path: &Path, table: &RecordBatch) {
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, table.schema(), None).expect("a writer");
    writer.write(table).expect("rows");
    writer.close().expect("a footer");
}
