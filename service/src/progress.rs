//! A progress bar where someone is watching, and nothing where no one is.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// Progress of one command, drawn on stderr, and only on a terminal.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Through rows of `total`, if that is known.
    pub fn rows(what: &'static str, total: Option<u64>) -> Self {
        match total {
            Some(total) => Self::drawn(
                what,
                ProgressBar::new(total),
                "{prefix} {wide_bar} {human_pos}/{human_len} rows, {per_sec}, {eta} left",
            ),
            None => Self::drawn(
                what,
                ProgressBar::no_length(),
                "{prefix} {spinner} {human_pos} rows, {per_sec}",
            ),
        }
    }

    /// Through epochs of training.
    pub fn epochs(what: &'static str) -> Self {
        Self::drawn(what, ProgressBar::new(1), "{prefix} {wide_bar} {msg}")
    }

    fn drawn(what: &'static str, bar: ProgressBar, template: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let style = ProgressStyle::with_template(template).expect("a template of ours");
        Self(Some(bar.with_prefix(what).with_style(style)))
    }

    /// Rows done.
    pub fn set(&self, rows: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(rows);
        }
    }

    /// An epoch done, of `of`.
    pub fn epoch(&self, epochs: usize, of: usize, loss: f64) {
        if let Some(bar) = &self.0 {
            bar.set_length(of as u64);
            bar.set_position(epochs as u64);
            bar.set_message(format!("epoch {epochs}/{of}, loss {loss:.5}"));
        }
    }

    /// An epoch done of a fold, of several folds side by side.
    pub fn fold_epoch(&self, fold: usize, folds: usize, epochs: usize, of: usize) {
        if let Some(bar) = &self.0 {
            bar.set_length((folds * of) as u64);
            bar.set_position((fold * of + epochs) as u64);
            bar.set_message(format!("fold {}/{folds}, epoch {epochs}/{of}", fold + 1));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
