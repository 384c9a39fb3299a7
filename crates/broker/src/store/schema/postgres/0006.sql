-- The versions of resources that were deleted: what may be known of each, when it was deleted and by whom. Of what it held,
-- nothing is kept.
CREATE TABLE secret_deleted (
    path       text COLLATE "C" NOT NULL,
    version    bigint NOT NULL,
    size       bigint NOT NULL,
    digest     text   NOT NULL,
    stored_at  bigint NOT NULL,
    stored_by  text   NOT NULL,
    expires    bigint,
    deleted_at bigint NOT NULL,
    deleted_by text   NOT NULL,
    PRIMARY KEY (path, version)
);
