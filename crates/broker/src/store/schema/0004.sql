-- Every version of an admin with a key. Without a role and a key: revoked.
CREATE TABLE admin_version (
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    role       TEXT,
    public_key TEXT,
    set_at     INTEGER NOT NULL,
    set_by     TEXT    NOT NULL,
    PRIMARY KEY (name, version),
    CHECK ((role IS NULL) = (public_key IS NULL))
) STRICT, WITHOUT ROWID;
