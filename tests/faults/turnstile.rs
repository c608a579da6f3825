//! A counter outside of Postgres: it knows how many limited runs there are at a moment, whatever
//! the database and the engines believe.
//!
//! A run opens a connection, says its key and its weight, and says when it ends. The kernel closes
//! the connection if the process is killed.
//!
//! Invariant: a run is counted before its step goes on. Its end is noticed no earlier than it
//! happens, so the counter never shows less than there is.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use gen_durable::{Limit, prelude::*};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The name of the limit of [`Counted`].
pub const LIMIT: &str = "counted";

/// The state of a limited instance.
#[derive(Clone, Debug, DurableState)]
pub struct Passage {
    /// The address of the counter.
    pub at: String,
    /// The key in the limit.
    pub key: String,
    /// The time for which each run stays, in milliseconds.
    pub stays: u64,
}

/// Two limited steps, one after the other, of different weights.
#[durable_fsm(state = Passage, output = (), queue = "counted")]
pub enum Counted {
    /// Counts as one.
    Light,
    /// Counts as two.
    Heavy,
}

#[durable_fsm]
impl Counted {
    #[step(limit("counted", key = state.key))]
    async fn light(cx: Context<Self>) -> StepResult<Self> {
        pass(&cx.state, 1).await?;
        Ok(cx.next(Counted::Heavy))
    }

    #[step(limit("counted", key = state.key, weight = 2))]
    async fn heavy(cx: Context<Self>) -> StepResult<Self> {
        pass(&cx.state, 2).await?;
        Ok(cx.done(()))
    }
}

/// Stays in the counter for a while. It is dropped with the run.
async fn pass(passage: &Passage, weight: u32) -> std::io::Result<()> {
    let mut line = tokio::net::TcpStream::connect(&passage.at).await?;
    line.write_all(format!("{weight} {}\n", passage.key).as_bytes()).await?;
    line.read_exact(&mut [0]).await?;
    tokio::time::sleep(Duration::from_millis(passage.stays)).await;
    // The run is counted out before its outcome can be committed.
    line.write_all(b".").await?;
    line.read_exact(&mut [0]).await?;
    Ok(())
}

/// Reads bounds as an argument of a worker process states them: `at_once,starts,millis,burst`, each
/// of which may be empty.
///
/// # Errors
///
/// The reason why the text has no bounds.
pub fn bounds(text: &str) -> Result<Limit, String> {
    let numbers: Vec<Option<u32>> = text
        .split(',')
        .map(|number| match number {
            "" => Ok(None),
            number => number.parse().map(Some).map_err(|error| format!("{number}: {error}")),
        })
        .collect::<Result<_, _>>()?;
    let [at_once, starts, millis, burst] = numbers[..] else {
        return Err(format!("`{text}` has not four numbers"));
    };
    let mut limit = Limit::new();
    if let Some(runs) = at_once {
        limit = limit.at_once(runs);
    }
    if let (Some(starts), Some(millis)) = (starts, millis) {
        limit = limit.per(starts, Duration::from_millis(millis.into()));
    }
    if let Some(starts) = burst {
        limit = limit.burst(starts);
    }
    Ok(limit)
}

/// The counter.
#[derive(Debug)]
pub struct Turnstile {
    at: SocketAddr,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    /// The weight of the runs of each key now, and the most that there ever was.
    keys: HashMap<String, (u32, u32)>,
    /// When each run came, and its weight.
    starts: Vec<(Instant, u32)>,
}

impl Turnstile {
    /// Opens a counter, in threads of its own.
    ///
    /// # Errors
    ///
    /// [`std::io::Error`] if no port is free.
    pub fn open() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        let counts = Arc::<Mutex<Counts>>::default();
        let shared = Arc::clone(&counts);
        thread::spawn(move || {
            for line in listener.incoming().flatten() {
                let counts = Arc::clone(&shared);
                thread::spawn(move || serve(line, &counts));
            }
        });
        Ok(Self { at, counts })
    }

    /// Returns a passage through this counter.
    pub fn passage(&self, key: &str, stays: u64) -> Passage {
        Passage { at: self.at.to_string(), key: key.to_owned(), stays }
    }

    /// Returns the weight of the runs of a key now.
    pub fn now(&self, key: &str) -> u32 {
        lock(&self.counts).keys.get(key).map_or(0, |(now, _)| *now)
    }

    /// Returns the most weight that a key has had since the last call, or since the start.
    pub fn take_most(&self, key: &str) -> u32 {
        let mut counts = lock(&self.counts);
        counts.keys.get_mut(key).map_or(0, |(now, most)| std::mem::replace(most, *now))
    }

    /// Returns the number of runs so far.
    pub fn runs(&self) -> usize {
        lock(&self.counts).starts.len()
    }

    /// Returns how far the starts went beyond `burst + starts × t / period` in any time `t`, in
    /// starts: the most over all windows.
    pub fn beyond(&self, starts: f64, period: Duration, burst: f64) -> f64 {
        let counts = lock(&self.counts);
        let rate = starts / period.as_secs_f64();
        // The sum of a window is the difference of two sums. The largest excess of all windows that
        // end at a start takes the smallest sum before.
        let (mut sum, mut least, mut most) = (0.0, f64::MAX, f64::MIN);
        let Some((first, _)) = counts.starts.first() else { return 0.0 };
        for (at, weight) in &counts.starts {
            let allowed = rate * at.duration_since(*first).as_secs_f64();
            least = f64::min(least, sum - allowed);
            sum += f64::from(*weight);
            most = f64::max(most, sum - allowed - least);
        }
        most - burst
    }
}

/// Counts a run until its connection is closed.
fn serve(line: TcpStream, counts: &Mutex<Counts>) {
    let Ok(mut answer) = line.try_clone() else { return };
    let mut reader = BufReader::new(line);
    let mut said = String::new();
    if reader.read_line(&mut said).is_err() {
        return;
    }
    let Some((weight, key)) = said.trim_end().split_once(' ') else { return };
    let weight: u32 = weight.parse().unwrap_or(0);
    {
        let mut counts = lock(counts);
        counts.starts.push((Instant::now(), weight));
        let (now, most) = counts.keys.entry(key.to_owned()).or_default();
        *now += weight;
        *most = (*most).max(*now);
    }
    // The run goes on once it is counted.
    let _ = answer.write_all(b".");
    let _ = reader.read(&mut [0]);
    if let Some((now, _)) = lock(counts).keys.get_mut(key) {
        *now -= weight;
    }
    let _ = answer.write_all(b".");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
