//! The store in one SQLite file: WAL, `synchronous=FULL`, deleted bytes overwritten, one broker at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension as _, Row, Transaction, TransactionBehavior, params,
};
use strongroom_verifier::{ReferenceValue, ReferenceValues};
use strongroom_wire::resource::ResourcePath;

use super::{Change, ResourceMetadata, SealedVersion, Store, StoreError};
use crate::audit::{ChainError, Entry, Record};

/// A store in a file.
pub(crate) struct SqliteStore {
    connection: Mutex<Connection>,
    /// Held for as long as the store is open: policies are cached in the process that serves.
    _lock: Option<File>,
}

impl SqliteStore {
    /// Makes an empty store, with mode 0600, where no file is. Only `init` does this: a broker that made its own
    /// store would start with nothing, and nobody would hear that the old one is gone.
    pub(crate) fn create(path: &Path) -> Result<(), StoreError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        drop(file.map_err(|source| file_error(path, source))?);
        connect(path)
            .and_then(|mut connection| {
                migrate(&mut connection)?;
                connection.close().map_err(|(_, error)| error.into())
            })
            .map_err(|error| unusable(path, error))
    }

    /// Opens a store that is there and brings its schema forward.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        check_file(path)?;
        let lock = private_file(&path.with_extension("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    path: path.display().to_string(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(file_error(path, source)),
        }
        let mut connection = connect(path).map_err(|error| unusable(path, error))?;
        match schema_version(&connection).map_err(|error| unusable(path, error))? {
            0 => {
                return Err(StoreError::Empty {
                    path: path.display().to_string(),
                });
            }
            _ => migrate(&mut connection).map_err(|error| unusable(path, error))?,
        }
        Ok(Self {
            connection: Mutex::new(connection),
            _lock: Some(lock),
        })
    }

    /// Opens a store that is there to read from it, beside a broker that may have it open. Nothing when its schema is an
    /// older one, which the next start brings forward.
    pub(crate) fn open_for_reading(path: &Path) -> Result<Option<Self>, StoreError> {
        check_file(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)
            .map_err(|error| unusable(path, error.into()))?;
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        match schema_version(&connection).map_err(|error| unusable(path, error))? {
            0 => Err(StoreError::Empty {
                path: path.display().to_string(),
            }),
            actual if actual > known => Err(StoreError::Schema { actual, known }),
            actual if actual < known => Ok(None),
            _ => Ok(Some(Self {
                connection: Mutex::new(connection),
                _lock: None,
            })),
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for SqliteStore {
    fn commit(&self, change: Change<'_>, mut record: Record) -> Result<Entry, StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let removes = matches!(
            change,
            Change::PutSecret { .. } | Change::DeleteSecret { .. }
        );
        apply(&transaction, change, &mut record)?;
        let entry = append(&transaction, record)?;
        transaction.commit()?;
        if removes {
            // What secure_delete overwrote in the file may still stand in the log. Failing to fold the log in
            // now leaves that to the next time; the change itself is durable.
            let folded = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            if let Err(error) = folded {
                tracing::warn!(%error, "the write-ahead log could not be folded into the store");
            }
        }
        Ok(entry)
    }

    fn sealed_secret(&self, path: &ResourcePath) -> Result<Option<SealedVersion>, StoreError> {
        let sealed = self
            .connection()
            .prepare_cached(
                "SELECT version, wrapped_key, nonce, ciphertext FROM secret
                 WHERE path = ?1 ORDER BY version DESC LIMIT 1",
            )?
            .query_row([path.to_string()], |row| {
                Ok(SealedVersion {
                    version: row.get(0)?,
                    wrapped_key: row.get(1)?,
                    nonce: row.get(2)?,
                    ciphertext: row.get(3)?,
                })
            })
            .optional()?;
        Ok(sealed)
    }

    fn resources(&self) -> Result<Vec<ResourceMetadata>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT path, max(version), size, stored_at, stored_by FROM secret GROUP BY path ORDER BY path",
        )?;
        let rows = statement.query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
            ))
        })?;
        rows.map(|row| {
            let (path, version, size, stored_at, stored_by) = row?;
            let path = path
                .parse()
                .map_err(|_| StoreError::Damaged(format!("secret {path:?}")))?;
            Ok(ResourceMetadata {
                path,
                version,
                size,
                stored_at,
                stored_by,
            })
        })
        .collect()
    }

    fn policy(&self, id: &str) -> Result<Option<String>, StoreError> {
        let text = self
            .connection()
            .prepare_cached("SELECT text FROM policy WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        Ok(text)
    }

    fn reference_values(&self) -> Result<ReferenceValues, StoreError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached("SELECT name, value, expires, provenance FROM reference_value")?;
        let rows = statement.query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get(2)?,
                row.get::<_, String>(3)?,
            ))
        })?;
        rows.map(|row| {
            let (name, value, expires, provenance) = row?;
            let damaged = |_| StoreError::Damaged(format!("reference value {name:?}"));
            let known = ReferenceValue {
                value: serde_json::from_str(&value).map_err(damaged)?,
                expires,
                provenance: serde_json::from_str(&provenance).map_err(damaged)?,
            };
            Ok((name, known))
        })
        .collect()
    }

    fn audit(&self, limit: u32, before: Option<u64>) -> Result<Vec<Entry>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT seq, event, hash, entry FROM audit WHERE seq < ?2 ORDER BY seq DESC LIMIT ?1",
        )?;
        let before = before
            .and_then(|before| i64::try_from(before).ok())
            .unwrap_or(i64::MAX);
        let rows = statement.query_map(params![limit, before], AuditRow::read)?;
        let mut entries = rows
            .map(|row| row?.entry())
            .collect::<Result<Vec<_>, StoreError>>()?;
        entries.reverse();
        Ok(entries)
    }

    fn probe(&self) -> Result<(), StoreError> {
        let connection = self.connection();
        let version = schema_version(&connection)?;
        // The same number again takes a page, a transaction and its sync.
        Ok(connection.pragma_update(None, "user_version", version)?)
    }

    fn audit_event(&self, event: &str) -> Result<Option<Entry>, StoreError> {
        self.connection()
            .prepare_cached("SELECT seq, event, hash, entry FROM audit WHERE event = ?1")?
            .query_row([event], AuditRow::read)
            .optional()?
            .map(AuditRow::entry)
            .transpose()
    }
}

/// A row of the record, whose columns must say what its entry says.
struct AuditRow {
    seq: u64,
    event: String,
    hash: String,
    entry: String,
}

impl AuditRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            event: row.get(1)?,
            hash: row.get(2)?,
            entry: row.get(3)?,
        })
    }

    fn entry(self) -> Result<Entry, StoreError> {
        let seq = self.seq;
        let entry: Entry =
            serde_json::from_str(&self.entry).map_err(|_| ChainError::Altered { seq })?;
        let agrees = entry.seq == seq
            && entry.hash == self.hash
            && entry.record.event.as_str() == self.event;
        match agrees {
            true => Ok(entry),
            false => Err(ChainError::Altered { seq }.into()),
        }
    }
}

fn apply(
    transaction: &Transaction<'_>,
    change: Change<'_>,
    record: &mut Record,
) -> Result<(), StoreError> {
    match change {
        Change::Nothing => {}
        Change::PutSecret { path, seal } => {
            let path = path.to_string();
            let version: u64 = transaction.query_row(
                "INSERT INTO secret_counter (path, last_version) VALUES (?1, 1)
                 ON CONFLICT (path) DO UPDATE SET last_version = last_version + 1 RETURNING last_version",
                [&path],
                |row| row.get(0),
            )?;
            let sealed = seal(version)?;
            transaction.execute("DELETE FROM secret WHERE path = ?1", [&path])?;
            transaction.execute(
                "INSERT INTO secret (path, version, wrapped_key, nonce, ciphertext, size, stored_at, stored_by)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    path,
                    version,
                    sealed.wrapped_key,
                    sealed.nonce,
                    sealed.ciphertext,
                    sealed.size(),
                    record.at,
                    record.admin.as_deref().unwrap_or_default(),
                ],
            )?;
            record.version = Some(version);
        }
        Change::DeleteSecret { path } => {
            let path = path.to_string();
            record.version = transaction.query_row(
                "SELECT max(version) FROM secret WHERE path = ?1",
                [&path],
                |row| row.get(0),
            )?;
            if transaction.execute("DELETE FROM secret WHERE path = ?1", [&path])? == 0 {
                return Err(StoreError::NotFound);
            }
        }
        Change::SetPolicy { id, text } => {
            transaction.execute(
                "INSERT INTO policy (id, text) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET text = ?2",
                [id, text],
            )?;
        }
        Change::MergeReferenceValues { values } => {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO reference_value (name, value, expires, provenance) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (name) DO UPDATE SET value = ?2, expires = ?3, provenance = ?4",
            )?;
            for (name, known) in values.iter() {
                let provenance = serde_json::to_string(&known.provenance)
                    .map_err(|e| StoreError::Damaged(format!("reference value {name:?}: {e}")))?;
                let value = known.value.to_string();
                statement.execute(params![name, value, known.expires, provenance])?;
            }
        }
    }
    Ok(())
}

fn append(transaction: &Transaction<'_>, record: Record) -> Result<Entry, StoreError> {
    let last = transaction
        .prepare_cached("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let damaged = |e: serde_json::Error| StoreError::Damaged(format!("audit record: {e}"));
    let entry = Entry::after(last, record).map_err(damaged)?;
    let text = serde_json::to_string(&entry).map_err(damaged)?;
    transaction
        .prepare_cached("INSERT INTO audit (seq, event, hash, entry) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            entry.seq,
            entry.record.event.as_str(),
            entry.hash,
            text
        ])?;
    Ok(entry)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    Ok(connection)
}

/// Whoever can write the file can write policies and the record: that is its owner and nobody else.
fn check_file(path: &Path) -> Result<(), StoreError> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => StoreError::Gone {
            path: path.display().to_string(),
        },
        _ => file_error(path, error),
    })?;
    let mode = metadata.permissions().mode() & 0o777;
    match mode & 0o022 {
        0 => Ok(()),
        _ => Err(StoreError::LooseMode {
            path: path.display().to_string(),
            mode,
        }),
    }
}

fn schema_version(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

/// Brings the schema forward, one step a version. Steps that have shipped are never edited.
fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    let version = schema_version(&transaction)?;
    if version > known {
        return Err(StoreError::Schema {
            actual: version,
            known,
        });
    }
    for (number, step) in (1i64..).zip(MIGRATIONS) {
        if number > version {
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "user_version", number)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn private_file(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: std::io::Error) -> StoreError {
    StoreError::File {
        path: path.display().to_string(),
        source,
    }
}

/// Says which file SQLite could not use.
fn unusable(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Database(source) => StoreError::Unusable {
            path: path.display().to_string(),
            source,
        },
        other => other,
    }
}

const MIGRATIONS: [&str; 2] = [
    include_str!("schema/0001.sql"),
    include_str!("schema/0002.sql"),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::audit::{Kind, Outcome, verify_chain};
    use crate::store::{StorageKey, conformance};

    fn path_in(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("store.sqlite")
    }

    fn open(folder: &tempfile::TempDir) -> SqliteStore {
        let path = path_in(folder);
        if !path.exists() {
            SqliteStore::create(&path).unwrap();
        }
        SqliteStore::open(&path).unwrap()
    }

    fn record() -> Record {
        Record::new(Kind::Admin, Outcome::Allowed, "test", 7)
    }

    fn put(store: &SqliteStore, key: &StorageKey, path: &str, secret: &[u8]) {
        let path: ResourcePath = path.parse().unwrap();
        let seal = |version| key.seal(&path, version, secret);
        store
            .commit(
                Change::PutSecret {
                    path: &path,
                    seal: &seal,
                },
                record(),
            )
            .unwrap();
    }

    fn bytes_on_disk(folder: &tempfile::TempDir) -> Vec<u8> {
        std::fs::read_dir(folder.path())
            .unwrap()
            .flat_map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .collect()
    }

    fn holds(haystack: &[u8], needle: &[u8]) -> bool {
        haystack
            .windows(needle.len())
            .any(|window| window == needle)
    }

    #[test]
    fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        conformance::suite(&open(&folder));
    }

    #[test]
    fn durability_settings_are_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let value = |pragma: &str| -> String {
            let read = |row: &Row<'_>| row.get::<_, rusqlite::types::Value>(0);
            let value = store
                .connection()
                .query_row(&format!("PRAGMA {pragma}"), [], read);
            format!("{:?}", value.unwrap())
        };
        assert_eq!(value("journal_mode"), "Text(\"wal\")");
        assert_eq!(value("synchronous"), "Integer(2)");
        assert_eq!(value("secure_delete"), "Integer(1)");
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let key = StorageKey::generate().unwrap();
        put(&open(&folder), &key, "a/b/c", b"secret");
        let store = open(&folder);
        let path = "a/b/c".parse().unwrap();
        let sealed = store.sealed_secret(&path).unwrap().unwrap();
        assert_eq!(key.open(&path, &sealed).unwrap().expose(), b"secret");
        assert_eq!(store.audit(10, None).unwrap().len(), 1);
    }

    #[test]
    fn plaintext_is_nowhere_in_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        put(
            &store,
            &StorageKey::generate().unwrap(),
            "a/b/c",
            b"0123456789abcdef-plaintext",
        );
        assert!(!holds(&bytes_on_disk(&folder), b"0123456789abcdef"));
    }

    #[test]
    fn deleted_ciphertext_is_gone_from_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        put(&store, &StorageKey::generate().unwrap(), "a/b/c", b"secret");
        let path = "a/b/c".parse().unwrap();
        let sealed = store.sealed_secret(&path).unwrap().unwrap();
        assert!(holds(&bytes_on_disk(&folder), &sealed.wrapped_key));
        store
            .commit(Change::DeleteSecret { path: &path }, record())
            .unwrap();
        let bytes = bytes_on_disk(&folder);
        assert!(!holds(&bytes, &sealed.wrapped_key));
        assert!(!holds(&bytes, &sealed.ciphertext));
    }

    #[test]
    fn swapped_rows_do_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let key = StorageKey::generate().unwrap();
        put(&store, &key, "a/b/public", b"anyone may have this");
        put(&store, &key, "a/b/secret", b"nobody may have this");
        store
            .connection()
            .execute_batch(
                "UPDATE secret SET path = 'x' WHERE path = 'a/b/public';
                 UPDATE secret SET path = 'a/b/public' WHERE path = 'a/b/secret';
                 UPDATE secret SET path = 'a/b/secret' WHERE path = 'x';",
            )
            .unwrap();
        for path in ["a/b/public", "a/b/secret"] {
            let path = path.parse().unwrap();
            let sealed = store.sealed_secret(&path).unwrap().unwrap();
            assert!(key.open(&path, &sealed).is_err());
        }
    }

    #[test]
    fn audit_table_refuses_update_delete_and_replace() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        for _ in 0..3 {
            store.commit(Change::Nothing, record()).unwrap();
        }
        for statement in [
            "UPDATE audit SET entry = '{}' WHERE seq = 2",
            "DELETE FROM audit WHERE seq = 2",
            "DELETE FROM audit",
            "INSERT OR REPLACE INTO audit (seq, event, hash, entry) VALUES (2, 'x', 'x', '{}')",
            "INSERT INTO audit (seq, event, hash, entry) VALUES (9, 'x', 'x', '{}')",
        ] {
            assert!(
                store.connection().execute(statement, []).is_err(),
                "{statement}"
            );
        }
        verify_chain(&store.audit(10, None).unwrap()).unwrap();
    }

    #[test]
    fn entry_altered_behind_the_triggers_breaks_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        for _ in 0..3 {
            store.commit(Change::Nothing, record()).unwrap();
        }
        store
            .connection()
            .execute_batch(
                "DROP TRIGGER audit_update_refused;
                 UPDATE audit SET entry = replace(entry, '\"allowed\"', '\"denied\"') WHERE seq = 2;",
            )
            .unwrap();
        assert!(verify_chain(&store.audit(10, None).unwrap()).is_err());
    }

    #[test]
    fn row_whose_columns_contradict_its_entry_is_altered() {
        for change in ["event = 'x'", "hash = 'x'", "entry = 'x'"] {
            let folder = tempfile::tempdir().unwrap();
            let store = open(&folder);
            for _ in 0..3 {
                store.commit(Change::Nothing, record()).unwrap();
            }
            let statements = format!(
                "DROP TRIGGER audit_update_refused; UPDATE audit SET {change} WHERE seq = 2;"
            );
            store.connection().execute_batch(&statements).unwrap();
            let outcome = store.audit(10, None);
            assert!(
                matches!(
                    outcome,
                    Err(StoreError::Record(ChainError::Altered { seq: 2 }))
                ),
                "{change}: {outcome:?}"
            );
        }
    }

    #[test]
    fn store_that_is_gone_or_empty_is_not_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(&folder);
        assert!(matches!(
            SqliteStore::open(&path),
            Err(StoreError::Gone { .. })
        ));
        drop(private_file(&path).unwrap());
        assert!(matches!(
            SqliteStore::open(&path),
            Err(StoreError::Empty { .. })
        ));
        assert!(SqliteStore::create(&path).is_err());
    }

    #[test]
    fn file_that_is_no_database_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(&folder);
        std::fs::write(&path, "this is no database at all, whatever its name says").unwrap();
        let error = SqliteStore::open(&path).err().unwrap().to_string();
        assert!(
            error.contains("store.sqlite") && error.contains("not a database"),
            "{error}"
        );
    }

    #[test]
    fn store_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(&folder));
        for (mode, accepted) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false)] {
            let path = path_in(&folder);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let outcome = SqliteStore::open(&path);
            assert_eq!(outcome.is_ok(), accepted, "{mode:o}");
        }
    }

    #[test]
    fn second_broker_on_one_store_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _first = open(&folder);
        assert!(matches!(
            SqliteStore::open(&folder.path().join("store.sqlite")),
            Err(StoreError::InUse { .. })
        ));
    }

    #[test]
    fn reference_values_of_an_older_version_have_no_provenance() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder)
            .connection()
            .execute_batch(
                "ALTER TABLE reference_value DROP COLUMN provenance;
                 INSERT INTO reference_value VALUES ('svn', '[1]', 9);
                 PRAGMA user_version = 1;",
            )
            .unwrap();
        let values = SqliteStore::open(&path_in(&folder)).unwrap();
        let values = values.reference_values().unwrap();
        let wanted = ReferenceValue::new(serde_json::json!([1]), 9);
        assert_eq!(values.iter().collect::<Vec<_>>(), [("svn", &wanted)]);
    }

    #[test]
    fn store_of_a_newer_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder)
            .connection()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            SqliteStore::open(&folder.path().join("store.sqlite")),
            Err(StoreError::Schema { actual: 99, .. })
        ));
    }

    #[test]
    fn files_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        put(&store, &StorageKey::generate().unwrap(), "a/b/c", b"secret");
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(
                file.metadata().unwrap().permissions().mode() & 0o077,
                0,
                "{:?}",
                file.path()
            );
        }
    }
}
