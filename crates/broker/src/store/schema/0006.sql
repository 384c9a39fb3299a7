-- The versions of resources that were deleted: what may be known of each, when it was deleted and by whom. Of what it held,
-- nothing is kept.
CREATE TABLE secret_deleted (
    path       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    digest     TEXT    NOT NULL,
    stored_at  INTEGER NOT NULL,
    stored_by  TEXT    NOT NULL,
    expires    INTEGER,
    deleted_at INTEGER NOT NULL,
    deleted_by TEXT    NOT NULL,
    PRIMARY KEY (path, version)
) STRICT, WITHOUT ROWID;
