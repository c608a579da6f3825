//! Live pages: a stream of server-sent events for each.
//!
//! | event | data |
//! |---|---|
//! | `patch` | the id of a part of the page, a line break, and its new HTML |
//! | `look` | the time of the look at the database, and how long it took, in milliseconds |
//! | `stale` | nothing: the last look failed, and the page shows an older one |
//! | `bye` | nothing: the server ends, and the page asks again after a while |
//!
//! Invariant: a viewer is sent only the parts that have changed, rendered for what that viewer may
//! see.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use axum::{
    http::{HeaderName, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::Instant,
};

use crate::{
    console::Inner, guard::Viewer, hub::Newest, looks::Seen, pages, routes::Failed, time,
    view::View,
};

/// The pause after which a stream says that it lives, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The life of a stream. The browser opens the next one, and its access is checked again.
const LIFE: Duration = Duration::from_mins(10);
/// The longest time that a reader may let an event wait. After it, the stream ends.
const STALLED: Duration = Duration::from_secs(30);

struct Stream {
    inner: Arc<Inner>,
    viewer: Viewer,
    view: View,
    newest: watch::Receiver<Newest>,
    closed: watch::Receiver<bool>,
    end: Instant,
    /// The digests of the parts that were sent last.
    sent: HashMap<&'static str, u64>,
    waiting: VecDeque<Event>,
    over: bool,
    _place: OwnedSemaphorePermit,
}

/// Opens the stream of a view.
pub(crate) fn stream(inner: &Arc<Inner>, viewer: Viewer, view: View) -> Result<Response, Failed> {
    let place = Arc::clone(&inner.streams).try_acquire_owned().map_err(|_| Failed::Full)?;
    let mut newest = inner.hub.watch(inner, &view).map_err(|_| Failed::Full)?;
    if newest.borrow().is_some() {
        newest.mark_changed();
    }
    let stream = Stream {
        inner: Arc::clone(inner),
        viewer,
        view,
        newest,
        closed: inner.closed.subscribe(),
        end: Instant::now() + LIFE,
        sent: HashMap::new(),
        waiting: VecDeque::new(),
        over: false,
        _place: place,
    };
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(feed(stream, sender));
    let events = stream::unfold(receiver, |mut receiver| async move {
        let event = receiver.recv().await?;
        Some((Ok::<_, Infallible>(event), receiver))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // A proxy such as nginx would collect the events otherwise.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), "no");
    Ok(([unbuffered, (header::CACHE_CONTROL, "no-store, no-transform")], events).into_response())
}

/// Hands the events over, until the stream is over or its reader is gone. A reader that takes
/// nothing for a while counts as gone: otherwise it would keep its place and its look for ever.
async fn feed(mut stream: Stream, sender: mpsc::Sender<Event>) {
    loop {
        let event = tokio::select! {
            biased;
            () = sender.closed() => return,
            event = stream.next() => event,
        };
        let Some(event) = event else { return };
        if !matches!(tokio::time::timeout(STALLED, sender.send(event)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// The events that a stream waits for.
enum News {
    /// There is a newer look.
    Look,
    /// The server ends.
    Bye,
    /// The stream has lived long enough.
    End,
}

impl Stream {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            let news = tokio::select! {
                biased;
                closed = self.closed.wait_for(|closed| *closed) => closed.map(|_| News::Bye),
                () = tokio::time::sleep_until(self.end) => Ok(News::End),
                changed = self.newest.changed() => changed.map(|()| News::Look),
            };
            match news {
                Ok(News::Look) => {
                    let newest = self.newest.borrow_and_update().clone();
                    self.say(newest.as_deref());
                }
                Ok(News::Bye) => {
                    self.over = true;
                    self.waiting.push_back(Event::default().event("bye").data(""));
                }
                Ok(News::End) | Err(_) => self.over = true,
            }
        }
    }

    /// Prepares the events for a look.
    fn say(&mut self, seen: Option<&Seen>) {
        let Some(seen) = seen else {
            self.waiting.push_back(Event::default().event("stale").data(""));
            return;
        };
        for part in pages::parts(&self.viewer, &self.view, seen) {
            if !part.is_live {
                continue;
            }
            let html = part.html.into_string();
            let mut hasher = DefaultHasher::new();
            html.hash(&mut hasher);
            let digest = hasher.finish();
            if self.sent.insert(part.id, digest) != Some(digest) {
                // A carriage return would end a line of the event.
                let html = html.replace('\r', "&#13;");
                let data = format!("{}\n{html}", part.id);
                self.waiting.push_back(Event::default().event("patch").data(data));
            }
        }
        let took = seen.took.as_secs_f64() * 1e3;
        let data = format!("{} {took:.1}", time::rfc3339(seen.at));
        self.waiting.push_back(Event::default().event("look").data(data));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        tracing::trace!(
            target: "gen_durable::console",
            view = ?self.view,
            watched = self.inner.hub.watched(),
            "a live page is closed"
        );
    }
}
