//! Hashed columns and the keys that they need.

use std::collections::BTreeMap;

use sanderling_ingest::{HashKey, IngestError, SealKey};

use super::Resolver;
use super::values::parse_type;
use crate::settings::{Settings, StreamSettings};

const WRITE_A_KEY: &str =
    "write one with `openssl rand -hex 32 > FILE`, readable by the service's user alone";

/// The keys of a pipeline.
#[derive(Default)]
pub(super) struct Keys {
    pub hash: Option<HashKey>,
    pub seal: Option<SealKey>,
}

/// The columns of a stream that are hashed: name and source field.
fn hashed(stream: &StreamSettings) -> impl Iterator<Item = (&str, &str)> {
    let columns = stream.columns.0.iter();
    let hashed = columns.filter(|(_, declared)| declared.hash.is_some());
    hashed.map(|(name, declared)| {
        let from = declared.from.as_ref().unwrap_or(name);
        (name.as_str(), from.as_str())
    })
}

impl Resolver<'_> {
    /// Reads the keys, each of which must be there if a column is hashed.
    pub(super) fn keys(&mut self, settings: &Settings) -> Keys {
        let mut keys = Keys::default();
        if let Some(file) = &settings.hash_key_file {
            let read = HashKey::read(&self.beside(file));
            keys.hash = self.key("hash_key_file", read);
        }
        if let Some(file) = &settings.dead_letter_key_file {
            let read = SealKey::read(&self.beside(file));
            keys.seal = self.key("dead_letter_key_file", read);
        }
        let mut streams = settings.streams.0.iter();
        let first = streams.find_map(|(name, stream)| Some((name, hashed(stream).next()?.0)));
        let Some((stream, column)) = first else {
            return keys;
        };
        let place = ["streams", stream, "columns", column, "hash"];
        if settings.hash_key_file.is_none() {
            self.fault(
                &place,
                format!("the column `{column}` is hashed, but there is no key to hash it with"),
                format!("write hash_key_file: FILE; {WRITE_A_KEY}"),
            );
        }
        if settings.dead_letter_key_file.is_none() {
            self.fault(
                &place,
                format!(
                    "the column `{column}` is hashed, but a record that cannot be read would \
                     show it: there is no key to seal dead letters with"
                ),
                format!("write dead_letter_key_file: FILE; {WRITE_A_KEY}"),
            );
        }
        keys
    }

    fn key<K>(&mut self, setting: &str, read: Result<K, IngestError>) -> Option<K> {
        match read {
            Ok(key) => Some(key),
            Err(error) => {
                self.fault(&[setting], error.to_string(), WRITE_A_KEY);
                None
            }
        }
    }

    /// A hashed column is text, is hashed wherever it stands, and leaves by no other way.
    pub(super) fn hashed_columns(&mut self, settings: &Settings) {
        let mut plain: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, stream) in &settings.streams.0 {
            let hashed: Vec<_> = hashed(stream).map(|(column, _)| column).collect();
            let others = stream.columns.0.iter().map(|(column, _)| column.as_str());
            let others = others.filter(|column| !hashed.contains(column));
            plain.extend(others.chain(stream.id.as_deref()).filter_map(|column| {
                (!hashed.contains(&column)).then_some((column, name.as_str()))
            }));
        }
        for (name, stream) in &settings.streams.0 {
            for (column, from) in hashed(stream) {
                self.hashed_column(settings, (name, stream), (column, from), &plain);
            }
        }
        let Some(labels) = &settings.labels else {
            return;
        };
        let is_hashed = |column: &str| {
            let mut streams = settings.streams.0.iter();
            streams.any(|(_, stream)| hashed(stream).any(|(name, _)| name == column))
        };
        let mut scored = settings.streams.0.iter();
        let id = scored.find_map(|(name, stream)| {
            let id = stream.id.as_deref()?;
            settings.score.contains(name).then_some(id)
        });
        if let Some(id) = id
            && id != labels.reference
            && is_hashed(id) != is_hashed(&labels.reference)
        {
            self.fault(
                &["labels", "reference"],
                format!(
                    "labels refer by `{}` to the id `{id}`, of which only one is hashed",
                    labels.reference
                ),
                "write hash: hmac on both",
            );
        }
    }

    fn hashed_column(
        &mut self,
        settings: &Settings,
        (name, stream): (&str, &StreamSettings),
        (column, from): (&str, &str),
        plain: &BTreeMap<&str, &str>,
    ) {
        let place = ["streams", name, "columns", column, "hash"];
        let declared = stream.columns.get(column);
        if declared.and_then(|declared| parse_type(&declared.data_type))
            != Some(arrow::datatypes::DataType::Utf8)
        {
            self.fault(
                &place,
                format!("the column `{column}` is hashed, and a hash is text"),
                "write type: string",
            );
        }
        if settings
            .labels
            .as_ref()
            .is_some_and(|labels| labels.value == column)
        {
            self.fault(
                &place,
                format!("`{column}` is the label's value, which is a number and tells nothing"),
                "leave out `hash`",
            );
        }
        if let Some(other) = plain.get(column) {
            self.fault(
                &place,
                format!("the column `{column}` is hashed here and not in the stream `{other}`"),
                format!("write hash: hmac on `{column}` of `{other}` too"),
            );
        }
        let fields = stream
            .columns
            .0
            .iter()
            .filter(|(_, declared)| declared.hash.is_none());
        let mut fields = fields.map(|(name, declared)| declared.from.as_ref().unwrap_or(name));
        let label_file = settings
            .labels
            .as_ref()
            .and_then(|labels| labels.file.as_ref());
        if fields.any(|field| field == from)
            || stream.event_time.column == from
            || label_file.is_some_and(|file| file.column == from)
        {
            self.fault(
                &place,
                format!("the field `{from}` is hashed as `{column}`, but also read as it is"),
                "read it once, or write hash: hmac wherever it is read",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::resolve::tests::{PAYMENTS, faults, pipeline};

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";
    const KEYS: &str = "hash_key_file: hash.key\ndead_letter_key_file: letters.key\n";
    const FILES: [(&str, &str); 2] = [("hash.key", KEY), ("letters.key", KEY)];

    fn hashed(yaml: &str) -> String {
        format!("{}{KEYS}", yaml.replace("card: {}", "card: {hash: hmac}"))
    }

    #[test]
    fn a_hashed_column_needs_both_keys() {
        assert_eq!(faults(&hashed(PAYMENTS), &FILES), []);
        let resolved = pipeline(&hashed(PAYMENTS), &FILES).unwrap();
        let of = |name: &str| {
            let mut columns = resolved.streams[0].columns.iter();
            columns
                .find(|column| column.name == name)
                .unwrap()
                .hash
                .is_some()
        };
        assert!(of("card") && !of("id") && resolved.streams[0].seal.is_some());
        for (setting, message) in [
            ("hash_key_file: hash.key\n", "no key to hash it with"),
            (
                "dead_letter_key_file: letters.key\n",
                "no key to seal dead letters with",
            ),
        ] {
            let found = faults(&hashed(PAYMENTS).replace(setting, ""), &FILES);
            assert!(found[0].0.contains(message), "{found:?}");
            assert_eq!(found[0].1, Some(4));
        }
        let found = faults(&hashed(PAYMENTS), &[FILES[0], ("letters.key", "secret")]);
        assert!(
            found[0].0.contains("too short") && !found[0].0.contains("secret"),
            "{found:?}"
        );
        let found = faults(&hashed(PAYMENTS), &FILES[1..]);
        assert!(found[0].0.contains("hash.key"), "{found:?}");
    }

    #[test]
    fn a_hashed_column_leaves_by_no_other_way() {
        let fault = |yaml: &str| {
            let found = faults(&hashed(yaml), &FILES);
            found
                .into_iter()
                .map(|(message, _)| message)
                .collect::<Vec<_>>()
                .join("\n")
        };
        let number = PAYMENTS.replace("card: {}", "card: {hash: hmac, type: bigint}");
        assert!(fault(&number).contains("a hash is text"));
        let twice = PAYMENTS.replace("card: {}", "card: {}, bin: {from: card}");
        assert!(fault(&twice).contains("also read as it is"));
        let elsewhere = PAYMENTS.replace(
            "score:",
            "  q: {topic: q, event_time: {column: at}, columns: {card: {type: string}}}\nscore:",
        );
        assert!(
            fault(&elsewhere).contains("not in the stream `q`"),
            "{}",
            fault(&elsewhere)
        );
    }

    #[test]
    fn another_key_is_another_version_and_no_key_is_in_it() {
        let fingerprint = |key: &str| {
            let files = [("hash.key", key), FILES[1]];
            pipeline(&hashed(PAYMENTS), &files)
                .unwrap()
                .hash_fingerprint
        };
        let other = KEY.replace("00", "01");
        assert_ne!(fingerprint(KEY), fingerprint(&other));
        assert_eq!(fingerprint(KEY), fingerprint(KEY.trim_end()));
        assert_eq!(pipeline(PAYMENTS, &[]).unwrap().hash_fingerprint, None);
    }
}
