//! The user's own names where the expansion means the usual ones.

#![allow(non_camel_case_types, unused)]

use ::gen_durable::{Context, DurableSignal as Signal_, DurableState as State_, durable_fsm};

mod shadows {
    pub struct Option;
    pub struct Result;
    pub struct Vec;
    pub struct String;
    pub struct Box;
    pub struct Duration;
    pub struct Some;
    pub struct None;
    pub struct Ok;
    pub struct Err;
    pub struct Machine;
    pub struct Steps;
    pub struct Outcome;
    pub struct StepError;
    pub struct Resources;
    pub struct Insert;
    pub struct Signal;
    pub trait Send {}
    pub trait Sync {}
    pub trait Into {}
    pub trait From {}
    pub trait Iterator {}
    pub trait IntoIterator {}
    pub trait Clone {}
    pub trait Default {}
    pub trait Serialize {}
    pub trait Deserialize {}
    pub mod std {}
    pub mod core {}
    pub mod alloc {}
    pub mod serde {}
    pub mod gen_durable {}
}

use shadows::*;

macro_rules! assert {
    ($($tokens:tt)*) => {
        compile_error!("not this one")
    };
}

macro_rules! panic {
    ($($tokens:tt)*) => {
        compile_error!("not this one")
    };
}

#[derive(State_)]
struct Order {
    id: i64,
    note: ::std::option::Option<::std::string::String>,
}

#[derive(State_)]
enum Receipt {
    Sent { by: ::std::string::String },
    Kept(u8, u8),
    Lost,
}

#[derive(Signal_)]
struct Paid {
    amount: i64,
}

#[durable_fsm(state = Order, output = Receipt, signals(Paid), timeout = "5m")]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>, carrier: &u32) -> ::gen_durable::Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>) -> ::gen_durable::StepResult<Self> {
        ::std::result::Result::Ok(cx.done(Receipt::Lost))
    }

    async fn handle(
        cx: Context<Self>,
        error: ::gen_durable::StepError,
    ) -> ::gen_durable::Outcome<Self> {
        cx.stop(error)
    }
}

fn main() {}
