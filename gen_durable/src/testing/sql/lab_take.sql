-- Gives the time of a test's database to a lab. A second lab finds the function, and is refused.
--
-- The functions that tell the time are replaced by constants. Postgres inlines these too, and plans
-- statements again after each change, on all connections. Plans are bound to a function that they
-- inlined.
create function gen_durable.lab_set_clock(at timestamptz) returns void
    language plpgsql
as $$
declare
    -- A text that every session reads alike, whatever its `DateStyle` and its time zone.
    told text := pg_catalog.format(
        'select timestamptz %L',
        pg_catalog.to_char(at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'
    );
begin
    execute pg_catalog.format(
        'create or replace function gen_durable.now() returns timestamptz language sql stable parallel safe as %L',
        told
    );
    execute pg_catalog.format(
        'create or replace function gen_durable.clock() returns timestamptz language sql volatile parallel safe as %L',
        told
    );
end
$$
