//! Signals: typed messages to an instance, and the call that sends one.
//!
//! Invariant: a [`Signal`] can be built only for a machine that declared its type ([`Accepts`]).

use std::{fmt, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};

use super::{Machine, address::Address};
use crate::{
    error::EncodeError,
    keys::{check_dedup_key, check_key, check_signal_name},
    storage::{Addressee, NewSignal},
    trace, value,
};

/// A message to an instance.
///
/// The derive also implements serde's traits. The signal's name is the type's name in `snake_case`,
/// unless `#[durable(name = "…")]` names another one.
///
/// ```
/// use gen_durable::prelude::*;
///
/// #[derive(Clone, Debug, DurableSignal)]
/// pub struct PaymentConfirmed {
///     pub amount: i64,
/// }
///
/// assert_eq!(PaymentConfirmed::NAME, "payment_confirmed");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a signal: it does not implement `DurableSignal`",
    label = "not a signal",
    note = "add `#[derive(DurableSignal)]` to `{Self}`; if it implements serde's traits already, add `#[durable(serde = external)]` as well",
    note = "a type of another crate cannot have the derive: wrap it in a type of yours, as `#[derive(DurableSignal)] struct Message({Self});`, where serde's traits are enough"
)]
pub trait DurableSignal: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name under which the signal is stored and awaited.
    const NAME: &'static str;
}

/// A machine that declared the signal `S` in `signals(…)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not declare the signal `{S}`",
    label = "signal not declared by `{Self}`",
    note = "add it to the machine: `#[durable_fsm(…, signals({S}))]`"
)]
pub trait Accepts<S: DurableSignal>: Machine {}

/// Signals of which a step awaits any: a tuple of two to eight types, each declared by `M`.
///
/// It is the type argument of [`await_any`](crate::Context::await_any), and of no use otherwise.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no choice of signals",
    label = "not a tuple of two to eight signals",
    note = "write `cx.await_any::<(PaymentConfirmed, Cancelled)>()`; for one signal, `cx.await_signal::<PaymentConfirmed>()`"
)]
pub trait AnyOf<M: Machine> {
    /// The names of the signals.
    const NAMES: &'static [&'static str];
}

macro_rules! any_of {
    ($($signal:ident)+) => {
        impl<M: Machine, $($signal: DurableSignal),+> AnyOf<M> for ($($signal,)+)
        where
            $(M: Accepts<$signal>),+
        {
            const NAMES: &'static [&'static str] = &[$($signal::NAME),+];
        }
    };
}

any_of!(A B);
any_of!(A B C);
any_of!(A B C D);
any_of!(A B C D E);
any_of!(A B C D E F);
any_of!(A B C D E F G);
any_of!(A B C D E F G H);

/// A signal that is about to be sent. Nothing happens before [`execute`](Self::execute).
///
/// The generated functions `signal_<name>` and `signal` of a machine make one.
///
/// ```
/// use gen_durable::{Delivery, prelude::*};
/// # #[derive(DurableSignal)]
/// # pub struct Paid { amount: i64 }
/// # #[durable_fsm(output = i64, signals(Paid))]
/// # pub enum Invoice { Wait }
/// # #[durable_fsm]
/// # impl Invoice {
/// #     async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
/// #         Ok(match cx.take_signal::<Paid>()? {
/// #             Some(paid) => cx.done(paid.amount),
/// #             None => cx.await_signal::<Paid>(),
/// #         })
/// #     }
/// # }
///
/// # async fn example(
/// #     client: Client,
/// #     id: InstanceId<Invoice>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let delivery =
///     Invoice::signal_paid(id, Paid { amount: 100 }).dedup_key("evt-7").execute(&client).await?;
/// assert_eq!(delivery, Delivery::Delivered);
/// # Ok(())
/// # }
/// ```
#[must_use = "a signal is sent by `.execute(…)`, or with an outcome by `.signal(…)`"]
pub struct Signal<M> {
    target: Addressee,
    name: &'static str,
    payload: Result<value::Json, EncodeError>,
    dedup_key: Option<String>,
    silent: bool,
    machine: PhantomData<fn() -> M>,
}

impl<M: Machine> Signal<M> {
    /// Makes a signal to one instance of `M`: the one with this id, or the one that holds this
    /// unique key.
    pub fn new<S: DurableSignal>(target: impl Address<M>, payload: &S) -> Self
    where
        M: Accepts<S>,
    {
        Self {
            target: target.into_raw().map_or_else(Addressee::Key, Addressee::Id),
            name: S::NAME,
            // The engine that sends the signal applies its own limit, which is not known here.
            payload: value::encode("signal payload", payload, usize::MAX),
            dedup_key: None,
            silent: false,
            machine: PhantomData,
        }
    }

    /// Makes a redelivery harmless: an instance accepts only one signal with this key, ever,
    /// whatever the signal's name. A key has at most 1,024 bytes. If the signal is addressed by a
    /// unique key, and that has passed on meanwhile, another instance accepts it.
    pub fn dedup_key(mut self, key: impl Into<String>) -> Self {
        self.dedup_key = Some(key.into());
        self
    }

    /// Announces the signal to no engine, whatever it is executed on. The instance that it wakes
    /// runs at the next poll of an engine, after at most 1.25 times its
    /// [`poll_interval`](crate::EngineBuilder::poll_interval).
    ///
    /// This is for a transaction that is to be prepared, as Postgres prepares none with a NOTIFY,
    /// and for signals in bulk. [`Insert::silent`](crate::Insert::silent) says more.
    pub fn silent(mut self) -> Self {
        self.silent = true;
        self
    }

    pub(crate) fn into_row(self, max: usize) -> Result<NewSignal, EncodeError> {
        check_signal_name(self.name)?;
        let payload = self.payload?.within("signal payload", max)?;
        if let Addressee::Key(key) = &self.target {
            check_key("unique_key", Some(key))?;
        }
        check_dedup_key(self.dedup_key.as_deref())?;
        Ok(NewSignal {
            target: self.target,
            fsm: Some(M::NAME.to_owned()),
            name: self.name.to_owned(),
            payload,
            dedup_key: self.dedup_key,
            silent: self.silent,
            trace_context: trace::current(),
        })
    }
}

// Written by hand: a derive would require `M: Clone`.
impl<M> Clone for Signal<M> {
    fn clone(&self) -> Self {
        Self {
            target: self.target.clone(),
            name: self.name,
            payload: self.payload.clone(),
            dedup_key: self.dedup_key.clone(),
            silent: self.silent,
            machine: PhantomData,
        }
    }
}

/// Prints no payload, as it may be confidential.
impl<M> fmt::Debug for Signal<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal")
            .field("target", &self.target)
            .field("name", &self.name)
            .field("dedup_key", &self.dedup_key)
            .finish_non_exhaustive()
    }
}
