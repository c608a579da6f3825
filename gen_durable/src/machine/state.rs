//! The values that a machine stores: its state, its result and its signals' payloads.
//!
//! Invariant: to be stored, a type needs serde's traits and no other ones. [`value`](crate::value)
//! checks the stored form.

mod provided;

use serde::{Serialize, de::DeserializeOwned};

/// A value that is stored with an instance: its state or its result.
///
/// The derive also implements serde's `Serialize` and `Deserialize`. It takes `#[serde(…)]`
/// attributes on fields and on the type:
///
/// ```
/// use gen_durable::prelude::*;
///
/// #[derive(Clone, Debug, Default, DurableState)]
/// pub struct CheckoutState {
///     pub order: i64,
///     #[serde(default)]
///     pub paid: Option<i64>,
/// }
/// ```
///
/// A type that already implements serde's traits says `#[durable(serde = external)]`. The derive
/// then adds this trait alone. A type of another crate cannot have the derive. A type of yours that
/// holds it can, as serde's traits are all that a field needs:
///
/// ```
/// use std::net::IpAddr;
///
/// use gen_durable::prelude::*;
///
/// #[derive(Clone, Debug, DurableState)]
/// pub struct Host(IpAddr);
/// ```
///
/// Numbers, texts, durations and times can be stored without a derive. Tuples, arrays and
/// collections can if their elements can.
///
/// A value comes back as it was written, to the last bit of a float. Other values are refused where
/// they are made, with the path to the field:
///
/// - NaN and the infinities
/// - a NUL character
/// - more than 127 levels of nesting
/// - text that its own type writes and cannot read
/// - a value larger than [`value_max`](crate::EngineBuilder::value_max)
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored with an instance: it does not implement `DurableState`",
    label = "not a durable state",
    note = "add `#[derive(DurableState)]` to `{Self}`; if it implements serde's traits already, add `#[durable(serde = external)]` as well",
    note = "a type of another crate cannot have the derive: wrap it in a type of yours, as `#[derive(DurableState)] struct State({Self});`, where serde's traits are enough"
)]
pub trait DurableState: Serialize + DeserializeOwned + Send + Sync + 'static {}
