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

#[derive(Clone, Debug, DurableSignal)]
pub struct Child {
    pub n: i64,
}

/// Inserts children and waits for all of them.
#[durable_fsm(queue = "checkout", state = Small, output = i64, signals(Child))]
pub enum Parent {
    Spawn,
    Join,
}

#[durable_fsm]
impl Parent {
    async fn spawn(mut cx: Context<Self>) -> Outcome<Self> {
        let (parent, children) = (cx.id(), std::mem::take(&mut cx.state.n));
        cx.state.ballast = children.to_string();
        let inserts = (0..children).map(|n| Worker::insert(Task { parent, n }));
        cx.next(Parent::Join).insert_many(inserts)
    }

    async fn join(mut cx: Context<Self>) -> StepResult<Self> {
        while let Some(child) = cx.take_signal::<Child>()? {
            cx.state.n += 1;
            let _ = child;
        }
        let joined = cx.state.n;
        Ok(if joined.to_string() == cx.state.ballast {
            cx.done(joined)
        } else {
            cx.await_signal::<Child>()
        })
    }
}

#[derive(Clone, Debug, DurableState)]
pub struct Task {
    pub parent: InstanceId<Parent>,
    pub n: i64,
}

/// A child: it signals its parent and is done.
#[durable_fsm(queue = "checkout", state = Task, output = ())]
pub enum Worker {
    Work,
}

#[durable_fsm]
impl Worker {
    async fn work(cx: Context<Self>) -> Outcome<Self> {
        let Task { parent, n } = cx.state;
        let signal = Parent::signal_child(parent, Child { n }).dedup_key(n.to_string());
        cx.done(()).signal(signal)
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
