//! A file that holds a key.
//!
//! Either the key's bytes themselves or, if that is all there is, its hexadecimal digits, as
//! `openssl rand -hex 32` writes them; one line end behind either is not a part of the key.

use std::path::Path;

use crate::IngestError;

/// Bytes that a key must have.
pub(crate) const KEY_BYTES: usize = 32;

/// The key in `path`: at least [`KEY_BYTES`] bytes.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, IngestError> {
    let file = std::fs::read(path).map_err(|source| IngestError::Key {
        path: path.into(),
        message: source.to_string(),
    })?;
    let key = parse(&file);
    if key.len() < KEY_BYTES {
        return Err(IngestError::Key {
            path: path.into(),
            message: format!("{} bytes are too short for a key", key.len()),
        });
    }
    Ok(key)
}

fn parse(file: &[u8]) -> Vec<u8> {
    // Random bytes may end in what looks like a line end.
    let line = match file {
        [key @ .., b'\r', b'\n'] | [key @ .., b'\n'] if key.len() >= KEY_BYTES => key,
        whole => whole,
    };
    match hex::decode(line) {
        Ok(key) if key.len() >= KEY_BYTES => key,
        _ => line.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_bytes_are_keys() {
        let key: Vec<u8> = (0..32).collect();
        let digits = hex::encode(&key);
        assert_eq!(parse(&key), key);
        assert_eq!(parse(digits.as_bytes()), key);
        assert_eq!(parse(format!("{digits}\n").as_bytes()), key);
        assert_eq!(parse(format!("{digits}\r\n").as_bytes()), key);
        let ends_in_line_end = [vec![7; 31], vec![b'\n']].concat();
        assert_eq!(parse(&ends_in_line_end), ends_in_line_end);
    }

    #[test]
    fn what_is_no_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(read(&path).unwrap_err().to_string().contains("key"));
        std::fs::write(&path, "secret\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.contains("too short") && !error.contains("secret"),
            "{error}"
        );
    }
}
