drop function gen_durable.signal_by_key(text, text, text, json, text, boolean, text);
drop function gen_durable.signal(bigint, text, json, text, boolean, text);
drop function gen_durable.insert(
    text, json, integer, text, text, integer, timestamptz, interval, text, text, text[], text,
    bigint, boolean, text
);
drop function gen_durable.check_value(text, json);
drop function gen_durable.check_not_reserved(text, text);
drop function gen_durable.check_text(text, text, integer);
drop table gen_durable.limit_buckets;
drop table gen_durable.limits;
drop table gen_durable.schedules;
drop table gen_durable.declarations;
drop function gen_durable.holds(bigint);
drop table gen_durable.lost_workers;
drop table gen_durable.observer;
drop table gen_durable.workers;
drop function gen_durable.keep_history(interval);
drop table gen_durable.history;
drop table gen_durable.pauses;
drop table gen_durable.audit;
drop table gen_durable.queues;
drop table gen_durable.machines;
drop table gen_durable.retention;
drop table gen_durable.signal_keys;
drop table gen_durable.signals;
drop table gen_durable.instances;
drop function gen_durable.delete_inboxes();
drop function gen_durable.clock();
drop function gen_durable.now();
