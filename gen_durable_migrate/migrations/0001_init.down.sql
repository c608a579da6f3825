drop table gen_durable.workers;
drop table gen_durable.retention;
drop table gen_durable.signal_keys;
drop table gen_durable.signals;
drop table gen_durable.instances;
drop function gen_durable.delete_inboxes();
drop function gen_durable.clock();
drop function gen_durable.now();
