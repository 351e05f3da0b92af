//! The protobuf wire format: tags and values, without meaning.

/// Bytes that are no protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Number(u64),
    Fixed64(u64),
    Fixed32(u32),
    /// Text, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order they were written.
pub(super) fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<(u32, Field<'_>), Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

/// The numbers of a packed list.
pub(super) fn packed(bytes: &[u8]) -> impl Iterator<Item = Result<u64, Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let number = varint(&mut rest);
        if number.is_err() {
            rest = &[];
        }
        Some(number)
    })
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<(u32, Field<'a>), Malformed> {
    let tag = varint(rest)?;
    let number = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
    let field = match tag & 7 {
        0 => Field::Number(varint(rest)?),
        1 => Field::Fixed64(u64::from_le_bytes(take(rest, 8)?.try_into().map_err(|_| Malformed)?)),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| Malformed)?;
            Field::Bytes(take(rest, length)?)
        }
        5 => Field::Fixed32(u32::from_le_bytes(take(rest, 4)?.try_into().map_err(|_| Malformed)?)),
        _ => return Err(Malformed),
    };
    Ok((number, field))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = left;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (byte, left) = rest.split_first().ok_or(Malformed)?;
        *rest = left;
        if shift < 64 {
            value |= u64::from(byte & 0x7f) << shift;
        }
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}
