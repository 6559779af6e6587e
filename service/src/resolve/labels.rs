//! Labels: the columns they stand in, and the file's column they may come from.

use arrow::datatypes::DataType;
use sanderling_ingest::{LabelFileSpec, StreamSpec};
use sanderling_schemas::{LabelColumns, Stream};

use super::Resolver;
use crate::settings::Settings;

impl Resolver<'_> {
    /// Where labels stand in the relation; adds what is not declared of them.
    pub(super) fn labels(
        &mut self,
        settings: &Settings,
        id: Option<&str>,
        columns: &mut Vec<(String, DataType)>,
        streams: &mut Vec<Stream>,
    ) -> Option<LabelColumns> {
        let labels = settings.labels.as_ref()?;
        let horizon_us = self.duration(&["labels", "horizon"], &labels.horizon);
        let Some(id) = id else {
            self.fault(
                &["labels"],
                "labels refer to events, but no scored stream has an id",
                "give the scored stream an `id`",
            );
            return None;
        };
        let id_type = columns
            .iter()
            .find(|(name, _)| name == id)
            .map(|(_, t)| t.clone());
        match columns.iter().find(|(name, _)| *name == labels.reference) {
            Some((_, t)) if Some(t) == id_type.as_ref() => {}
            Some((_, t)) => self.fault(
                &["labels", "reference"],
                format!(
                    "the reference `{}` is {t}, the id `{id}` is not",
                    labels.reference
                ),
                "give both one type",
            ),
            None => self.fault(
                &["labels", "reference"],
                format!("the reference `{}` is not a column", labels.reference),
                format!("declare it on the label stream, or write reference: {id}"),
            ),
        }
        match columns.iter().find(|(name, _)| *name == labels.value) {
            Some(_) => {}
            None => columns.push((labels.value.clone(), DataType::Int64)),
        }
        let stream = match settings
            .streams
            .0
            .iter()
            .position(|(name, _)| *name == labels.stream)
        {
            Some(at) if streams[at].scored => {
                self.fault(
                    &["labels", "stream"],
                    "the label stream cannot be scored",
                    "take it out of score",
                );
                at
            }
            Some(at) => at,
            None if labels.file.is_some() => {
                streams.push(Stream {
                    name: labels.stream.as_str().into(),
                    scored: false,
                    key: None,
                });
                streams.len() - 1
            }
            None => {
                self.fault(
                    &["labels", "stream"],
                    format!("the label stream `{}` is not in streams", labels.stream),
                    "declare it, or take labels from a file's column with labels.file",
                );
                0
            }
        };
        Some(LabelColumns {
            stream,
            reference: labels.reference.clone(),
            value: labels.value.clone(),
            horizon_us,
        })
    }

    /// Labels made from a column of a recorded file.
    pub(super) fn label_file(
        &mut self,
        settings: &Settings,
        labels: Option<&LabelColumns>,
        streams: &[Stream],
        specs: &[StreamSpec],
    ) -> Option<LabelFileSpec> {
        let file = settings.labels.as_ref()?.file.as_ref()?;
        labels?;
        let delay_us = self.duration(&["labels", "file", "delay"], &file.delay);
        for (spec, stream) in specs.iter().zip(streams) {
            if stream.scored && spec.id.is_none() {
                self.fault(
                    &["labels", "file"],
                    format!(
                        "labels from a column need an id on the stream `{}`",
                        spec.name
                    ),
                    "give the stream an `id`",
                );
            }
        }
        Some(LabelFileSpec {
            column: file.column.clone(),
            delay_us,
        })
    }
}
