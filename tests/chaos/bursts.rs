//! Bursts beside the driver's steady calls: callers send giant rows and fill inboxes, and their
//! transactions hold rows and keys.
//!
//! Invariant: as for the driver, a signal that an instance needs is sent until it is acknowledged.

use std::{sync::Arc, time::Duration};

use gen_durable::{Delivery, InsertError, SignalError, prelude::*};
use gen_durable_tests::{
    giant::{Giant, GiantState, Parcel},
    machines::{Collector, CollectorState, EXTERNAL, KeyedState, Once, Ping},
    random::Random,
};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::{
    driver::{CALL_MAX, FOR_EVER, Shared},
    schedule::{Fault, Hold},
};

/// The most signals of a burst that are under way at once.
const AT_ONCE: u32 = 500;

/// The caller's own limit for an idle transaction: over a half open connection it cannot end the
/// transaction itself.
const IDLE_MAX: &str = "set local idle_in_transaction_session_timeout = '8s'";

impl Shared {
    /// Does the driver's part of a fault.
    pub(crate) async fn suffer(self: Arc<Self>, fault: Fault, mut random: Random) {
        match fault {
            Fault::Giants(rows, bytes) => self.giants(rows, bytes).await,
            Fault::Inbox(signals, bytes) => self.inbox(signals, bytes, &mut random).await,
            Fault::Hold(Hold::Row, time, kept) => {
                Box::pin(self.hold_row(time, kept, &mut random)).await;
            }
            Fault::Hold(Hold::Key, time, kept) => {
                Box::pin(self.hold_key(time, kept, &mut random)).await;
            }
            _ => {}
        }
    }

    /// Inserts many large rows in one call.
    async fn giants(&self, rows: u32, bytes: usize) {
        let rows: Vec<_> = (0..rows).map(|_| Giant::insert(GiantState::new(bytes, 0))).collect();
        let call = Giant::insert_many(rows).execute(self.busy());
        if let Some(Ok(ids)) = self.call(call).await {
            ids.into_iter().flatten().for_each(|id| self.remember(id.get()));
        }
    }

    /// Sends many signals to one instance, as fast as possible.
    async fn inbox(self: Arc<Self>, signals: u32, bytes: usize, random: &mut Random) {
        let key = format!("giant {}", random.number());
        let id = self
            .insert_surely(self.busy(), &key, || Giant::insert(GiantState::new(0, signals)))
            .await;
        let mut numbers = 0..signals;
        loop {
            let mut sends = JoinSet::new();
            for n in numbers.by_ref().take(AT_ONCE as usize) {
                let shared = Arc::clone(&self);
                sends.spawn(async move { shared.send_parcel(id, n, bytes).await });
            }
            if sends.is_empty() {
                return;
            }
            sends.join_all().await;
        }
    }

    async fn send_parcel(&self, id: InstanceId<Giant>, n: u32, bytes: usize) {
        loop {
            let signal = Giant::signal_parcel(id, Parcel::new(n, bytes));
            let signal = signal.dedup_key(format!("parcel {n}"));
            match self.call(signal.execute(self.busy())).await {
                Some(
                    // `Terminal`: an earlier try delivered the signal, then the instance got all
                    // others and ended.
                    Ok(Delivery::Delivered | Delivery::Duplicate)
                    | Err(SignalError::Terminal { .. }),
                ) => return,
                Some(Err(
                    error @ (SignalError::Unknown { .. } | SignalError::WrongMachine { .. }),
                )) => {
                    return self.wrong(format!("giant {id} is gone, or another machine: {error}"));
                }
                _ => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    /// Signals a collector in a transaction that stays open for a while. Meanwhile another call and
    /// the collector's own leaves signal it too.
    async fn hold_row(&self, time: Duration, kept: bool, random: &mut Random) {
        let state = CollectorState { leaves: 5, external: 1, ..CollectorState::default() };
        let key = format!("held {}", random.number());
        let id = self.insert_surely(self.busy(), &key, || Collector::insert(state.clone())).await;
        let signal = Collector::signal_ping(id, Ping { n: EXTERNAL });
        let signal = signal.dedup_key(format!("external {EXTERNAL}"));
        let hold =
            self.hold(time, kept, async |connection| signal.execute(connection).await.is_ok());
        tokio::join!(hold, self.send(id, EXTERNAL));
        self.owe(id, EXTERNAL);
    }

    /// Inserts a unique key in a transaction that stays open for a while. Meanwhile another call
    /// inserts the same key.
    async fn hold_key(&self, time: Duration, kept: bool, random: &mut Random) {
        let key = format!("once {}", random.below(200));
        let insert =
            || Once::insert(KeyedState::default()).unique_key(key.clone()).unique_while(FOR_EVER);
        let mut inserted = None;
        let hold = self.hold(time, kept, async |connection| {
            inserted = insert().execute(connection).await.ok();
            inserted.is_some()
        });
        let (committed, _) = tokio::join!(hold, self.keep(insert()));
        if let (true, Some(id)) = (committed, inserted) {
            self.remember(id.get());
        }
    }

    /// Acts in a transaction and leaves it open for a while. Returns true if it is known to be
    /// committed.
    async fn hold(
        &self,
        time: Duration,
        kept: bool,
        act: impl AsyncFnOnce(&mut PgConnection) -> bool,
    ) -> bool {
        let held = async {
            let mut connection = self.pool().acquire().await?;
            let mut transaction = connection.begin().await?;
            sqlx::raw_sql(IDLE_MAX).execute(&mut *transaction).await?;
            if !act(&mut transaction).await {
                transaction.rollback().await?;
                return Ok(false);
            }
            tokio::time::sleep(time).await;
            if kept {
                transaction.commit().await?;
            } else {
                transaction.rollback().await?;
            }
            Ok::<bool, sqlx::Error>(kept)
        };
        let held = tokio::time::timeout(CALL_MAX, held).await;
        held.is_ok_and(|held| held.unwrap_or(false))
    }

    /// Inserts until there is an answer. If an answer is lost, the driver does not know the id and
    /// could never send the signals. The unique key tells it the id at the next try. The key is
    /// held for ever, as the instance may have ended before that.
    pub(crate) async fn insert_surely<M: Machine>(
        &self,
        client: &Client,
        key: &str,
        insert: impl Fn() -> gen_durable::Insert<M>,
    ) -> InstanceId<M> {
        loop {
            let insert = insert().unique_key(key).unique_while(FOR_EVER);
            let id = match self.call(insert.execute(client)).await {
                Some(Ok(id)) => id,
                Some(Err(InsertError::Duplicate(duplicate))) => duplicate.id,
                _ => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            self.remember(id.get());
            return id;
        }
    }
}
