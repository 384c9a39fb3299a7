-- Sealed secrets. One version a path is kept; the key has room for more.
CREATE TABLE secret (
    path        TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    wrapped_key BLOB    NOT NULL,
    nonce       BLOB    NOT NULL,
    ciphertext  BLOB    NOT NULL,
    size        INTEGER NOT NULL,
    stored_at   INTEGER NOT NULL,
    stored_by   TEXT    NOT NULL,
    PRIMARY KEY (path, version)
) STRICT;

-- The last version number a path ever had: numbers are not used twice, not even after a delete.
CREATE TABLE secret_counter (
    path         TEXT    PRIMARY KEY,
    last_version INTEGER NOT NULL
) STRICT;

CREATE TABLE policy (
    id   TEXT PRIMARY KEY,
    text TEXT NOT NULL
) STRICT;

CREATE TABLE reference_value (
    name    TEXT    PRIMARY KEY,
    value   TEXT    NOT NULL,
    expires INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    seq   INTEGER PRIMARY KEY,
    event TEXT    NOT NULL UNIQUE,
    hash  TEXT    NOT NULL,
    entry TEXT    NOT NULL
) STRICT;

CREATE TRIGGER audit_update_refused BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit record is append-only');
END;

CREATE TRIGGER audit_delete_refused BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit record is append-only');
END;

-- Also catches INSERT OR REPLACE, whose implied delete fires no trigger.
CREATE TRIGGER audit_insert_in_order BEFORE INSERT ON audit
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit)
BEGIN
    SELECT RAISE(ABORT, 'an audit entry has the next number');
END;

-- A repeated event id would replace under OR REPLACE as well.
CREATE TRIGGER audit_event_unused BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE event = NEW.event)
BEGIN
    SELECT RAISE(ABORT, 'an audit event has an id of its own');
END;
