-- The brokers that use this database, and the ids of the storage keys that each has in its key file. One that did not say
-- so for a while is not there any more.
CREATE TABLE broker (
    id   text PRIMARY KEY,
    name text   NOT NULL,
    keys text[] NOT NULL,
    seen timestamptz NOT NULL
);
