//! A deployment in a test: another lab goes on with what the first one has left.

use std::time::Duration;

use gen_durable::{Upgrade, UpgradeError, prelude::*, testing::Lab};

use crate::support::database;

#[derive(Clone, Debug, DurableSignal)]
pub struct Go;

mod v1 {
    use gen_durable::prelude::*;

    use super::Go;

    #[durable_fsm(name = "trip", state = String, output = String, signals(Go))]
    pub enum Trip {
        Wait,
    }

    #[durable_fsm]
    impl Trip {
        async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
            let name = cx.state.clone();
            Ok(match cx.take_signal::<Go>()? {
                Some(Go) => cx.done(name),
                None => cx.await_signal::<Go>(),
            })
        }
    }
}

#[durable_fsm(name = "trip", version = 2, upgrades = v1::Trip, state = usize, output = usize, signals(Go))]
pub enum Trip {
    Wait,
}

impl Upgrade<v1::Trip> for Trip {
    fn upgrade(_: v1::Trip, state: String) -> Result<(Self, usize), UpgradeError> {
        if state.is_empty() {
            return Err("it has no name".into());
        }
        Ok((Self::Wait, state.len()))
    }
}

#[durable_fsm]
impl Trip {
    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        let length = cx.state;
        Ok(match cx.take_signal::<Go>()? {
            Some(Go) => cx.done(length),
            None => cx.await_signal_for::<Go>(Duration::from_hours(1)),
        })
    }
}

#[tokio::test]
async fn p75_a_lab_goes_on_with_the_instances_of_an_older_version() {
    let db = database().await;
    let mut before = Lab::new(db.pool()).machine::<v1::Trip>().start().await.unwrap();
    let named = v1::Trip::insert("Ada".to_owned()).execute(&before).await.unwrap();
    let nameless = v1::Trip::insert(String::new()).execute(&before).await.unwrap();
    before.advance(Duration::from_mins(1)).await.unwrap();
    before.assert_parked(named, v1::Trip::Wait).await.unwrap();
    before.close().await.unwrap();

    let mut after = Lab::new(db.pool()).machine::<Trip>().start().await.unwrap();
    for id in [named, nameless] {
        v1::Trip::signal_go(id, Go).execute(&after).await.unwrap();
    }
    after.run_until_idle().await.unwrap();
    let named = InstanceId::<Trip>::from_raw(named.get());
    after.assert_done(named, &3).await.unwrap();
    // The other one stays as it is, and says why.
    let stands = after.describe(nameless).await.unwrap();
    assert!(stands.contains("it has no name"), "{stands}");
    after.assert_runnable(nameless, v1::Trip::Wait).await.unwrap();
}
