-- Registers machines. An engine runs it at its start, for the machines that it runs, and for the
-- older versions that they upgrade.
--
-- Invariant: a row holds what the newest engine of its version says, and a row that says so already
-- is neither written nor locked. Rows are taken in the order of their keys, so two engines that
-- start at once cannot wait for each other in a circle.
--
-- $1 text[]: the machines
-- $2 int[]:  their versions
-- $3 text[]: the queues of their instances
-- $4 text[]: the steps that their instances begin with
-- $5 text[]: the steps to which a cancel sends an instance, or null
-- $6 text[]: their steps, each as a JSON array
-- $7 text[]: their signals, each as a JSON array
-- $8 text[]: their graphs, as JSON; null for an older version, whose own engine says more: such a
--            row is written only if there is none
-- $9 text[]: what their histories record
with stated as (
    -- 1. The rows.
    select s.fsm, s.fsm_version, s.queue, s.initial, s.on_cancel, s.graph, s.history,
           array(select pg_catalog.json_array_elements_text(s.steps::json)) as steps,
           array(select pg_catalog.json_array_elements_text(s.signals::json)) as signals
    from unnest(
        $1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::text[], $9::text[]
    ) as s (fsm, fsm_version, queue, initial, on_cancel, steps, signals, graph, history)
)
-- 2. Those that say something new. An engine that starts at the same moment may have inserted one
--    since this statement began; the conflict's clauses ask once more.
insert into gen_durable.machines as m (
    fsm, fsm_version, queue, initial, on_cancel, steps, signals, graph, history
)
select s.fsm, s.fsm_version, s.queue, s.initial, s.on_cancel, s.steps, s.signals, s.graph::json,
       s.history
from stated s
where not exists (
    select from gen_durable.machines k
    where k.fsm = s.fsm and k.fsm_version = s.fsm_version
      and (
          s.graph is null
          or (k.queue, k.initial, k.on_cancel, k.steps, k.signals, k.graph::text, k.history)
             is not distinct from
             (s.queue, s.initial, s.on_cancel, s.steps, s.signals, s.graph, s.history)
      )
)
order by s.fsm, s.fsm_version
on conflict (fsm, fsm_version) do update
set queue = excluded.queue,
    initial = excluded.initial,
    on_cancel = excluded.on_cancel,
    steps = excluded.steps,
    signals = excluded.signals,
    graph = excluded.graph,
    history = excluded.history,
    registered_at = gen_durable.now()
where excluded.graph is not null
  and (m.queue, m.initial, m.on_cancel, m.steps, m.signals, m.graph::text, m.history)
      is distinct from
      (excluded.queue, excluded.initial, excluded.on_cancel, excluded.steps, excluded.signals,
       excluded.graph::text, excluded.history)
