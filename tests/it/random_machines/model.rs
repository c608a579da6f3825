//! The reference: it interprets the same plans in memory. It knows nothing of rows, claims or
//! connections.

use super::plan::{Act, Case, Colour, End, STEPS_MAX, When};

/// The end that an instance comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    Done,
    Failed(String),
    /// It waits for a signal that never comes.
    Waits,
}

/// All that a test can see of an instance that is at rest.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expected {
    pub(super) fate: Fate,
    pub(super) end: End,
    /// The number of signals that are left in its inbox.
    pub(super) inbox: i64,
    /// The number of instances that its outcomes have inserted.
    pub(super) inserted: i64,
    /// The notes that its transactions have made.
    pub(super) notes: i64,
}

/// A deliberate mistake of the reference. A test checks that the comparison notices it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Flaw {
    None,
    /// It takes the last of several signals, not the first.
    TakesTheLast,
    /// It repeats the inserts of a step that runs again.
    InsertsAtEachRun,
}

/// Returns what a case comes to, given the signals that are sent no later than `last`.
pub(super) fn expect(case: &Case, last: When, flaw: Flaw) -> Expected {
    let numbered = case.signals.iter().enumerate().filter(|(_, (when, _))| *when <= last);
    let mut inbox: Vec<(Colour, usize)> = numbered.map(|(n, (_, colour))| (*colour, n)).collect();
    let acts = &case.acts;
    let (mut at, mut inserted, mut notes) = (0, 0, 0);
    let mut end = End { trail: Vec::new(), taken: Vec::new() };
    let fate = loop {
        if end.trail.len() >= STEPS_MAX {
            break Fate::Done;
        }
        let to = match acts[at] {
            Act::Done => break Fate::Done,
            Act::Stop => break Fate::Failed("the plan says so".to_owned()),
            Act::Fatal => break Fate::Failed("a fatal error".to_owned()),
            Act::Take(colour, to) => {
                let mut places = inbox.iter().enumerate().filter(|(_, (of, _))| *of == colour);
                let place =
                    if flaw == Flaw::TakesTheLast { places.next_back() } else { places.next() };
                let Some((place, _)) = place else { break Fate::Waits };
                end.taken.push(inbox.remove(place));
                to
            }
            Act::Gather(colour, count, to) | Act::Count(colour, count, to) => {
                if inbox.iter().filter(|(of, _)| *of == colour).count() < count {
                    break Fate::Waits;
                }
                to
            }
            Act::Insert(to) => {
                inserted += 1;
                to
            }
            Act::Family(children, to) => {
                inserted += i64::try_from(children).expect("a few");
                to
            }
            Act::Note(_, to) => {
                notes += 1;
                to
            }
            Act::Send(to) | Act::SendByKey(to) => {
                inbox.push((Colour::Green, end.trail.len()));
                to
            }
            Act::Replay(times, to) => {
                if flaw == Flaw::InsertsAtEachRun {
                    inserted += i64::from(times);
                }
                to
            }
            Act::Next(to)
            | Act::NextIn(to)
            | Act::Err(_, to)
            | Act::Panic(_, to)
            | Act::Overrun(_, to)
            | Act::TimeOut(to) => to,
        };
        end.trail.push(at);
        at = to % acts.len();
    };
    let left = i64::try_from(inbox.len()).expect("a few");
    // Only `done` empties an inbox.
    let inbox = if fate == Fate::Done { 0 } else { left };
    Expected { fate, end, inbox, inserted, notes }
}
