//! A saga: a trip is booked piece by piece. If a piece cannot be booked, the pieces before it are
//! cancelled, the latest first.
//!
//! ```text
//! cargo run --example saga
//! ```
//!
//! Each booking and each cancellation is a run of a step with a commit of its own. The saga
//! therefore goes on after a crash at any moment, also in the middle of the cancellations.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use gen_durable::prelude::*;
use gen_durable_examples::{Error, Session};

#[derive(Default, DurableState)]
struct TripState {
    destination: String,
    /// The pieces that are booked and not cancelled, in the order of booking.
    booked: Vec<String>,
    cancelled: Vec<String>,
    /// The reason why the trip is called off; none before.
    reason: Option<String>,
}

#[derive(Debug, PartialEq, DurableState)]
enum Trip {
    Booked(Vec<String>),
    CalledOff { reason: String, cancelled: Vec<String> },
}

#[durable_fsm(state = TripState, output = Trip)]
enum Booking {
    Flight,
    Hotel,
    Car,
    /// Cancels the latest booking; comes after an error.
    Cancel,
}

#[durable_fsm]
impl Booking {
    // The macro does not read the function that gets the context. The attribute declares the
    // target, and each run checks it.
    #[step(next(Hotel))]
    async fn flight(cx: Context<Self>, agency: &Agency) -> StepResult<Self> {
        book(cx, agency, "flight", Booking::Hotel)
    }

    #[step(next(Car))]
    async fn hotel(cx: Context<Self>, agency: &Agency) -> StepResult<Self> {
        book(cx, agency, "hotel", Booking::Car)
    }

    async fn car(mut cx: Context<Self>, agency: &Agency) -> StepResult<Self> {
        agency.book(&cx.state.destination, "car", cx.id())?;
        cx.state.booked.push("car".to_owned());
        let booked = cx.state.booked.clone();
        Ok(cx.done(Trip::Booked(booked)))
    }

    // Each run makes one cancellation, which is committed before the next run.
    async fn cancel(mut cx: Context<Self>, agency: &Agency) -> StepResult<Self> {
        if let Some(what) = cx.state.booked.pop() {
            agency.cancel(&what, cx.id())?;
            cx.state.cancelled.push(what);
            return Ok(cx.next(Booking::Cancel));
        }
        let reason = cx.state.reason.take().unwrap_or_default();
        let cancelled = cx.state.cancelled.clone();
        // If a trip that was called off should count as failed, write `cx.stop(reason)` here.
        Ok(cx.done(Trip::CalledOff { reason, cancelled }))
    }

    // The state is the one that the failed step began with, without the step's own changes.
    async fn handle(mut cx: Context<Self>, error: StepError) -> Outcome<Self> {
        println!("  {}, attempt {}: {error}", cx.step_name(), cx.attempt());
        let delay = Duration::from_millis(100) * cx.attempt().min(600);
        let sold_out = error.downcast_ref::<AgencyError>() == Some(&AgencyError::SoldOut);
        if matches!(cx.step(), Booking::Cancel) {
            // A cancellation has no alternative, so it is tried again after any error.
            cx.replay(delay)
        } else if sold_out || cx.attempt() >= 5 {
            cx.state.reason = Some(format!("{}: {error}", cx.step_name()));
            if !sold_out {
                // The call failed, but may have made the booking: cancel it as well.
                let doubtful = cx.step_name().to_owned();
                cx.state.booked.push(doubtful);
            }
            cx.next(Booking::Cancel)
        } else {
            cx.replay(delay)
        }
    }
}

/// Books one piece of the trip and goes on to the next.
fn book(
    mut cx: Context<Booking>,
    agency: &Agency,
    what: &str,
    next: Booking,
) -> StepResult<Booking> {
    agency.book(&cx.state.destination, what, cx.id())?;
    cx.state.booked.push(what.to_owned());
    Ok(cx.next(next))
}

/// A piece of a trip, by which the agency recognises it.
type Piece = (InstanceId<Booking>, String);

/// A service outside of Postgres. A step may run twice, so the agency may get the same call twice.
/// It knows a piece by its name and the instance's id, and the second call changes nothing.
#[derive(Clone, Default)]
struct Agency {
    bookings: Arc<Mutex<BTreeSet<Piece>>>,
    cancellations: Arc<AtomicU32>,
    /// The pieces that are paid: one for each booking that is new, less those that are cancelled.
    paid: Arc<Mutex<i32>>,
    /// True in a test: each call counts as new.
    forgets: bool,
}

#[derive(Debug, PartialEq, thiserror::Error)]
enum AgencyError {
    #[error("sold out")]
    SoldOut,
    #[error("the line was busy")]
    Busy,
}

impl Agency {
    fn book(&self, place: &str, what: &str, trip: InstanceId<Booking>) -> Result<(), AgencyError> {
        if place == "Venice" && what == "car" {
            return Err(AgencyError::SoldOut);
        }
        let new = self.bookings().insert((trip, what.to_owned()));
        self.pay(new, 1);
        println!("  {what} to {place} booked");
        Ok(())
    }

    fn cancel(&self, what: &str, trip: InstanceId<Booking>) -> Result<(), AgencyError> {
        if self.cancellations.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(AgencyError::Busy); // gives `handle` a reason to try again
        }
        let was_booked = self.bookings().remove(&(trip, what.to_owned()));
        self.pay(was_booked, -1);
        println!("  {what} cancelled");
        Ok(())
    }

    fn pay(&self, is_new: bool, pieces: i32) {
        if is_new || self.forgets {
            *self.paid.lock().unwrap_or_else(PoisonError::into_inner) += pieces;
        }
    }

    fn bookings(&self) -> MutexGuard<'_, BTreeSet<Piece>> {
        self.bookings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::open().await?;
    let agency = Agency::default();
    let engine = Engine::builder(session.pool.clone())
        .machine::<Booking>()
        .resource(agency.clone())
        .start()
        .await?;

    let mut trips = Vec::new();
    for destination in ["Verona", "Venice"] {
        let state = TripState { destination: destination.to_owned(), ..Default::default() };
        let id = Booking::insert(state).execute(&engine).await?;
        println!("instance {id}: a trip to {destination}");
        let trip = engine.wait(id, Duration::from_secs(30)).await?;
        println!("{trip:?}");
        trips.push((id, trip));
    }
    engine.shutdown().await?;

    let [(verona, booked), (_, called_off)] = &trips[..] else { return Err("two trips".into()) };
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(*booked, Trip::Booked(names(&["flight", "hotel", "car"])));
    let reason = "car: sold out".to_owned();
    assert_eq!(*called_off, Trip::CalledOff { reason, cancelled: names(&["hotel", "flight"]) });
    let left = agency.bookings().iter().map(|(trip, _)| *trip).collect::<Vec<_>>();
    assert_eq!(left, [*verona; 3], "of the trip that was called off, nothing is booked");
    Ok(())
}

#[cfg(test)]
mod tests {
    use gen_durable::testing::{Lab, PgPool, TestResult};

    use super::*;

    /// Books a trip that is called off, in a lab, and looks at what is left.
    async fn to_venice(pool: PgPool, agency: Agency) -> TestResult {
        let lab = Lab::new(&pool).machine::<Booking>().resource(agency.clone());
        let mut lab = lab.start().await?;
        let state = TripState { destination: "Venice".to_owned(), ..Default::default() };
        let id = Booking::insert(state).execute(&lab).await?;
        lab.advance(Duration::from_mins(10)).await?;
        let cancelled = vec!["hotel".to_owned(), "flight".to_owned()];
        let reason = "car: sold out".to_owned();
        lab.assert_done(id, &Trip::CalledOff { reason, cancelled }).await?;
        assert!(agency.bookings().is_empty(), "of the trip nothing is booked");
        assert_eq!(*agency.paid.lock().expect("nobody panics"), 0, "of the trip nothing is paid");
        Ok(())
    }

    #[gen_durable::test]
    async fn a_trip_that_is_called_off_leaves_nothing_whatever_crashes(
        pool: PgPool,
    ) -> Result<(), Error> {
        Lab::explore(&pool, 1, async |pool| to_venice(pool, Agency::default()).await)
            .courses(8)
            .await?;
        Ok(())
    }

    /// The agency is broken on purpose: it does not recognise a call that it has had before.
    #[gen_durable::test]
    async fn an_agency_that_takes_a_call_twice_is_found(pool: PgPool) -> Result<(), Error> {
        let explore = Lab::explore(&pool, 1, async |pool| {
            to_venice(pool, Agency { forgets: true, ..Agency::default() }).await
        });
        let found = explore.await.expect_err("the agency forgets").to_string();
        assert!(found.contains("of the trip nothing is paid"), "{found}");
        assert!(found.contains("a fault after a run of instance"), "{found}");
        Ok(())
    }

    #[test]
    fn the_graph_has_the_declared_targets() {
        let graph = Booking::graph();
        assert!(graph.is_complete());
        assert_eq!(
            graph.to_mermaid(),
            "stateDiagram-v2
    state \"an error in any step\" as handle
    [*] --> flight
    flight --> hotel
    hotel --> car
    car --> [*]: done
    cancel --> cancel
    cancel --> [*]: done
    handle --> handle: replay
    handle --> cancel
"
        );
    }
}
