//! A machine of the chaos run whose user code misbehaves. It panics in unlikely places, blocks its
//! thread, and has signals in its inbox that do not decode.
//!
//! Invariant: only its first run misbehaves, and each instance is done in the end.

use std::{fmt, time::Duration};

use gen_durable::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{machines::Ping, random::mix};

/// The state of a [`Wild`].
#[derive(Clone, Debug, Default, DurableState)]
pub struct WildState {
    /// The number of steps that were committed.
    pub n: u32,
    /// The seed that chooses what its first run does wrong.
    pub seed: u32,
    /// A value that may panic when it is written or dropped.
    #[serde(default)]
    pub trap: Trap,
}

/// Panics in its `Serialize` or in its `Drop`, once it is set.
#[derive(Clone, Debug, Default)]
pub enum Trap {
    /// Does nothing.
    #[default]
    None,
    /// Panics when it is written.
    Serialize,
    /// Panics when it is dropped.
    Drop,
}

impl Serialize for Trap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(!matches!(self, Self::Serialize), "a state that is written panics on purpose");
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Trap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer)?;
        Ok(Self::None)
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        assert!(
            !matches!(self, Self::Drop) || std::thread::panicking(),
            "a state that is dropped panics on purpose"
        );
    }
}

/// An error that panics when it is printed.
#[derive(Debug)]
struct Mute;

impl fmt::Display for Mute {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("an error that is printed panics on purpose")
    }
}

impl std::error::Error for Mute {}

/// Misbehaves once, and ends.
#[derive(Debug)]
#[durable_fsm(state = WildState, output = u32, signals(Ping))]
pub enum Wild {
    /// Does something wrong at its first run.
    Try,
    /// Ends.
    End,
}

#[durable_fsm]
impl Wild {
    async fn r#try(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.attempt() == 0 {
            let choice = mix(u64::from(cx.state.seed), 3);
            match choice % 6 {
                0 => cx.state.trap = Trap::Serialize,
                1 => cx.state.trap = Trap::Drop,
                2 => return Err(Mute.into()),
                // The longest of these is 1.2 s, more than half of a lease.
                3 => std::thread::sleep(Duration::from_millis(choice % 1200)),
                // Fails if a signal that does not decode is in the inbox.
                4 => drop(cx.take_signals::<Ping>()?),
                _ => {}
            }
        }
        cx.state.n += 1;
        Ok(cx.next(Wild::End))
    }

    async fn end(mut cx: Context<Self>) -> Outcome<Self> {
        while cx.discard_signal::<Ping>() {}
        let n = cx.state.n;
        cx.done(n)
    }

    async fn handle(mut cx: Context<Self>, _error: StepError) -> Outcome<Self> {
        cx.discard_signal::<Ping>();
        cx.replay(Duration::from_millis(1))
    }
}
