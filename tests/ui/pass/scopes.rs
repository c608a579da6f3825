//! Machines in modules and functions, and of every visibility.

use gen_durable::prelude::*;

mod shop {
    pub mod orders {
        #[derive(Clone, gen_durable::DurableState)]
        pub struct Order {
            pub(super) id: i64,
            pub(in crate::shop) note: String,
            secret: u8,
        }

        impl Order {
            pub fn new(id: i64) -> Self {
                Self { id, note: String::new(), secret: 0 }
            }

            pub fn secret(&self) -> u8 {
                self.secret
            }
        }

        #[derive(gen_durable::DurableSignal)]
        pub(crate) struct Paid(pub i64);
    }

    #[gen_durable::durable_fsm(state = orders::Order, signals(self::orders::Paid))]
    pub(crate) enum Checkout {
        Ship,
    }

    #[gen_durable::durable_fsm]
    impl Checkout {
        async fn ship(mut cx: gen_durable::Context<Self>) -> gen_durable::StepResult<Self> {
            let Some(paid) = cx.take_signal::<orders::Paid>()? else {
                return Ok(cx.await_signal::<orders::Paid>());
            };
            cx.state.id += paid.0 + i64::from(cx.state.secret());
            cx.state.note.push('.');
            Ok(cx.done("shipped".into()))
        }
    }

    pub(crate) mod elsewhere {
        #[gen_durable::durable_fsm]
        impl super::Refund {
            async fn pay(cx: gen_durable::Context<Self>) -> gen_durable::Outcome<Self> {
                cx.next(super::Refund::Pay)
            }
        }
    }

    #[gen_durable::durable_fsm]
    pub enum Refund {
        Pay,
    }
}

fn main() {
    #[derive(Clone, DurableState)]
    struct Local {
        id: i64,
    }

    #[derive(DurableSignal)]
    enum Go {
        Left,
        Right,
    }

    #[durable_fsm(state = Local, output = i64, signals(Go))]
    enum Walk {
        Step,
    }

    #[durable_fsm]
    impl Walk {
        async fn step(mut cx: Context<Self>) -> StepResult<Self> {
            match cx.take_signal::<Go>()? {
                Some(Go::Left) => cx.state.id -= 1,
                Some(Go::Right) => cx.state.id += 1,
                None => return Ok(cx.await_signal::<Go>()),
            }
            let id = cx.state.id;
            Ok(cx.done(id))
        }
    }

    assert_eq!(Walk::NAME, "walk");
    assert_eq!(shop::Checkout::SIGNALS, ["paid"]);
    drop(shop::Checkout::insert(shop::orders::Order::new(1)));
    drop(Walk::insert_many([Local { id: 1 }]));
    assert_eq!(shop::Refund::STEPS, ["pay"]);
}
