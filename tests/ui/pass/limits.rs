//! Limits of steps and jobs, and names of the user's that their keys may meet.

#![deny(warnings, missing_docs, missing_debug_implementations, unreachable_pub)]
#![deny(rust_2018_idioms, unused, nonstandard_style, future_incompatible, let_underscore)]

use gen_durable::{StepLimit, prelude::*};

/// Names of limits.
pub mod limits {
    /// A limit.
    pub const STRIPE: &str = "stripe";
}

/// Called like the state in a key.
pub fn state() -> &'static str {
    "not this one"
}

/// Called like a function that the expansion calls.
pub fn limit_key(data: i64) -> i64 {
    data + 1
}

/// A state.
#[derive(Clone, Debug, DurableState)]
pub struct Order {
    /// A field.
    pub customer: i64,
    /// Another field.
    pub r#type: Option<String>,
}

/// A machine.
#[durable_fsm(state = Order, output = ())]
#[derive(Debug)]
pub enum Checkout {
    /// A step.
    Reserve,
    /// A step.
    Charge,
    /// A step.
    Pack,
    /// A step.
    Ship,
    /// A step.
    #[cfg(any())]
    Absent,
    /// A step.
    Constant,
    /// A step.
    Borrowed,
}

impl Checkout {
    fn tenant(state: &Order) -> i64 {
        state.customer % 10
    }
}

#[durable_fsm]
impl Checkout {
    #[step(limit = limits::STRIPE, timeout = "1s")]
    async fn reserve(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Charge)
    }

    #[step(limit(limits::STRIPE, key = state.customer, weight = 3,))]
    async fn charge(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }

    #[step(limit("packers", key = limit_key(Self::tenant(state))), retry(max_attempts = 2))]
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    #[step(limit("carrier", key = {
        let data = state.r#type.as_deref().unwrap_or("none");
        format!("{data}, {}", state.customer)
    }))]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Constant)
    }

    #[cfg(any())]
    #[step(limit(MISSING, key = state.missing))]
    async fn absent(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    #[step(limit("all", key = "one for all"))]
    async fn constant(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Borrowed)
    }

    #[step(limit("all", key = *state.r#type.as_deref().unwrap_or_default()))]
    async fn borrowed(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// A job.
#[durable_job(limit("mail", key = state))]
pub async fn send_mail(cx: JobContext<String>) {
    let _unused = cx;
}

/// A job whose argument has a pattern.
#[durable_job(limit = limits::STRIPE)]
pub async fn charge(_: JobContext<Order>) {}

macro_rules! machine_with_a_limit {
    ($name:ident, $key:expr) => {
        /// A machine.
        #[durable_fsm(state = String, output = ())]
        #[derive(Debug)]
        pub enum $name {
            /// A step.
            Go,
            /// A step.
            End,
        }

        #[durable_fsm]
        impl $name {
            #[step(limit("of a macro", key = state.len()))]
            async fn go(cx: Context<Self>) -> Outcome<Self> {
                cx.next($name::End)
            }

            #[step(limit("of a user", key = $key))]
            async fn end(cx: Context<Self>) -> Outcome<Self> {
                cx.done(())
            }
        }
    };
}

machine_with_a_limit!(Generated, state.trim());

fn main() {
    let order = Order { customer: 42, r#type: None };
    let limit = StepLimit::new("stripe");
    assert_eq!(Checkout::Reserve.limit(), Some(limit));
    assert_eq!(Checkout::Charge.limit(), Some(limit.weight(3).keyed()));
    let keys = Checkout::STEPS.iter().map(|step| Checkout::from_name(step)?.limit_key(&order));
    let keys: Vec<_> = keys.map(Option::unwrap_or_default).collect();
    assert_eq!(keys, ["", "42", "3", "none, 42", "one for all", ""]);
    assert_eq!(SendMail::Run.limit_key(&"ada".to_owned()).as_deref(), Some("ada"));
    assert_eq!(Charge::Run.limit(), Some(limit));
    assert_eq!(state(), "not this one");
    let text = " ab ".to_owned();
    assert_eq!(Generated::Go.limit_key(&text).as_deref(), Some("4"));
    assert_eq!(Generated::End.limit_key(&text).as_deref(), Some("ab"));
}
