use gen_durable::prelude::*;

struct Refused;

fn refused() -> Result<u32, Refused> {
    Ok(1)
}

#[durable_fsm]
enum Checkout {
    Pack,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> StepResult<Self> {
        refused()?;
        Ok(cx.next(Checkout::Pack))
    }
}

fn main() {}
