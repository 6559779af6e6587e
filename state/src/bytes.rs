//! The byte form of state: little-endian, length-prefixed, checked when read.

use crate::StateError;

/// A value that can be written to a snapshot and read back.
pub trait Persist: Sized {
    /// How many values of this type share a page: the unit of copying after a snapshot.
    const PAGE_VALUES: usize = 64;

    /// Appends the value's bytes.
    fn write(&self, out: &mut Vec<u8>);

    /// Takes the value off the front of `input`.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when the bytes end early or cannot be a value.
    fn read(input: &mut &[u8]) -> Result<Self, StateError>;
}

/// Takes `len` bytes off the front of `input`.
pub(crate) fn take<'a>(input: &mut &'a [u8], len: usize) -> Result<&'a [u8], StateError> {
    if input.len() < len {
        return Err(StateError::Damaged(format!(
            "{len} bytes expected, {} left",
            input.len()
        )));
    }
    let (taken, rest) = input.split_at(len);
    *input = rest;
    Ok(taken)
}

/// Takes a count of items that each need at least `item_bytes` of what is left.
fn take_len(input: &mut &[u8], item_bytes: usize) -> Result<usize, StateError> {
    let len = u64::read(input)?;
    let fits = len
        .checked_mul(item_bytes as u64)
        .is_some_and(|n| n <= input.len() as u64);
    if !fits {
        return Err(StateError::Damaged(format!(
            "{len} items announced, {} bytes left",
            input.len()
        )));
    }
    Ok(len as usize)
}

macro_rules! persist_number {
    ($($t:ty),*) => {$(
        impl Persist for $t {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn read(input: &mut &[u8]) -> Result<Self, StateError> {
                let bytes = take(input, size_of::<$t>())?;
                Ok(<$t>::from_le_bytes(bytes.try_into().expect("took as many bytes as the type has")))
            }
        }

        impl Persist for Vec<$t> {
            fn write(&self, out: &mut Vec<u8>) {
                (self.len() as u64).write(out);
                out.reserve(self.len() * size_of::<$t>());
                for value in self {
                    out.extend_from_slice(&value.to_le_bytes());
                }
            }

            fn read(input: &mut &[u8]) -> Result<Self, StateError> {
                let len = take_len(input, size_of::<$t>())?;
                let bytes = take(input, len * size_of::<$t>())?;
                Ok(bytes
                    .chunks_exact(size_of::<$t>())
                    .map(|b| <$t>::from_le_bytes(b.try_into().expect("chunks have the type's size")))
                    .collect())
            }
        }
    )*};
}

persist_number!(u8, u16, u32, u64, i8, i32, i64, i128, f32, f64);

impl Persist for String {
    fn write(&self, out: &mut Vec<u8>) {
        (self.len() as u64).write(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn read(input: &mut &[u8]) -> Result<Self, StateError> {
        let bytes = Vec::<u8>::read(input)?;
        String::from_utf8(bytes).map_err(|e| StateError::Damaged(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lists_come_back() {
        let mut out = Vec::new();
        vec![1i64, -2, i64::MIN].write(&mut out);
        f64::NAN.write(&mut out);
        "terminal".to_string().write(&mut out);
        let mut input = out.as_slice();
        assert_eq!(Vec::<i64>::read(&mut input).unwrap(), [1, -2, i64::MIN]);
        assert!(f64::read(&mut input).unwrap().is_nan());
        assert_eq!(String::read(&mut input).unwrap(), "terminal");
        assert!(input.is_empty());
    }

    #[test]
    fn a_length_beyond_the_input_is_an_error() {
        let mut out = Vec::new();
        u64::MAX.write(&mut out);
        assert!(Vec::<u64>::read(&mut out.as_slice()).is_err());
        assert!(String::read(&mut &out[..3]).is_err());
    }
}
