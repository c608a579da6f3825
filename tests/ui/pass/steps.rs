//! What a step may take and return, and what may stand beside it in the block.

use std::{
    fmt, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use gen_durable::{Context as Cx, prelude::*};

trait Carrier: Send + Sync {
    fn ship(&self) -> Result<(), Lost>;
}

#[derive(Debug)]
struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lost")
    }
}

impl std::error::Error for Lost {}

struct Cache<T, const N: usize>(Mutex<[T; N]>);

type Handler = Arc<dyn Fn(&str) -> usize + Send + Sync>;

/// The steps of a checkout.
///
/// ```ignore
/// Checkout::insert(())
/// ```
#[durable_fsm(output = u64)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Checkout {
    /// The first.
    Plain,
    /** The second. */
    Dynamic,
    Errors,
    OwnError,
    Boxed,
    Anyhow,
    Pattern,
    Diverges,
}

#[durable_fsm]
#[allow(clippy::unused_self)]
impl Checkout {
    const FACTOR: u64 = 2;

    /// A step that others may call.
    pub async fn plain(cx: Context<Self>) -> Outcome<Checkout> {
        cx.next_in(Self::Dynamic, Self::delay(1))
    }

    #[allow(clippy::borrowed_box)]
    #[inline]
    pub(crate) async fn dynamic(
        cx: gen_durable::Context<Self>,
        shared: &Arc<dyn Carrier>,
        boxed: &Box<dyn Carrier>,
        lock: &Mutex<Vec<String>>,
        cache: &Cache<u8, 4>,
        handler: &Handler,
        function: &fn(&str) -> &str,
        pair: &(Arc<dyn Carrier>, &'static str),
    ) -> StepResult<Self> {
        shared.ship()?;
        boxed.ship()?;
        pair.0.ship()?;
        let names = lock.lock().map(|names| names.len()).unwrap_or_default();
        let cached = cache.0.lock().map(|cached| cached.len()).unwrap_or_default();
        let sum = u64::try_from(names + cached + handler(function(pair.1)))?;
        Ok(cx.done(sum * Self::FACTOR))
    }

    async fn errors(cx: Context<Self>, text: &String) -> StepResult<Self> {
        let number: usize = text.parse()?;
        let float: f64 = text.parse()?;
        Err(io::Error::other("a"))?;
        Self::fallible(number)?;
        Self::later(number).await?;
        let _ = float;
        Ok(cx.done(u64::try_from(number)?))
    }

    async fn own_error(cx: Context<Self>) -> Result<Outcome<Self>, Lost> {
        Self::fallible(1)?;
        Ok(cx.replay(Duration::ZERO))
    }

    async fn boxed(
        cx: Context<Self>,
    ) -> Result<Outcome<Self>, Box<dyn std::error::Error + Send + Sync>> {
        "1".parse::<u8>()?;
        Err("a text")?;
        Ok(cx.stop("never"))
    }

    async fn anyhow(cx: Context<Self>) -> anyhow::Result<Outcome<Self>> {
        "1".parse::<u8>()?;
        anyhow::ensure!(cx.attempt() < 3, "too many");
        Ok(cx.stop("never"))
    }

    async fn pattern(Cx { state: (), .. }: Context<Self>, _: &String) -> Outcome<Self> {
        std::future::pending().await
    }

    async fn diverges(_cx: Context<Self>) -> Outcome<Self> {
        panic!("on purpose")
    }

    async fn handle(cx: Context<Self>, error: StepError, log: &Mutex<Vec<String>>) -> StepResult<Self> {
        let Ok(mut log) = log.lock() else { return Err(error) };
        log.push(error.to_string());
        Ok(cx.stop(error))
    }

    fn delay(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn fallible(n: usize) -> Result<usize, Lost> {
        if n > 3 { Err(Lost) } else { Ok(n) }
    }

    async fn later(n: usize) -> Result<usize, Lost> {
        Self::fallible(n)
    }

    /// Takes a context, and is no step: no variant is called so.
    fn finish(cx: Context<Self>) -> Outcome<Self> {
        cx.done(0)
    }

    async fn look(cx: &Context<Self>) -> u32 {
        cx.attempt()
    }

    async fn change<T>(cx: &mut Context<Self>, with: T) -> T {
        cx.state = ();
        with
    }

    fn method(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            _ => "another",
        }
    }
}

/// Steps may be helpers of one another, and a second block holds what is no step.
impl Checkout {
    pub async fn twice(cx: Context<Self>) -> Outcome<Self> {
        Self::plain(cx).await
    }
}

fn main() {
    let _ = (Checkout::finish, Checkout::look, Checkout::change::<u8>, Checkout::twice);
    assert_eq!(Checkout::Plain.method(), "plain");
    let taken: Vec<_> = Checkout::requirements().iter().map(|taken| taken.step).collect();
    let mut wanted = vec!["dynamic"; 7];
    wanted.extend(["errors", "pattern", "handle"]);
    assert_eq!(taken, wanted);
}
