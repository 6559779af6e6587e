//! The reference tables of a service, which follow their files.
//!
//! A thread that lets all others go first looks at the files. One that has changed and then rested is read, hashed, kept
//! on the shelf and indexed there; what feeds the line only picks up what is ready, and engines only take a reference. The
//! version before is let go on that thread too, once no engine joins it: to free a large table takes time as well.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sanderling_features::{Table, TableJoins};

use super::priority::run_when_idle;
use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::tables::{TableShelf, TableSpec, Tables, versions};

/// Time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The tables of a service.
pub struct LiveTables {
    shelf: Arc<TableShelf>,
    now: Mutex<Tables>,
    ready: Receiver<Tables>,
    /// Tells the thread that looks, by being dropped, that nobody wants tables any more.
    _wanted: Sender<()>,
}

/// What tells that a file has changed.
type Stamp = Option<(SystemTime, u64)>;

impl LiveTables {
    /// Reads and keeps the tables of a folder, and follows their files from then on.
    ///
    /// # Errors
    /// As [`TableSpec::read`], and where the state folder cannot be written.
    pub fn of(folder: &PipelineFolder) -> Result<Self, Failure> {
        let shelf = Arc::new(TableShelf::of(folder));
        let stamps = shelf.specs().iter().map(stamp).collect::<Vec<_>>();
        let tables = (shelf.specs().iter()).map(|spec| shelf.read_and_keep(spec));
        let tables = tables.collect::<Result<Tables, _>>()?;
        let (wanted, unwanted) = bounded(0);
        let (found, ready) = bounded(1);
        if !tables.is_empty() {
            let watch = Watch {
                shelf: shelf.clone(),
                joins: folder.features()?.joins(),
                tables: tables.clone(),
                looked: stamps.clone(),
                read: stamps,
                retired: Vec::new(),
            };
            let watching = thread::Builder::new().name("tables".into());
            if let Err(error) = watching.spawn(move || watch.run(&unwanted, &found)) {
                tracing::warn!(%error, "no thread to follow the files of tables: they stay as they are");
            }
        }
        Ok(LiveTables {
            shelf,
            now: Mutex::new(tables),
            ready,
            _wanted: wanted,
        })
    }

    /// Where their earlier versions are.
    pub fn shelf(&self) -> &TableShelf {
        &self.shelf
    }

    /// As they were taken last.
    pub fn now(&self) -> Tables {
        self.lock().clone()
    }

    /// Takes the tables that are ready since they were taken last, if there are such, without waiting for anything.
    pub fn renewed(&self) -> Option<Tables> {
        let tables = self.ready.try_recv().ok()?;
        let mut now = self.lock();
        let known = versions(&now);
        for table in tables
            .iter()
            .filter(|table| known.get(table.name()).map(String::as_str) != Some(table.version()))
        {
            tracing::info!(table = table.name(), version = %table.version(), rows = table.rows().num_rows(), "table taken");
        }
        *now = tables.clone();
        Some(tables)
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What looks at the files.
struct Watch {
    shelf: Arc<TableShelf>,
    joins: TableJoins,
    /// As they were read last.
    tables: Tables,
    /// The files as they were at the last look, and as they were when they were read.
    looked: Vec<Stamp>,
    read: Vec<Stamp>,
    /// Versions that engines may still join.
    retired: Vec<Arc<Table>>,
}

impl Watch {
    fn run(mut self, unwanted: &Receiver<()>, found: &Sender<Tables>) {
        run_when_idle();
        while unwanted.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            self.retired
                .retain(|table| Arc::strong_count(table) > 1 || table.is_joined());
            // What was found before is picked up first.
            if found.is_empty() && self.look() && found.send(self.tables.clone()).is_err() {
                return;
            }
        }
    }

    /// Looks at the files. One that has changed since it was read, and not since the last look, is read and
    /// indexed; whether there are other tables then. A file that cannot be taken is said, and what was read
    /// before stays.
    fn look(&mut self) -> bool {
        let mut renewed: Vec<Arc<Table>> = self.tables.to_vec();
        for (at, spec) in self.shelf.specs().iter().enumerate() {
            let found = stamp(spec);
            let rests = found == self.looked[at];
            self.looked[at] = found;
            if found.is_none() || found == self.read[at] || !rests {
                continue;
            }
            self.read[at] = found;
            match self.take(spec, &renewed[at]) {
                Ok(table) if table.version() == renewed[at].version() => {}
                Ok(table) => self
                    .retired
                    .push(std::mem::replace(&mut renewed[at], table)),
                Err(why) => {
                    tracing::error!(
                        why,
                        table = spec.name,
                        "the file cannot be taken; the old version stays"
                    );
                }
            }
        }
        let changed = versions(&renewed) != versions(&self.tables);
        self.tables = renewed.into();
        changed
    }

    fn take(&self, spec: &TableSpec, before: &Table) -> Result<Arc<Table>, String> {
        let table = self.shelf.read_and_keep(spec).map_err(|e| e.to_string())?;
        if table.rows().schema() != before.rows().schema() {
            return Err("it has other columns than it had: restart to take them".into());
        }
        let indexed = self.joins.index(std::slice::from_ref(&table));
        indexed.map_err(|e| e.to_string())?;
        Ok(table)
    }
}

fn stamp(spec: &TableSpec) -> Stamp {
    let file = std::fs::metadata(&spec.path).ok()?;
    Some((file.modified().ok()?, file.len()))
}
