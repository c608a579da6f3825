-- For a connection of the engine's own, which runs a few statements for as long as it lives.
--
-- One plan for each, whatever the parameters: a plan for the parameters costs a millisecond each of the
-- first five times, and is no better, as the statements look rows up by their keys. That plan is kept
-- until the statistics change. If it was made when a table was empty, it must not read and sort the whole
-- table when it is full, but take rows in the order of an index. And none is worth compiling, which
-- takes a hundred times as long as they do.
select set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('enable_seqscan', 'off', false),
       set_config('enable_bitmapscan', 'off', false),
       set_config('jit', 'off', false)
