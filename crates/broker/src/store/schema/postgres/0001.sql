-- Sealed secrets, by path and version. Text is ordered by its bytes, whatever the database's locale is.
CREATE TABLE secret (
    path        text COLLATE "C" NOT NULL,
    version     bigint NOT NULL,
    wrapped_key bytea  NOT NULL,
    key_id      text   NOT NULL,
    nonce       bytea  NOT NULL,
    ciphertext  bytea  NOT NULL,
    size        bigint NOT NULL,
    digest      text   NOT NULL,
    stored_at   bigint NOT NULL,
    stored_by   text   NOT NULL,
    expires     bigint,
    PRIMARY KEY (path, version)
);

-- The last version number a path ever had: numbers are not used twice, not even after a delete.
CREATE TABLE secret_counter (
    path         text COLLATE "C" PRIMARY KEY,
    last_version bigint NOT NULL
);

-- Every version of a policy. Without a text: removed.
CREATE TABLE policy_version (
    id      text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    text    text,
    set_at  bigint NOT NULL,
    set_by  text   NOT NULL,
    PRIMARY KEY (id, version)
);

-- Every version of a reference value, as JSON with its end and its provenance. Without one: removed.
CREATE TABLE reference_value_version (
    name    text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    value   text,
    set_at  bigint NOT NULL,
    set_by  text   NOT NULL,
    PRIMARY KEY (name, version)
);

-- The payload of each token and the event of its attestation.
CREATE TABLE claims (
    token  text COLLATE "C" PRIMARY KEY,
    event  text   NOT NULL,
    at     bigint NOT NULL,
    claims text   NOT NULL
);
CREATE INDEX claims_at ON claims (at);

-- The record as a transparency log: `leaf` is the RFC 6962 hash of the entry's bytes.
CREATE TABLE log_entry (
    seq   bigint PRIMARY KEY,
    event text COLLATE "C" NOT NULL UNIQUE,
    leaf  bytea  NOT NULL CHECK (length(leaf) = 32),
    entry text   NOT NULL
);

-- The hash of each complete subtree whose height is a multiple of 8: what tiles above the lowest are made of.
CREATE TABLE log_node (
    level    integer NOT NULL,
    position bigint  NOT NULL,
    hash     bytea   NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, position)
);

-- The tree's right edge, and the newest signed checkpoint. Who writes locks this row first, so that the entries of all
-- brokers form one log.
CREATE TABLE log_head (
    id         integer PRIMARY KEY CHECK (id = 1),
    size       bigint  NOT NULL,
    edge       bytea   NOT NULL,
    checkpoint text    NOT NULL
);

-- The record refuses everything but its next entry.
CREATE FUNCTION log_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit record is append-only';
END $$;
CREATE TRIGGER log_change_refused BEFORE UPDATE OR DELETE ON log_entry
    FOR EACH ROW EXECUTE FUNCTION log_refuse();
CREATE TRIGGER log_truncate_refused BEFORE TRUNCATE ON log_entry
    FOR EACH STATEMENT EXECUTE FUNCTION log_refuse();

CREATE FUNCTION log_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.seq IS DISTINCT FROM (SELECT coalesce(max(seq), 0) + 1 FROM log_entry) THEN
        RAISE EXCEPTION 'an audit entry has the next number';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER log_insert_in_order BEFORE INSERT ON log_entry
    FOR EACH ROW EXECUTE FUNCTION log_in_order();
