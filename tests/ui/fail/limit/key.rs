#![allow(unused)]

use gen_durable::prelude::*;

#[derive(DurableState)]
struct Order {
    customer: Customer,
    coupon: Option<String>,
}

#[derive(DurableState)]
struct Customer {
    id: i64,
}

#[durable_fsm(state = Order, output = ())]
enum Checkout {
    Reserve,
    Charge,
    Pack,
    Ship,
    Report,
    Bill,
}

#[durable_fsm]
impl Checkout {
    #[step(limit("stripe", key = state.costumer.id))]
    async fn reserve(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Charge)
    }

    #[step(limit("stripe", key = state.customer))]
    async fn charge(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }

    #[step(limit("stripe", key = state.coupon))]
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    #[step(limit("stripe", key = state.coupon.as_ref()?))]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Report)
    }

    #[step(limit("stripe", key = data.customer.id))]
    async fn report(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Bill)
    }

    #[step(limit("stripe", key = cx.state.customer.id))]
    async fn bill(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[durable_job(limit("mail", key = state.name))]
async fn send_mail(cx: JobContext<Customer>) {}

#[durable_job(limit("mail", key = state))]
async fn send_letter(cx: JobContext<Customer>) {}

fn main() {}
