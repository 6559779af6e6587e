//! What a schema registry's client writes before a record: a zero, then the schema's id.

use sanderling_schemas::RejectReason;

/// Bytes before the record.
const BYTES: usize = 5;

/// The schema's id and what follows it.
pub(crate) fn split(record: &[u8]) -> Result<(u32, &[u8]), (RejectReason, String)> {
    let broken = |detail: String| Err((RejectReason::BrokenFraming, detail));
    match record {
        [0, a, b, c, d, rest @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), rest)),
        [0, ..] => broken(format!(
            "{} bytes, where {BYTES} name the schema",
            record.len()
        )),
        [] => broken("the record is empty".into()),
        // What it begins with instead would tell of the record.
        _ => broken("the record does not begin with a zero and a schema's id".into()),
    }
}

/// What stands before a record of the schema `id`.
pub fn framing_of(id: u32) -> [u8; BYTES] {
    let [a, b, c, d] = id.to_be_bytes();
    [0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stands_behind_a_zero() {
        let framed = [&framing_of(70_000)[..], b"x"].concat();
        assert_eq!(framed, [0, 0, 1, 0x11, 0x70, b'x']);
        assert_eq!(split(&framed), Ok((70_000, &b"x"[..])));
        for broken in [&b""[..], b"{\"a\":1}", b"\0\0\0\0"] {
            assert_eq!(split(broken).unwrap_err().0, RejectReason::BrokenFraming);
        }
    }
}
