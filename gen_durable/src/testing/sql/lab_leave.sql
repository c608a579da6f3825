-- Lets another lab have the database. Its time stays where it is.
drop function gen_durable.lab_set_clock(timestamptz)
