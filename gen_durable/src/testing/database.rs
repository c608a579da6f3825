//! The database of a test that `#[gen_durable::test]` marks.
//!
//! ```text
//!   process:  server ──► template, one for each setup: migrated, then prepared
//!                           │
//!   test:     runtime ──► copy ──► pool ──► the test ──► the runtime ends ──► the copy is dropped
//! ```
//!
//! Invariant: tests share the server and the templates, and nothing that belongs to the runtime of
//! one of them. A template is made on a runtime of its own, and a test's pool on the test's.

use std::{
    any::TypeId,
    collections::BTreeMap,
    error::Error as StdError,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use gen_durable_postgres::{Cluster, Error, Template};
use sqlx::PgPool;
use tokio::runtime::{Builder, Runtime};

use crate::error::{StepError, cause::with_causes};

/// The error of a setup.
type Boxed = Box<dyn StdError + Send + Sync>;
/// A template, or the reason why there is none. Each test that needs the template states it.
type Made = Result<Template, String>;

/// The templates of this process, by the type of the function that prepares them. The first test
/// that needs a template makes it, and the others wait.
static TEMPLATES: Mutex<BTreeMap<TypeId, Arc<OnceLock<Made>>>> = Mutex::new(BTreeMap::new());

/// The function that prepares a template after the migration.
pub struct Setup {
    /// The name of the user's function.
    name: &'static str,
    /// The type of the user's function. Each function has one of its own.
    of: TypeId,
    prepare: Prepare,
}

type Prepare = Box<dyn FnOnce(PgPool) -> Pin<Box<dyn Future<Output = Result<(), Boxed>>>>>;

impl Setup {
    /// The setup of a test that names none.
    pub fn none() -> Self {
        let prepare: Prepare = Box::new(|_| Box::pin(async { Ok(()) }));
        Self { name: "", of: TypeId::of::<()>(), prepare }
    }

    /// The setup of a test that names this function.
    pub fn new<S, P, E>(name: &'static str, setup: S) -> Self
    where
        S: FnOnce(PgPool) -> P + 'static,
        P: Future<Output = Result<(), E>>,
        E: Into<Boxed>,
    {
        let prepare: Prepare =
            Box::new(|pool| Box::pin(async { setup(pool).await.map_err(Into::into) }));
        Self { name, of: TypeId::of::<S>(), prepare }
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Setup").field(&self.name).finish()
    }
}

/// Runs a test on a database of its own: the expansion of `#[gen_durable::test]` calls this.
///
/// # Panics
///
/// There is no database. The text says what to do.
#[track_caller]
pub fn run_test<F: Future>(setup: Setup, test: impl FnOnce(PgPool) -> F) -> F::Output {
    let made = place(&setup);
    let template = match made.get_or_init(|| make(setup)) {
        Ok(template) => template,
        Err(why) => panic!("{why}"),
    };
    // Values are dropped in the reverse order, also in a panic. The runtime ends first, and with it
    // all tasks that the test left running. The database is dropped after that.
    let mut database = None;
    let runtime = runtime();
    let copy = match runtime.block_on(template.database()) {
        Ok(copy) => copy,
        Err(error) => panic!("the test has no database: {error}\n{SERVER_ADVICE}"),
    };
    let pool = database.insert(copy).pool().clone();
    runtime.block_on(test(pool))
}

/// Returns the place of a setup's template.
fn place(setup: &Setup) -> Arc<OnceLock<Made>> {
    let mut templates = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(templates.entry(setup.of).or_default())
}

fn make(Setup { name, prepare, .. }: Setup) -> Made {
    let cluster = cluster()?;
    let set_up = async |pool: PgPool| {
        let migrated = gen_durable_migrate::up(&pool).await;
        migrated.map_err(|error| format!("the migration failed: {error}"))?;
        let prepared = prepare(pool).await;
        prepared.map_err(|error| format!("the setup `{name}` failed: {}", Text(error)))
    };
    // A test that panics here must leave a reason to the tests that wait for the template.
    let made =
        catch_unwind(AssertUnwindSafe(|| runtime().block_on(Template::create(cluster, set_up))));
    match made {
        Ok(Ok(template)) => Ok(template),
        Ok(Err(Error::SetUp { source })) => Err(format!("the tests have no database: {source}")),
        Ok(Err(error)) => Err(format!("the tests have no database: {error}\n{SERVER_ADVICE}")),
        Err(payload) => {
            let panicked = StepError::panicked(&*payload);
            Err(format!("the tests have no database: the setup `{name}` {panicked}"))
        }
    }
}

/// The advice for a user whose server refuses something.
const SERVER_ADVICE: &str = "if DATABASE_URL is set, the tests use its server: set it to one that runs, with a role \
     that may create databases, or unset it, and the tests start a server of their own";

/// Returns the server of this process: that of `DATABASE_URL`, or a throw-away one, which ends with
/// the process.
fn cluster() -> Result<&'static Cluster, String> {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| {
        Cluster::from_env_or_throwaway(true).map_err(|error| {
            format!(
                "the tests have no server: {error}\nDATABASE_URL may name one that runs already"
            )
        })
    });
    cluster.as_ref().map_err(Clone::clone)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("the system lets a runtime start")
}

/// Prints an error with its causes.
struct Text(Boxed);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_causes(&*self.0, f)
    }
}
