-- What brokers on one database share besides the store.

-- The record's size at the last change of policies or reference values: a broker that knows another number reads them
-- anew before it decides.
ALTER TABLE log_head ADD COLUMN governed bigint NOT NULL DEFAULT 0;

-- The keys that all of them must have, by what names them.
CREATE TABLE broker_key (
    name   text COLLATE "C" PRIMARY KEY,
    key_id text NOT NULL
);

-- Nonces that an attestation took. Rows are kept for longer than any broker believes their session.
CREATE TABLE used_nonce (
    session bytea  PRIMARY KEY,
    expires bigint NOT NULL
);
CREATE INDEX used_nonce_expires ON used_nonce (expires);

-- The tokens of attested sessions, in the order of their attestation.
CREATE TABLE attested (
    number  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session bytea  NOT NULL UNIQUE,
    token   text   NOT NULL,
    expires bigint NOT NULL
);
CREATE INDEX attested_expires ON attested (expires);
