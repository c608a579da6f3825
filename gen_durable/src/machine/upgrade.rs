//! Upgrades: how an instance of an older version becomes one of a newer version.
//!
//! Invariant: an upgrade looks at the stored step and state alone. None of it is stored before the
//! first commit of the newer version, which writes version, step and state at once.

use std::{any::TypeId, fmt};

use super::{Machine, registered::registered};
use crate::{error::UpgradeError, storage::NewMachine, value};

/// Says which step and state an instance of the older version `From` has in this version.
///
/// With it and `#[durable_fsm(…, upgrades = …)]` a process needs the newer version's steps alone.
/// It claims an instance of the older version, upgrades it in memory, runs the step, and commits
/// the outcome as the newer version. Until that commit the row is as the older version left it.
///
/// The older version needs its enum and its state, and no steps: `retired` says that it has none.
///
/// ```
/// use gen_durable::{UpgradeError, prelude::*};
///
/// mod v1 {
///     use gen_durable::prelude::*;
///
///     #[derive(DurableState)]
///     pub struct OrderState {
///         pub price: String,
///     }
///
///     #[durable_fsm(version = 1, state = OrderState, output = (), retired)]
///     pub enum Order {
///         Charge,
///         Ship,
///     }
/// }
///
/// #[derive(DurableState)]
/// pub struct OrderState {
///     pub cents: i64,
/// }
///
/// #[durable_fsm(version = 2, state = OrderState, output = (), upgrades = v1::Order)]
/// pub enum Order {
///     Charge,
///     Pack,
///     Ship,
/// }
///
/// impl Upgrade<v1::Order> for Order {
///     fn upgrade(
///         step: v1::Order,
///         state: v1::OrderState,
///     ) -> Result<(Self, OrderState), UpgradeError> {
///         let (whole, cents) = state.price.split_once('.').ok_or("a price without a point")?;
///         let cents = whole.parse::<i64>()? * 100 + cents.parse::<i64>()?;
///         let step = match step {
///             v1::Order::Charge => Order::Charge,
///             v1::Order::Ship => Order::Pack,
///         };
///         Ok((step, OrderState { cents }))
///     }
/// }
///
/// #[durable_fsm]
/// impl Order {
///     async fn charge(cx: Context<Self>) -> Outcome<Self> {
///         cx.next(Order::Pack)
///     }
///
///     async fn pack(cx: Context<Self>) -> Outcome<Self> {
///         cx.next(Order::Ship)
///     }
///
///     async fn ship(cx: Context<Self>) -> Outcome<Self> {
///         cx.done(())
///     }
/// }
/// ```
///
/// Upgrades form a chain. If `v2::Order` upgrades `v1::Order` and `Order` upgrades `v2::Order`, an
/// instance of version 1 goes through both, in memory. An older version that an engine was given by
/// itself (`.machine::<v1::Order>()`) keeps its instances: that engine does not upgrade them.
///
/// An upgrade leaves everything else as it is: the attempt, the inbox, the keys, the queue, the
/// priority. The newer version reads the signals that wait in the inbox by their names, as its own
/// types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how to upgrade `{From}`",
    label = "no `Upgrade` from this version",
    note = "write `impl Upgrade<{From}> for {Self} {{ fn upgrade(step: {From}, state: …) -> Result<(Self, Self::State), UpgradeError> {{ … }} }}`"
)]
pub trait Upgrade<From: Machine>: Machine {
    /// Returns the step and the state with which the instance goes on.
    ///
    /// This may run more than once for an instance, as a worker may be lost before the first
    /// commit. It should therefore only compute.
    ///
    /// # Errors
    ///
    /// [`UpgradeError`], made by `?` from any error and from a text. The instance is then left as
    /// it is, with the reason in its `last_error`, and no attempt is spent. The same holds after a
    /// panic, and if the older state does not decode. The instance is tried again about every half
    /// minute: by a deployment that was mended, or by one that still has the older version.
    fn upgrade(step: From, state: From::State) -> Result<(Self, Self::State), UpgradeError>;
}

/// The older versions of a machine that it upgrades. `upgrades = v1::Checkout` sets
/// [`Machine::UPGRADES`] to it.
///
/// ```
/// use gen_durable::{Machine, Upgrade, UpgradeError, Upgrades};
///
/// struct V1;
///
/// impl Machine for V1 {
///     type State = i64;
///     type Output = ();
///     const NAME: &'static str = "tick";
///     const VERSION: u32 = 1;
///     const INITIAL: Self = V1;
///     const STEPS: &'static [&'static str] = &["tick"];
///     # fn name(&self) -> &'static str { "tick" }
///     # fn from_name(name: &str) -> Option<Self> { (name == "tick").then_some(V1) }
///     // name and from_name …
/// }
///
/// struct V2;
///
/// impl Machine for V2 {
///     type State = String;
///     const VERSION: u32 = 2;
///     const UPGRADES: Upgrades<Self> = Upgrades::from::<V1>();
///     // and so on …
///     # type Output = ();
///     # const NAME: &'static str = "tick";
///     # const INITIAL: Self = V2;
///     # const STEPS: &'static [&'static str] = &["tick"];
///     # fn name(&self) -> &'static str { "tick" }
///     # fn from_name(name: &str) -> Option<Self> { (name == "tick").then_some(V2) }
/// }
///
/// impl Upgrade<V1> for V2 {
///     fn upgrade(_: V1, state: i64) -> Result<(Self, String), UpgradeError> {
///         Ok((V2, state.to_string()))
///     }
/// }
/// ```
pub struct Upgrades<M: Machine> {
    from: Option<From<M>>,
}

/// The version before, without its type.
struct From<M: Machine> {
    name: &'static str,
    version: u32,
    older: fn(below: u32, found: &mut Vec<Older>),
    read: fn(version: u32, step: &str, state: &str) -> Read<M>,
}

/// The step and the state of an instance, or why it has none.
type Read<M> = Result<(M, <M as Machine>::State), String>;

/// An older version of a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Older {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
    pub(crate) type_id: TypeId,
    pub(crate) type_name: &'static str,
    /// Returns its registered row.
    pub(crate) registered: fn() -> NewMachine,
}

impl<M: Machine> Upgrades<M> {
    /// Upgrades no older version.
    pub const fn none() -> Self {
        Self { from: None }
    }

    /// Upgrades the version `F`, and all versions that `F` itself upgrades.
    pub const fn from<F: Machine>() -> Self
    where
        M: Upgrade<F>,
    {
        let (name, version) = (F::NAME, F::VERSION);
        Self { from: Some(From { name, version, older: older::<F>, read: upgrade::<F, M> }) }
    }

    /// Returns the name and the version of the machine before this one.
    pub(crate) const fn before(&self) -> Option<(&'static str, u32)> {
        match &self.from {
            Some(from) => Some((from.name, from.version)),
            None => None,
        }
    }

    /// Returns the older versions, newest first. A chain that does not descend ends with the first
    /// version that is out of order.
    pub(crate) fn older(&self) -> Vec<Older> {
        let mut found = Vec::new();
        if let Some(from) = &self.from {
            (from.older)(M::VERSION, &mut found);
        }
        found
    }

    /// Returns the step and the state that a row of an older version has in this one.
    pub(crate) fn read(&self, version: u32, step: &str, state: &str) -> Read<M> {
        match &self.from {
            Some(from) => (from.read)(version, step, state),
            None => Err(format!("version {} does not upgrade version {version}", M::VERSION)),
        }
    }
}

fn older<F: Machine>(below: u32, found: &mut Vec<Older>) {
    found.push(Older {
        name: F::NAME,
        version: F::VERSION,
        type_id: TypeId::of::<F>(),
        type_name: std::any::type_name::<F>(),
        registered: registered::<F>,
    });
    if let Some(from) = &F::UPGRADES.from
        && F::VERSION < below
    {
        (from.older)(F::VERSION, found);
    }
}

fn upgrade<F: Machine, M: Upgrade<F>>(version: u32, step: &str, state: &str) -> Read<M> {
    let (step, state) = if version == F::VERSION {
        let step = F::from_name(step).ok_or_else(|| {
            format!("version {version} has no step `{step}`; it has {}", F::STEPS.join(", "))
        })?;
        let state = value::decode("state", F::NAME, F::VERSION, state).map_err(|error| {
            let (field, reason) = (error.field, error.reason);
            format!("the state does not decode as version {version} at field `{field}`: {reason}")
        })?;
        (step, state)
    } else {
        F::UPGRADES.read(version, step, state)?
    };
    M::upgrade(step, state)
        .map_err(|error| format!("from version {} to {}: {error}", F::VERSION, M::VERSION))
}

impl<M: Machine> fmt::Debug for Upgrades<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions: Vec<u32> = self.older().iter().map(|older| older.version).collect();
        f.debug_struct("Upgrades").field("machine", &M::NAME).field("versions", &versions).finish()
    }
}
