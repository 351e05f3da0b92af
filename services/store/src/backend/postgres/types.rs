//! Between Postgres' types and ours.

use jiff::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef, Postgres};
use sqlx::{Decode, Encode, Type, ValueRef as _};

use crate::watch::EventKind;

/// Microseconds from 1970 to 2000, where Postgres counts from.
const EPOCH_US: i64 = 946_684_800_000_000;

/// `timestamptz`.
#[derive(Debug, Clone, Copy)]
pub(super) struct At(pub Timestamp);

impl Type<Postgres> for At {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl Encode<'_, Postgres> for At {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&(self.0.as_microsecond() - EPOCH_US).to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for At {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        if value.is_null() {
            return Err("unexpected NULL".into());
        }
        let bytes: [u8; 8] = value.as_bytes()?.try_into()?;
        let since = i64::from_be_bytes(bytes).checked_add(EPOCH_US).ok_or("a time beyond all times")?;
        Ok(Self(Timestamp::from_microsecond(since)?))
    }
}

pub(super) fn kind_code(kind: EventKind) -> i16 {
    match kind {
        EventKind::Added => 1,
        EventKind::Modified => 2,
        EventKind::Deleted => 3,
    }
}

pub(super) fn kind_from(code: i16) -> Option<EventKind> {
    match code {
        1 => Some(EventKind::Added),
        2 => Some(EventKind::Modified),
        3 => Some(EventKind::Deleted),
        _ => None,
    }
}
