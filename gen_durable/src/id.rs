//! The typed id of an instance.
//!
//! Invariant: an id of one machine is used as another's only by [`InstanceId::from_raw`].

use std::{fmt, hash, marker::PhantomData, num::ParseIntError, str::FromStr};

use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef},
};

/// The id of an instance of the machine `M`.
///
/// Two machines' ids are two types, so a signal of one cannot be sent to the other. Tools that
/// know only a number use [`from_raw`](Self::from_raw) and [`get`](Self::get).
///
/// `Display` prints the id as its number, and `FromStr` reads it from that. In your own queries an
/// id is a `bigint`. It can be bound and fetched, alone and in an array:
///
/// ```
/// use gen_durable::prelude::*;
/// # #[durable_fsm(output = ())]
/// # pub enum Invoice { Send }
/// # #[durable_fsm]
/// # impl Invoice { async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
///
/// let id: InstanceId<Invoice> = "17".parse()?;
/// assert_eq!(id.to_string(), "17");
///
/// # async fn example(pool: sqlx::PgPool, id: InstanceId<Invoice>) -> Result<(), sqlx::Error> {
/// sqlx::query("update orders set invoice = $1 where number = 7").bind(id).execute(&pool).await?;
/// let ids: Vec<InstanceId<Invoice>> =
///     sqlx::query_scalar("select invoice from orders").fetch_all(&pool).await?;
/// # Ok(())
/// # }
/// # Ok::<(), std::num::ParseIntError>(())
/// ```
pub struct InstanceId<M> {
    raw: i64,
    machine: PhantomData<fn() -> M>,
}

impl<M> InstanceId<M> {
    /// Takes a number as the id of an instance of `M`. The database checks it at each use.
    pub const fn from_raw(raw: i64) -> Self {
        Self { raw, machine: PhantomData }
    }

    /// Returns the number under which the instance is stored.
    pub const fn get(self) -> i64 {
        self.raw
    }
}

// These impls are written by hand: a derive would require the same traits of `M`.
impl<M> Clone for InstanceId<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for InstanceId<M> {}

impl<M> PartialEq for InstanceId<M> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl<M> Eq for InstanceId<M> {}

impl<M> PartialOrd for InstanceId<M> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<M> Ord for InstanceId<M> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.raw.cmp(&other.raw)
    }
}

impl<M> hash::Hash for InstanceId<M> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}

impl<M> fmt::Debug for InstanceId<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({})", self.raw)
    }
}

impl<M> fmt::Display for InstanceId<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

impl<M> From<InstanceId<M>> for i64 {
    fn from(id: InstanceId<M>) -> Self {
        id.raw
    }
}

impl<M> FromStr for InstanceId<M> {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::from_raw)
    }
}

impl<M> Type<Postgres> for InstanceId<M> {
    fn type_info() -> PgTypeInfo {
        <i64 as Type<Postgres>>::type_info()
    }
}

impl<M> PgHasArrayType for InstanceId<M> {
    fn array_type_info() -> PgTypeInfo {
        i64::array_type_info()
    }
}

impl<M> Encode<'_, Postgres> for InstanceId<M> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode_by_ref(&self.raw, buffer)
    }
}

impl<'r, M> Decode<'r, Postgres> for InstanceId<M> {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        <i64 as Decode<Postgres>>::decode(value).map(Self::from_raw)
    }
}

/// An id is stored in a state as a plain number.
impl<M> serde::Serialize for InstanceId<M> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.raw)
    }
}

impl<'de, M> serde::Deserialize<'de> for InstanceId<M> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <i64 as serde::Deserialize>::deserialize(deserializer).map(Self::from_raw)
    }
}
