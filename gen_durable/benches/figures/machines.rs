//! The machines that the figures run. They have as little user code as possible.

use gen_durable::prelude::*;

#[derive(Clone, Debug, Default, DurableState)]
pub struct Small {
    pub n: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ballast: String,
}

/// Has one step and is done.
#[durable_fsm(queue = "checkout", state = Small, output = ())]
pub enum OneStep {
    Go,
}

#[durable_fsm]
impl OneStep {
    async fn go(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.n += 1;
        cx.done(())
    }
}

/// Has one limited step and is done. The number has a thousand keys.
#[durable_fsm(queue = "checkout", state = Small, output = ())]
pub enum Limited {
    Go,
}

#[durable_fsm]
impl Limited {
    #[step(limit("limited", key = state.n % 1000))]
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// Runs its limited step ten times in a row and is done.
#[durable_fsm(queue = "checkout", state = Small, output = ())]
pub enum TenLimited {
    Link,
}

#[durable_fsm]
impl TenLimited {
    #[step(limit("limited", key = state.ballast))]
    async fn link(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.n += 1;
        if cx.state.n == 10 { cx.done(()) } else { cx.next(TenLimited::Link) }
    }
}

/// Runs its step ten times in a row and is done.
#[durable_fsm(queue = "checkout", state = Small, output = ())]
pub enum TenSteps {
    Link,
}

#[durable_fsm]
impl TenSteps {
    async fn link(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.n += 1;
        if cx.state.n == 10 { cx.done(()) } else { cx.next(TenSteps::Link) }
    }
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Go {
    pub n: i64,
}

/// Waits for a signal and is done.
#[durable_fsm(queue = "checkout", state = Small, output = (), signals(Go))]
pub enum Listener {
    Listen,
}

#[durable_fsm]
impl Listener {
    async fn listen(mut cx: Context<Self>) -> StepResult<Self> {
        Ok(match cx.take_signal::<Go>()? {
            Some(_) => cx.done(()),
            None => cx.await_signal::<Go>(),
        })
    }
}

/// Spawns children and waits until all of them have ended.
#[durable_fsm(queue = "checkout", state = Small, output = i64, signals(Ended<Worker>))]
pub enum Parent {
    Spawn,
    Join,
}

#[durable_fsm]
impl Parent {
    async fn spawn(cx: Context<Self>) -> Outcome<Self> {
        let children = Worker::insert_many(0..cx.state.n);
        cx.next(Parent::Join).spawn(children)
    }

    async fn join(mut cx: Context<Self>) -> StepResult<Self> {
        let wanted = usize::try_from(cx.state.n)?;
        let Some(ended) = cx.gather::<Ended<Worker>>(wanted)? else {
            return Ok(cx.await_count::<Ended<Worker>>(wanted));
        };
        let mut joined = 0;
        for child in ended {
            child.result()?;
            joined += 1;
        }
        Ok(cx.done(joined))
    }
}

/// A child: it is done at once.
#[durable_fsm(queue = "checkout", state = i64, output = ())]
pub enum Worker {
    Work,
}

#[durable_fsm]
impl Worker {
    async fn work(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// Sleeps in its step until it is notified, so that many instances are executing at once.
#[durable_fsm(queue = "checkout", state = Small, output = ())]
pub enum Sleeper {
    Sleep,
}

#[durable_fsm]
impl Sleeper {
    async fn sleep(
        cx: Context<Self>,
        awake: &std::sync::Arc<tokio::sync::Notify>,
    ) -> Outcome<Self> {
        awake.notified().await;
        cx.done(())
    }
}

/// Waits ten milliseconds in its step, in a tenant's own queue.
#[durable_fsm(queue = "tenant", state = Small, output = ())]
pub enum Slow {
    Work,
}

#[durable_fsm]
impl Slow {
    async fn work(cx: Context<Self>) -> Outcome<Self> {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        cx.done(())
    }
}
