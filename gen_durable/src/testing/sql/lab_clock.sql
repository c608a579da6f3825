-- Tells the time of a test's database, in microseconds since 1970.
select (extract(epoch from gen_durable.clock()) * 1000000)::bigint
