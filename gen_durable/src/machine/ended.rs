//! The report of an instance that has ended, as its receiver gets it: a signal that the engine
//! sends.
//!
//! Invariant: no user code makes a report. Its name is reserved, and it cannot be serialised.

use std::{fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;

use super::{Machine, signal::DurableSignal};
use crate::{
    error::EndError,
    id::InstanceId,
    keys::{NAME_MAX, RESERVED},
    storage::TAKEN,
    value,
};

/// The report that an instance of `M` has ended, which the engine sends to another instance.
///
/// [`Outcome::spawn`](crate::Outcome::spawn) inserts children that report to the instance which
/// spawns them, and [`Insert::report_to`](crate::Insert::report_to) names another receiver. The
/// receiver declares `signals(Ended<M>)`, and takes and awaits the reports like any other signal.
/// Each end is reported exactly once, whatever makes it: `done`, `stop`, an error, stored data that
/// does not decode, or workers that were lost again and again.
///
/// The commit that ends an instance delivers its report too. There are two exceptions. After a step
/// above `read committed` the report follows at once, in a transaction of its own. After lost
/// workers it does so if the receiver's row is locked. Either commit says that the report is owed,
/// so a crash between the two loses nothing.
///
/// ```
/// use gen_durable::prelude::*;
///
/// #[durable_fsm(state = String, output = usize)]
/// pub enum Line {
///     Count,
/// }
///
/// #[durable_fsm]
/// impl Line {
///     async fn count(cx: Context<Self>) -> Outcome<Self> {
///         let words = cx.state.split_whitespace().count();
///         cx.done(words)
///     }
/// }
///
/// #[durable_fsm(state = Vec<String>, output = usize, signals(Ended<Line>))]
/// pub enum Text {
///     Split,
///     Join,
/// }
///
/// #[durable_fsm]
/// impl Text {
///     async fn split(cx: Context<Self>) -> Outcome<Self> {
///         let lines = Line::insert_many(cx.state.clone());
///         cx.next(Text::Join).spawn(lines)
///     }
///
///     async fn join(mut cx: Context<Self>) -> StepResult<Self> {
///         let wanted = cx.state.len();
///         let Some(lines) = cx.gather::<Ended<Line>>(wanted)? else {
///             return Ok(cx.await_count::<Ended<Line>>(wanted));
///         };
///         let mut words = 0;
///         for line in lines {
///             match line.result() {
///                 Ok(count) => words += count,
///                 Err(why) => println!("instance {} has no result: {why}", line.id()),
///             }
///         }
///         Ok(cx.done(words))
///     }
/// }
/// ```
pub struct Ended<M: Machine> {
    report: Report,
    machine: PhantomData<fn() -> M>,
}

/// The payload, as `report.sql` builds it.
#[derive(Clone, Deserialize)]
struct Report {
    id: i64,
    key: Option<String>,
    status: String,
    /// None for a result that is `null`.
    result: Option<Box<RawValue>>,
    reason: Option<String>,
}

impl<M: Machine> Ended<M> {
    /// Returns the id of the instance that has ended. If the report says that the unique key was
    /// taken, it is the id of the instance that held the key.
    pub fn id(&self) -> InstanceId<M> {
        InstanceId::from_raw(self.report.id)
    }

    /// Returns the unique key that the instance was inserted with.
    pub fn unique_key(&self) -> Option<&str> {
        self.report.key.as_deref()
    }

    /// Decodes the result of the instance, or says why there is none.
    ///
    /// # Errors
    ///
    /// [`EndError`]: the instance failed or was cancelled; it was not inserted, as its unique key
    /// was taken; its result does not decode as `M::Output`, as another version of `M` wrote it.
    pub fn result(&self) -> Result<M::Output, EndError> {
        let reason = || self.report.reason.clone().unwrap_or_default();
        match &*self.report.status {
            "done" => {
                let result = self.report.result.as_ref().map_or("null", |result| result.get());
                Ok(value::decode("result", M::NAME, M::VERSION, result)?)
            }
            TAKEN => Err(EndError::Taken {
                key: self.report.key.clone().unwrap_or_default(),
                holder: self.report.id,
            }),
            "cancelled" => Err(EndError::Cancelled { id: self.report.id, reason: reason() }),
            _ => Err(EndError::Failed { id: self.report.id, reason: reason() }),
        }
    }
}

/// The name of the signal, as a constant.
struct Name<M>(PhantomData<M>);

impl<M: Machine> Name<M> {
    const LENGTH: usize = RESERVED.len() + M::NAME.len() + 1;
    const BYTES: [u8; NAME_MAX] = {
        assert!(Self::LENGTH <= NAME_MAX, "the machine's name is too long to be reported");
        let mut bytes = [b')'; NAME_MAX];
        let (front, _) = bytes.split_at_mut(Self::LENGTH - 1);
        let (reserved, name) = front.split_at_mut(RESERVED.len());
        reserved.copy_from_slice(RESERVED.as_bytes());
        name.copy_from_slice(M::NAME.as_bytes());
        bytes
    };
    const TEXT: &str = match str::from_utf8(Self::BYTES.split_at(Self::LENGTH).0) {
        Ok(text) => text,
        Err(_) => panic!("two texts one behind the other are a text"),
    };
}

// The compiler would offer it where a signal of the user's lacks its derive.
#[diagnostic::do_not_recommend]
impl<M: Machine> DurableSignal for Ended<M> {
    const NAME: &'static str = Name::<M>::TEXT;
}

/// Always an error: only the engine sends a report.
impl<M: Machine> Serialize for Ended<M> {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(ser::Error::custom("only the engine reports an end"))
    }
}

impl<'de, M: Machine> Deserialize<'de> for Ended<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let report = Report::deserialize(deserializer)?;
        if report.id <= 0 {
            return Err(de::Error::custom("a report has the id of an instance"));
        }
        Ok(Self { report, machine: PhantomData })
    }
}

// Written by hand: a derive would require `M: Clone`.
impl<M: Machine> Clone for Ended<M> {
    fn clone(&self) -> Self {
        Self { report: self.report.clone(), machine: PhantomData }
    }
}

/// Prints no result and no reason, as they may be confidential.
impl<M: Machine> fmt::Debug for Ended<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended")
            .field("machine", &M::NAME)
            .field("id", &self.report.id)
            .field("status", &self.report.status)
            .finish_non_exhaustive()
    }
}
