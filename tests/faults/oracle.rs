//! The oracle: it knows what really happened, by the database's own account.
//!
//! Triggers on the engine's tables log every committed transition and every signal. A transaction
//! that is rolled back leaves no entry, and no entry can be written without its transition. The
//! row's lock orders the entries of an instance. The engine knows nothing of the log. The code of
//! steps adds its own account (`runs`).
//!
//! Invariant: `check` reads the log and the tables alone, and names each problem that it finds.

use sqlx::PgPool;

use crate::machines::{EDGES, ENDS};

const INSTALL: &str = include_str!("oracle.sql");

/// The checks for the end of a run: a title, and a statement that returns a text for each problem.
const CHECKS: &[(&str, &str)] = &[
    (
        "an instance has not ended",
        "select format('%s %s: %s at %s, locked by %s', i.fsm, i.id, i.status, i.step, i.locked_by)
         from gen_durable.instances i where i.status not in ('done', 'failed', 'cancelled')",
    ),
    (
        "an ended instance is locked or blocked",
        "select format('%s %s', i.fsm, i.id) from gen_durable.instances i
         where i.locked_by is not null or i.blocked_by & ~8 <> 0",
    ),
    (
        "a transition does not continue the one before: something was undone or done twice",
        "select format('%s %s: after %s/%s n=%s r%s came %s/%s n=%s r%s (entry %s)',
                fsm, id, before_status, before_step, before_n, before_revision,
                old_status, old_step, old_n, old_revision, seq)
         from (
             select l.*,
                    lag(new_status) over w as before_status, lag(new_step) over w as before_step,
                    lag(new_revision) over w as before_revision, lag(new_n) over w as before_n
             from chaos.log l
             window w as (partition by id order by seq)
         ) as l
         where (before_status, before_step, before_revision, before_n)
               is distinct from (old_status, old_step, old_revision, old_n)",
    ),
    (
        "a transition is none that an instance may make",
        "select format('%s %s: %s/%s n=%s a%s -> %s/%s n=%s a%s (entry %s)', l.fsm, l.id,
                l.old_status, l.old_step, l.old_n, l.old_attempt,
                l.new_status, l.new_step, l.new_n, l.new_attempt, l.seq)
         from chaos.log l
         cross join lateral (
             select l.old_step = l.new_step and l.old_n = l.new_n as stays,
                    l.new_n = l.old_n + 1 and l.new_attempt = 0 and exists (
                        select from chaos.edges e
                        where e.fsm = l.fsm and e.from_step = l.old_step and e.to_step = l.new_step
                    ) as advances,
                    -- A giant, or an order, may await parcels that are in its inbox and not
                    -- loaded. Then it runs again with them.
                    l.fsm in ('giant', 'order') and l.old_step = l.new_step and l.old_n = l.new_n
                        and l.new_attempt = 0 as goes_on,
                    l.new_revision = l.old_revision + 1 as fenced
         ) as is_
         -- Trips have checks of their own: a cancel leads from any step to another.
         where l.fsm <> 'trip' and not coalesce(case l.old_status || '>' || l.new_status
             when 'runnable>executing' then stays and fenced and l.old_attempt = l.new_attempt
             when 'executing>executing' then fenced and (advances or goes_on)
             when 'executing>runnable' then fenced and (
                 advances or goes_on or stays and l.new_attempt - l.old_attempt in (0, 1))
             when 'executing>awaiting_signal' then stays and fenced and l.new_attempt = 0
             when 'awaiting_signal>runnable' then stays and l.new_attempt = 0
             when 'executing>done' then stays and fenced
             when 'executing>failed' then stays and fenced
             -- A parked receiver waits for one signal less.
             when 'awaiting_signal>awaiting_signal' then stays and l.new_attempt = 0
         -- An instance is born runnable, or claimed.
         end, l.old_status is null and (
             l.new_status = 'runnable' or l.new_status = 'executing' and l.new_revision = 1))",
    ),
    (
        "an instance ended where or how its machine does not",
        "select format('%s %s: %s at %s: %s', i.fsm, i.id, i.status, i.step, i.last_error)
         from gen_durable.instances i
         where i.status in ('done', 'failed') and i.fsm <> 'trip'
           and (not exists (
               select from chaos.ends e
               where e.fsm = i.fsm and e.step = i.step and e.status = i.status
           ) or i.status = 'failed' and i.last_error not like '%on purpose')",
    ),
    (
        "two executions of one partition key overlap",
        "select format('key %s: %s began (entry %s) while %s had not ended',
                partition_key, id, seq, before_id)
         from (
             select l.*, lag(id) over w as before_id, lag(new_status) over w as before_status
             from chaos.log l
             where partition_key is not null
               and (old_status = 'executing') is distinct from (new_status = 'executing')
               and (old_status = 'executing' or new_status = 'executing')
             window w as (partition by partition_key order by seq)
         ) as l
         where new_status = 'executing' and before_status = 'executing'
            or new_status <> 'executing' and before_id is distinct from id",
    ),
    (
        // A process that was stopped past its lease may run a step beside the process that has the
        // work now. Then its outcome is dropped.
        "the code of two steps of one partition key, or of one instance, ran at once, and both were committed",
        "select format('%s: run %s of %s began when another ran until %s', key, ran, id, before_until)
         from (
             select key, id, ran, max(coalesce(ran_until, ran)) over (
                 partition by key order by ran, seq rows between unbounded preceding and 1 preceding
             ) as before_until
             from (
                 select coalesce('key ' || partition_key, 'instance ' || id) as key,
                        id, seq, ran, ran_until
                 from chaos.log where ran is not null
             ) as committed
         ) as l
         where ran <= before_until",
    ),
    (
        "a step's code began before its claim, or the outcome before it, was committed",
        "select format('run %s of %s: %s n=%s a%s, the last entry then: %s',
                r.began, r.id, r.step, r.n, r.attempt, r.saw)
         from chaos.runs r
         where not exists (
             select from chaos.log l
             where l.id = r.id and l.seq <= r.saw and l.new_status = 'executing'
               and l.new_step = r.step and l.new_n = r.n and l.new_attempt = r.attempt
         )",
    ),
    (
        "an outcome is of no run, or was committed for another claim than that of its run",
        "select format('%s %s: %s n=%s r%s of run %s (entry %s), which began at %s n=%s r%s',
                l.fsm, l.id, l.old_step, l.old_n, l.old_revision, l.ran, l.seq,
                r.step, r.n, s.new_revision)
         from chaos.log l
         left join chaos.runs r on r.began = l.ran
         left join chaos.log s on s.seq = r.saw
         where l.ran is not null
           and (r.id, r.step, r.n, r.attempt, s.id, s.new_status, s.new_revision)
               is distinct from
               (l.id, l.old_step, l.old_n, l.old_attempt, l.id, 'executing', l.old_revision)",
    ),
    (
        "the code of a step ran twice for one claim",
        "select format('%s: %s n=%s, entry %s: %s runs', r.id, r.step, r.n, r.saw, count(*))
         from chaos.runs r
         join chaos.log s on s.seq = r.saw
         where (s.new_status, s.new_step, s.new_n, s.new_attempt)
               = ('executing', r.step, r.n, r.attempt)
         group by r.id, r.step, r.n, r.saw
         having count(*) > 1",
    ),
    (
        "an effect of an outcome is missing or doubled: leaves of a collector",
        "select format('collector %s has %s leaves, %s distinct, not %s', c.id,
                count(l.id), count(distinct l.state ->> 'index'), c.state ->> 'leaves')
         from gen_durable.instances c
         left join gen_durable.instances l
             on l.fsm = 'leaf' and (l.state ->> 'parent')::bigint = c.id
         where c.fsm = 'collector'
         group by c.id
         having count(l.id) <> (c.state ->> 'leaves')::bigint
             or count(distinct l.state ->> 'index') <> (c.state ->> 'leaves')::bigint",
    ),
    (
        "a collector has not got each of its signals exactly once",
        "select format('collector %s got %s', c.id, c.result)
         from gen_durable.instances c
         where c.fsm = 'collector' and c.status = 'done' and c.result::jsonb <> (
             select coalesce(jsonb_agg(n order by n), '[]')
             from (
                 select n from generate_series(0, (c.state ->> 'leaves')::int - 1) as n
                 union all
                 select n from generate_series(1000, 999 + (c.state ->> 'external')::int) as n
             ) as expected
         )",
    ),
    (
        "a giant has not got each of its parcels exactly once",
        "select format('giant %s got %s', g.id, left(g.result::text, 200))
         from gen_durable.instances g
         where g.fsm = 'giant' and g.status = 'done' and g.result::jsonb <> (
             select coalesce(jsonb_agg(n order by n), '[]')
             from generate_series(0, (g.state ->> 'parcels')::int - 1) as n
         )",
    ),
    (
        "the rows of a step are missing or doubled: entries of a booker",
        "select format('booker %s has %s entries, %s distinct, not %s', i.id,
                count(b.n), count(distinct b.n), i.state ->> 'n')
         from gen_durable.instances i
         left join chaos.book b on b.instance = i.id
         where i.fsm = 'booker'
         group by i.id
         having count(b.n) <> (i.state ->> 'n')::bigint
             or count(distinct b.n) <> (i.state ->> 'n')::bigint",
    ),
    (
        "the rows of a step are missing or doubled: entries of a parcel",
        "select format('parcel %s has %s entries', i.id, count(p.instance))
         from gen_durable.instances i
         left join chaos.parcels p on p.instance = i.id
         where i.fsm = 'parcel'
         group by i.id
         having count(p.instance) <> 1",
    ),
    (
        "an order has another result than its parcels",
        "select format('order %s counted %s', o.id, o.result)
         from gen_durable.instances o
         where o.fsm = 'order' and o.status = 'done' and o.result::text::int <> (
             select count(*) from gen_durable.instances p
             where p.report_to = o.id and p.status = 'done'
         )",
    ),
    (
        "a step of a trip took effect after its cancel",
        "select format('trip %s: leg at %s, %s at %s', l.instance, l.tick, a.action, a.tick)
         from chaos.legs l
         join chaos.actions a on a.instance = l.instance and a.server = l.server
         where l.kind = 'ride' and l.tick > a.tick and a.action in ('cancel', 'kill')
           and not exists (
               select from chaos.actions r
               where r.instance = l.instance and r.server = l.server and r.action = 'retry'
                 and r.tick between a.tick and l.tick
           )",
    ),
    (
        "a trip ended otherwise than it should, or has other entries than its steps",
        "select format('trip %s is %s with %s: %s rides, %s undone, %s cancels, %s kills', i.id,
                i.status, i.result, legs.rides, legs.undone, acts.cancels, acts.kills)
         from gen_durable.instances i
         cross join lateral (
             select count(*) filter (where l.kind = 'ride') as rides,
                    count(*) filter (where l.kind = 'undo') as undone
             from chaos.legs l where l.instance = i.id
         ) as legs
         cross join lateral (
             select count(*) filter (where a.action = 'cancel') as cancels,
                    count(*) filter (where a.action = 'kill') as kills
             from gen_durable.audit a
             where a.instance_id = i.id and a.id > coalesce((
                 select max(r.id) from gen_durable.audit r
                 where r.instance_id = i.id and r.action = 'retry'
             ), 0)
         ) as acts
         where i.fsm = 'trip'
           and not coalesce(case i.status
               when 'done' then acts.kills = 0 and case acts.cancels
                   when 0 then legs.undone = 0 and legs.rides = i.result::text::int
                        and legs.rides = (i.state ->> 'legs')::int
                   else acts.cancels = 1 and legs.undone = 1 and i.cancelled_at is not null
               end
               when 'cancelled' then legs.undone = 0 and (
                   acts.kills = 1 or acts.cancels = 1 and i.last_error like '%worker was lost%')
               when 'failed' then acts.cancels + acts.kills = 0 and i.last_error like '%worker was lost%'
           end and legs.rides = (i.state ->> 'n')::int, false)",
    ),
    (
        "the history of a trip has not each of its committed outcomes once",
        "select format('trip %s: %s rides of %s, %s undone of %s', i.id, h.rides, i.state ->> 'n',
                h.undone, (select count(*) from chaos.legs l where l.instance = i.id and l.kind = 'undo'))
         from gen_durable.instances i
         cross join lateral (
             select count(*) filter (where h.step = 'ride' and h.outcome in ('next', 'done')) as rides,
                    count(*) filter (where h.step = 'undo' and h.outcome = 'done') as undone
             from gen_durable.history h where h.instance_id = i.id
         ) as h
         where i.fsm = 'trip'
           and (h.rides <> (i.state ->> 'n')::int
                or h.undone <> (select count(*) from chaos.legs l where l.instance = i.id and l.kind = 'undo'))",
    ),
    (
        "a deleted trip is there, or its history",
        "select format('trip %s', a.instance_id)
         from gen_durable.audit a
         where a.action = 'delete'
           and (exists (select from gen_durable.instances i where i.id = a.instance_id)
                or exists (select from gen_durable.history h where h.instance_id = a.instance_id))",
    ),
    (
        "an engine has not done what it owes",
        "select format('%s %s owes %s', i.fsm, i.id, i.owes) from gen_durable.instances i
         where i.owes is not null",
    ),
    (
        "the rows of a step are missing or doubled: accounts of the bookers",
        "select format('%s in the accounts, %s entries', balance, entries)
         from (select sum(balance) as balance from chaos.accounts) as a,
              (select count(*) as entries from chaos.book) as b
         where balance <> entries",
    ),
    (
        "a signal was not consumed exactly once",
        "select format('signal %s %s to %s: inserted %s times, deleted %s times',
                name, dedup_key, target_id,
                count(*) filter (where op = 'INSERT'), count(*) filter (where op = 'DELETE'))
         from chaos.signals
         group by signal_id, name, dedup_key, target_id
         having count(*) filter (where op = 'INSERT') <> 1
             or count(*) filter (where op = 'DELETE') <> 1",
    ),
    (
        "a deduplication key was accepted twice",
        "select format('%s of %s', dedup_key, target_id) from chaos.signals
         where op = 'INSERT' and dedup_key is not null
         group by target_id, dedup_key having count(*) > 1",
    ),
    (
        "an inbox is not empty",
        "select format('signal %s of %s', s.id, s.target_id) from gen_durable.signals s",
    ),
    (
        "a unique key was held twice",
        "select format('%s %s', i.fsm, i.unique_key) from gen_durable.instances i
         where i.unique_key is not null
         group by i.fsm, i.unique_key having count(*) > 1",
    ),
    (
        "a chain did not hop as often as it was to",
        "select format('chain %s: %s', i.id, i.state) from gen_durable.instances i
         where i.fsm = 'chain' and i.status = 'done'
           and ((i.state ->> 'n')::int <> (i.result::text)::int
                or (i.state ->> 'n')::int <= (i.state ->> 'hops')::int)",
    ),
];

/// The checks for the time when all instances have ended and the workers still run. A problem may
/// last a moment.
const HELD: &[(&str, &str)] = &[(
    "a session stays in a transaction",
    "select format('%s, %s: %s', a.pid, a.state, left(a.query, 60)) from pg_stat_activity a
     where a.datname = current_database() and a.application_name <> 'oracle'
       and (a.state = 'idle in transaction'
            -- A caller's session has the caller's own settings. If it is half open, it stays in
            -- the transaction that failed.
            or a.state = 'idle in transaction (aborted)' and a.usename <> 'chaos_app')",
)];

/// The checks for the time when all workers have shut down.
const LEFTOVERS: &[(&str, &str)] = &[
    ("a worker is left", "select format('worker %s, %s', w.id, w.name) from gen_durable.workers w"),
    (
        "a connection is left",
        "select format('%s: %s', a.state, left(a.query, 60)) from pg_stat_activity a
         where a.datname = current_database() and a.backend_type = 'client backend'
           and a.pid <> pg_backend_pid() and a.application_name <> 'oracle'",
    ),
    (
        "an advisory lock is left",
        "select format('%s %s', l.classid, l.objid) from pg_locks l
         join pg_database d on d.oid = l.database
         where l.locktype = 'advisory' and d.datname = current_database()",
    ),
];

/// Creates the oracle's tables and triggers, and begins to record.
///
/// # Errors
///
/// [`sqlx::Error`] if the tables cannot be made.
pub async fn install(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(INSTALL).execute(pool).await?;
    allow(pool, EDGES, ENDS).await
}

/// Allows the transitions and ends of a test's own machines, beside those of `machines`.
///
/// # Errors
///
/// [`sqlx::Error`] if the tables cannot be written.
pub async fn allow(
    pool: &PgPool,
    edges: &[(&str, &str, &str)],
    ends: &[(&str, &str, &str)],
) -> Result<(), sqlx::Error> {
    for (fsm, from, to) in edges {
        let edge = sqlx::query("insert into chaos.edges values ($1, $2, $3)");
        edge.bind(fsm).bind(from).bind(to).execute(pool).await?;
    }
    for (fsm, step, status) in ends {
        let end = sqlx::query("insert into chaos.ends values ($1, $2, $3)");
        end.bind(fsm).bind(step).bind(status).execute(pool).await?;
    }
    Ok(())
}

/// Returns how many transitions were committed.
///
/// # Errors
///
/// [`sqlx::Error`] if the log cannot be read.
pub async fn transitions(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from chaos.log").fetch_one(pool).await
}

/// The figures that tell how much there was to judge.
#[derive(Clone, Copy, Debug, Default, sqlx::FromRow)]
pub struct Figures {
    /// Committed transitions.
    pub transitions: i64,
    /// Instances that were claimed.
    pub claims: i64,
    /// Instances that were taken from lost workers.
    pub reaps: i64,
    /// Instances that have ended.
    pub ended: i64,
    /// Signals that were delivered.
    pub signals: i64,
    /// Steps of chained and keyed machines that were committed.
    pub steps: i64,
    /// The number of these steps whose run is known from beginning to end.
    pub recorded: i64,
}

impl Figures {
    /// Returns what there is too little of for a verdict, as nothing is wrong where nothing
    /// happened. In a `long` run some worker is lost and some signal is sent.
    pub fn missing(&self, long: bool) -> Vec<String> {
        let floors = [
            ("no instance was claimed", self.claims > 0),
            ("no instance has ended", self.ended > 0),
            ("half of the steps ran unrecorded, or more", self.recorded > self.steps / 2),
            ("no instance was taken from a lost worker", self.reaps > 0 || !long),
            ("no signal was delivered", self.signals > 0 || !long),
        ];
        floors.iter().filter(|floor| !floor.1).map(|floor| floor.0.to_owned()).collect()
    }
}

/// Counts what happened.
///
/// # Errors
///
/// [`sqlx::Error`] if the log cannot be read.
pub async fn figures(pool: &PgPool) -> Result<Figures, sqlx::Error> {
    sqlx::query_as(
        "select count(*) as transitions,
                count(*) filter (where old_status = 'runnable' and new_status = 'executing')
                    as claims,
                count(*) filter (where reaped) as reaps,
                count(*) filter (where new_status in ('done', 'failed')) as ended,
                (select count(*) from chaos.signals where op = 'INSERT') as signals,
                count(*) filter (where new_n > old_n and fsm in ('chain', 'keyed')) as steps,
                count(*) filter (where new_n > old_n and fsm in ('chain', 'keyed')
                                   and ran is not null and ran_until is not null) as recorded
         from chaos.log",
    )
    .fetch_one(pool)
    .await
}

/// Returns everything that is wrong, once all instances should have ended.
///
/// # Errors
///
/// [`sqlx::Error`] if the tables cannot be read.
pub async fn check(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    find(pool, CHECKS).await
}

/// Returns all sessions that stay in a transaction although nothing is under way. A moment later
/// they may be gone. The connections of `pool` must be called `oracle` (`application_name`).
///
/// # Errors
///
/// [`sqlx::Error`] if the tables cannot be read.
pub async fn held(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    find(pool, HELD).await
}

/// Returns everything that the workers left behind, once all have shut down. The connections of
/// `pool` must be called `oracle` (`application_name`).
///
/// # Errors
///
/// [`sqlx::Error`] if the tables cannot be read.
pub async fn leftovers(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    find(pool, LEFTOVERS).await
}

async fn find(pool: &PgPool, checks: &[(&str, &'static str)]) -> Result<Vec<String>, sqlx::Error> {
    /// The most problems of one kind that are listed. Further ones are only counted.
    const SHOWN_MAX: usize = 5;
    let mut problems = Vec::new();
    for (title, statement) in checks {
        let found: Vec<String> = sqlx::query_scalar(*statement).fetch_all(pool).await?;
        let more = found.len().saturating_sub(SHOWN_MAX);
        problems.extend(found.into_iter().take(SHOWN_MAX).map(|what| format!("{title}: {what}")));
        if more > 0 {
            problems.push(format!("{title}: {more} more"));
        }
    }
    Ok(problems)
}
