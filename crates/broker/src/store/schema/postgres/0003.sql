-- Every version of an admin with a key. Without a role and a key: revoked.
CREATE TABLE admin_version (
    name       text COLLATE "C" NOT NULL,
    version    bigint NOT NULL,
    role       text,
    public_key text,
    set_at     bigint NOT NULL,
    set_by     text   NOT NULL,
    PRIMARY KEY (name, version),
    CHECK ((role IS NULL) = (public_key IS NULL))
);
