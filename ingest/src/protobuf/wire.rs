//! Protobuf's wire format: fields by number, each with enough of its type to pass over it.

/// Where bytes are not Protobuf, in words.
pub(super) type Broken = &'static str;

/// How deep groups may lie within each other.
const GROUPS_MAX: usize = 32;

/// A value as the wire has it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
    Group,
}

impl Wire<'_> {
    pub(super) fn name(self) -> &'static str {
        match self {
            Wire::Varint(_) => "an integer",
            Wire::Fixed64(_) => "eight bytes",
            Wire::Fixed32(_) => "four bytes",
            Wire::Bytes(_) => "text, bytes or a message",
            Wire::Group => "a group",
        }
    }
}

/// The fields of a message that are left.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next field: its number and its value.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Broken> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (number, kind) = self.tag()?;
        if kind == 4 {
            return Err("a group ends that did not begin");
        }
        Ok(Some((number, self.value(number, kind, 0)?)))
    }

    /// A number as registries' clients write it, the sign in the lowest bit.
    pub(super) fn zigzag(&mut self) -> Result<i64, Broken> {
        self.varint().map(unzigzag)
    }

    fn tag(&mut self) -> Result<(u32, u8), Broken> {
        let tag = u32::try_from(self.varint()?).map_err(|_| "a field's number is too large")?;
        match tag >> 3 {
            0 => Err("a field has the number 0"),
            number => Ok((number, (tag & 7) as u8)),
        }
    }

    fn value(&mut self, number: u32, kind: u8, depth: usize) -> Result<Wire<'a>, Broken> {
        Ok(match kind {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.array()?),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| BREAKS_OFF)?;
                Wire::Bytes(self.take(len)?)
            }
            3 if depth == GROUPS_MAX => return Err("groups lie too deep within each other"),
            3 => loop {
                let (inner, kind) = self.tag()?;
                if kind != 4 {
                    self.value(inner, kind, depth + 1)?;
                } else if inner == number {
                    break Wire::Group;
                } else {
                    return Err("a group ends that did not begin");
                }
            },
            5 => Wire::Fixed32(self.array()?),
            _ => return Err("a field has no known wire type"),
        })
    }

    fn varint(&mut self) -> Result<u64, Broken> {
        let mut value = 0u64;
        for (at, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        match self.0.len() {
            0..10 => Err(BREAKS_OFF),
            _ => Err("a number has too many bytes"),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(BREAKS_OFF)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(BREAKS_OFF)?;
        self.0 = rest;
        Ok(*taken)
    }
}

const BREAKS_OFF: Broken = "it breaks off";

/// A number whose sign stands in its lowest bit.
pub(super) fn unzigzag(bits: u64) -> i64 {
    (bits >> 1) as i64 ^ -((bits & 1) as i64)
}
