//! `workers`: shows the engines that the database knows.
//!
//! Invariant: a worker whose lease has run out is marked as lost.

use gen_durable::{Client, operate::WorkerEntry};

use crate::{
    failure::Failure,
    print::{Cell, Object, Out, Style, Table, left, maybe, right},
    when,
};

/// Show the running engines, and those that were lost.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  gen-durable workers
  gen-durable workers --json")]
pub(crate) struct Workers {}

impl Workers {
    pub(crate) async fn run(self, client: &Client, out: &mut Out) -> Result<(), Failure> {
        out.no_ids("workers")?;
        let workers = client.workers().await?;
        let table = Table::new([
            right("ID"),
            left("NAME"),
            left("HOST"),
            right("PID"),
            left("STATUS"),
            left("STARTED"),
            left("LEASE"),
            right("RUNNING"),
            left("QUEUES"),
            maybe("VERSION"),
        ]);
        let now = out.now;
        let row = |worker: &WorkerEntry| {
            let alive = if worker.is_alive { ("alive", Style::Good) } else { ("lost", Style::Bad) };
            let queues = worker.queues.iter().map(|(queue, slots)| format!("{queue}:{slots}"));
            let more = if worker.executing_capped { "+" } else { "" };
            vec![
                Cell::number(worker.id),
                Cell::plain(&worker.name),
                Cell::maybe(worker.host.as_ref()),
                worker.pid.map_or_else(Cell::empty, Cell::number),
                Cell::styled(alive.0, alive.1),
                Cell::plain(when::relative(worker.started_at, now)),
                Cell::plain(when::relative(worker.lease_ends_at, now)),
                Cell::plain(format!("{}{more}", worker.executing)),
                Cell::plain(queues.collect::<Vec<_>>().join(" ")),
                Cell::maybe(worker.library.as_ref()),
            ]
        };
        out.things(&workers, table, row, json, |_| None)
    }
}

fn json(worker: &WorkerEntry) -> Object {
    let queues = worker.queues.iter();
    let queues =
        queues.map(|(queue, slots)| Object::new().with("name", &**queue).with("slots", *slots));
    let machines = worker
        .machines
        .iter()
        .map(|(machine, version)| Object::new().with("name", &**machine).with("version", *version));
    Object::new()
        .with("id", worker.id)
        .with("name", &*worker.name)
        .with("host", worker.host.as_deref())
        .with("pid", worker.pid)
        .with("library", worker.library.as_deref())
        .time("started_at", worker.started_at)
        .time("lease_ends_at", worker.lease_ends_at)
        .with("is_alive", worker.is_alive)
        .objects("queues", queues)
        .objects("machines", machines)
        .with("executing", worker.executing)
        .with("executing_is_exact", !worker.executing_capped)
}
