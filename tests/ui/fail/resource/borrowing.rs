#![allow(unused)]

use gen_durable::prelude::*;

struct Carrier<'a>(&'a str);

#[durable_fsm]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>, carrier: &Carrier<'_>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>, names: &Vec<&str>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }
}

fn main() {}
