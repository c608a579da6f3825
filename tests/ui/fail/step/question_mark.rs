use gen_durable::prelude::*;

struct Refused;

fn text() -> Result<u32, String> {
    Ok(1)
}

fn refused() -> Result<u32, Refused> {
    Ok(1)
}

#[durable_fsm]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> StepResult<Self> {
        text()?;
        Ok(cx.next(Checkout::Ship))
    }

    async fn ship(cx: Context<Self>) -> StepResult<Self> {
        refused()?;
        Ok(cx.next(Checkout::Ship))
    }
}

fn main() {}
