//! A machine of the chaos run whose rows and inboxes are large.
//!
//! Invariant: an instance ends with the number of each parcel that it was to get, once each. Its
//! texts come back as long as they were written.

use gen_durable::prelude::*;

/// The state of a [`Giant`].
#[derive(Clone, Debug, Default, DurableState)]
pub struct GiantState {
    /// The number of steps that were committed.
    pub n: u32,
    /// The size of its text in bytes.
    pub bytes: usize,
    /// The number of parcels that come.
    pub parcels: u32,
    /// A text that makes it large.
    #[serde(default)]
    pub text: String,
    /// The numbers of the parcels that have come.
    #[serde(default)]
    pub got: Vec<u32>,
}

impl GiantState {
    /// The state of an instance that has a text of so many bytes and gets so many parcels.
    pub fn new(bytes: usize, parcels: u32) -> Self {
        Self { bytes, parcels, text: text(bytes), ..Self::default() }
    }
}

/// A large signal, to be collected.
#[derive(Clone, Debug, DurableSignal)]
pub struct Parcel {
    /// Its number.
    pub n: u32,
    /// A text that makes it large.
    pub text: String,
}

impl Parcel {
    /// A parcel of so many bytes.
    pub fn new(n: u32, bytes: usize) -> Self {
        Self { n, text: text(bytes) }
    }
}

/// Has a large state, takes large signals, and ends.
#[derive(Debug)]
#[durable_fsm(state = GiantState, output = Vec<u32>, signals(Parcel))]
pub enum Giant {
    /// Commits its state again, as large as it is.
    Grow,
    /// Takes what has come, and waits for more.
    Take,
    /// Ends.
    End,
}

#[durable_fsm]
impl Giant {
    async fn grow(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.state.text.len() != cx.state.bytes {
            return Ok(cx.stop("its text has another length"));
        }
        cx.state.n += 1;
        Ok(cx.next(Giant::Take))
    }

    async fn take(mut cx: Context<Self>) -> StepResult<Self> {
        // Otherwise each park would write its own text again.
        cx.state.text.clear();
        while let Some(parcel) = cx.take_signal::<Parcel>()? {
            if parcel.text != text(parcel.text.len()) {
                return Ok(cx.stop("a parcel is not as it was sent"));
            }
            cx.state.got.push(parcel.n);
        }
        if u32::try_from(cx.state.got.len())? < cx.state.parcels {
            return Ok(cx.await_signal::<Parcel>());
        }
        cx.state.n += 1;
        Ok(cx.next(Giant::End))
    }

    async fn end(cx: Context<Self>) -> Outcome<Self> {
        let mut got = cx.state.got.clone();
        got.sort_unstable();
        cx.done(got)
    }
}

/// Makes a text that Postgres can compress.
fn text(bytes: usize) -> String {
    let mut text = "0123456789abcdefghijklmnopqrstuvwxyz".repeat(bytes / 36 + 1);
    text.truncate(bytes);
    text
}
