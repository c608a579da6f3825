-- Declares the limits and schedules of a worker. Its engine runs it in the transaction that
-- registers the worker.
--
-- Invariant: of two texts of a name, the one that was declared later has the later `appeared_at`,
-- even if the clock went back meanwhile or stands still. lock_declarations.sql runs before, so
-- engines declare one after the other.
--
-- $1 bigint:   the worker
-- $2 text[]:   the kinds: limit or schedule
-- $3 text[]:   the names
-- $4 text[]:   the declarations
-- $5 bigint[]: the times at which they appeared, in microseconds since 1970, if a former worker of
--              the same engine has declared them; otherwise null
insert into gen_durable.declarations (worker, kind, name, body, appeared_at)
select $1::bigint, s.kind, s.name, s.body,
       coalesce(
           -- 1. The text is there already: it appeared when the first of its living workers
           --    declared it. Workers of one text have one time.
           (
               select d.appeared_at
               from gen_durable.declarations d
               join gen_durable.workers w on w.id = d.worker
               where d.kind = s.kind and d.name = s.name and d.body = s.body
                 and w.lease_expires_at > gen_durable.now()
               order by d.appeared_at
               limit 1
           ),
           -- 2. The engine has declared it before, and its worker was removed as lost. An older
           --    program that was silent for a while must not count as the newest one.
           timestamptz 'epoch' + s.appeared_at * interval '1 microsecond',
           -- 3. The text is new, and appears after all others of its name.
           greatest(
               gen_durable.clock(),
               (
                   select d.appeared_at
                   from gen_durable.declarations d
                   where d.kind = s.kind and d.name = s.name
                   order by d.appeared_at desc
                   limit 1
               ) + interval '1 microsecond'
           )
       )
from unnest($2::text[], $3::text[], $4::text[], $5::bigint[]) as s (kind, name, body, appeared_at)
returning kind, name, (extract(epoch from appeared_at) * 1000000)::bigint as appeared_at
