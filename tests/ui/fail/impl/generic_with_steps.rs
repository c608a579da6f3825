use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout<T> {
    Pack,
    Ship(T),
}

#[durable_fsm]
impl<T> Checkout<T> {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }

    async fn ship(cx: Context<Self>) -> StepResult<Self> {
        let id = cx.id();
        println!("{id}");
        Ok(cx.stop("nothing to ship"))
    }
}

fn main() {}
