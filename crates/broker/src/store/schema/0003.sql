-- Whose key wrapped the data key (of older rows: the only key there was), what the sealed version looks like, and
-- from when on it is not released any more.
ALTER TABLE secret ADD COLUMN key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE secret ADD COLUMN digest TEXT NOT NULL DEFAULT '';
ALTER TABLE secret ADD COLUMN expires INTEGER;

-- Every version of a policy. Without a text: removed.
CREATE TABLE policy_version (
    id      TEXT    NOT NULL,
    version INTEGER NOT NULL,
    text    TEXT,
    set_at  INTEGER NOT NULL,
    set_by  TEXT    NOT NULL,
    PRIMARY KEY (id, version)
) STRICT, WITHOUT ROWID;
INSERT INTO policy_version SELECT id, 1, text, 0, '' FROM policy;
DROP TABLE policy;

-- Every version of a reference value, as JSON with its end and its provenance. Without one: removed.
CREATE TABLE reference_value_version (
    name    TEXT    NOT NULL,
    version INTEGER NOT NULL,
    value   TEXT,
    set_at  INTEGER NOT NULL,
    set_by  TEXT    NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;
INSERT INTO reference_value_version
    SELECT name, 1, json_object('value', json(value), 'expires', expires, 'provenance', json(provenance)),
           coalesce(json_extract(provenance, '$.registered'), 0),
           coalesce(json_extract(provenance, '$.registered_by'), '')
    FROM reference_value;
DROP TABLE reference_value;

-- The payload of each token and the event of its attestation, for whoever asks later why something was released or
-- denied.
CREATE TABLE claims (
    token  TEXT    PRIMARY KEY,
    event  TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    claims TEXT    NOT NULL
) STRICT;
CREATE INDEX claims_at ON claims (at);

-- The record as a transparency log: `leaf` is the RFC 6962 hash of the entry's bytes.
CREATE TABLE log_entry (
    seq   INTEGER PRIMARY KEY,
    event TEXT    NOT NULL UNIQUE,
    leaf  BLOB    NOT NULL,
    entry TEXT    NOT NULL
) STRICT;

-- The hash of each complete subtree whose height is a multiple of 8: what tiles above the lowest are made of.
CREATE TABLE log_node (
    level    INTEGER NOT NULL,
    position INTEGER NOT NULL,
    hash     BLOB    NOT NULL,
    PRIMARY KEY (level, position)
) STRICT, WITHOUT ROWID;

-- The tree's right edge, and the newest signed checkpoint.
CREATE TABLE log_head (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    size       INTEGER NOT NULL,
    edge       BLOB    NOT NULL,
    checkpoint TEXT    NOT NULL
) STRICT;
