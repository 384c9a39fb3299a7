//! The store in one SQLite file: WAL, `synchronous=FULL`, deleted bytes overwritten, one broker at a time.

mod migrate;
mod read;
mod write;

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags};
use strongroom_verifier::ReferenceValues;
use strongroom_wire::resource::ResourcePath;
use strongroom_wire::tlog::Hash;

use super::{
    AdminVersion, Change, Claims, Committed, Head, PolicyVersion, ReferenceValueVersion,
    ResourceMetadata, SealedVersion, Store, StoreError, Wrapped,
};
use crate::audit::{Entry, LogKey, Record};
use migrate::{migrate, schema_version};

/// A store in a file.
pub(crate) struct SqliteStore {
    /// Another than the next, which reads secrets while that one waits for the disk. None where there is no file. It closes
    /// first: the last one to close folds the log into the file, and this one may not.
    reading: Option<Mutex<Connection>>,
    connection: Mutex<Connection>,
    /// Held for as long as the store is open: policies are cached in the process that serves.
    _lock: Option<File>,
}

impl SqliteStore {
    /// Makes an empty store, with mode 0600, where no file is. Only `init` does this: a broker that made its own
    /// store would start with nothing, and nobody would hear that the old one is gone.
    pub(crate) fn create(path: &Path, key: &LogKey) -> Result<(), StoreError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        drop(file.map_err(|source| file_error(path, source))?);
        connect(path)
            .and_then(|mut connection| {
                migrate(&mut connection, key)?;
                connection.close().map_err(|(_, error)| error.into())
            })
            .map_err(|error| unusable(path, error))
    }

    /// Opens a store that is there and brings its schema forward.
    pub(crate) fn open(path: &Path, key: &LogKey) -> Result<Self, StoreError> {
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
            version if version < migrate::SIGNED && !key.is_fresh() => {
                return Err(StoreError::Unsigned {
                    path: path.display().to_string(),
                });
            }
            _ => migrate(&mut connection, key).map_err(|error| unusable(path, error))?,
        }
        let reading = Connection::open_with_flags(path, READ_ONLY)
            .map_err(|error| unusable(path, error.into()))?;
        reading.pragma_update(None, "cache_size", READING_CACHE)?;
        Ok(Self {
            connection: Mutex::new(connection),
            reading: Some(Mutex::new(reading)),
            _lock: Some(lock),
        })
    }

    /// A store that forgets: for tests.
    pub(crate) fn in_memory(key: &LogKey) -> Result<Self, StoreError> {
        let mut connection = Connection::open_in_memory()?;
        configure(&connection)?;
        migrate(&mut connection, key)?;
        Ok(Self {
            connection: Mutex::new(connection),
            reading: None,
            _lock: None,
        })
    }

    /// Opens a store that is there to read from it, beside a broker that may have it open. Nothing when its schema is an
    /// older one, which the next start brings forward.
    pub(crate) fn open_for_reading(path: &Path) -> Result<Option<Self>, StoreError> {
        check_file(path)?;
        let connection = Connection::open_with_flags(path, READ_ONLY)
            .map_err(|error| unusable(path, error.into()))?;
        let known = migrate::newest();
        match schema_version(&connection).map_err(|error| unusable(path, error))? {
            0 => Err(StoreError::Empty {
                path: path.display().to_string(),
            }),
            actual if actual > known => Err(StoreError::Schema { actual, known }),
            actual if actual < known => Ok(None),
            _ => Ok(Some(Self {
                connection: Mutex::new(connection),
                reading: None,
                _lock: None,
            })),
        }
    }

    /// Whether a store is of a version that signed no record.
    pub(crate) fn is_older_than_audit_keys(path: &Path) -> Result<bool, StoreError> {
        check_file(path)?;
        let version = connect(path).and_then(|connection| schema_version(&connection));
        let version = version.map_err(|error| unusable(path, error))?;
        Ok((1..migrate::SIGNED).contains(&version))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// For reads that must not wait for a write: each sees what was committed before it.
    fn reading(&self) -> MutexGuard<'_, Connection> {
        let reading = self.reading.as_ref().unwrap_or(&self.connection);
        reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for SqliteStore {
    fn commit(
        &self,
        group: Vec<(Change, Record)>,
        key: &LogKey,
    ) -> Result<Vec<Committed>, StoreError> {
        let mut connection = self.connection();
        let removes = group.iter().any(|(change, _)| change.removes());
        let committed = write::group(&mut connection, group, key)?;
        if removes {
            // What secure_delete overwrote in the file may still stand in the log. Failing to fold the log in
            // now leaves that to the next time; the change itself is durable.
            let folded = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            if let Err(error) = folded {
                tracing::warn!(%error, "the write-ahead log could not be folded into the store");
            }
        }
        Ok(committed)
    }

    fn sealed_secret(
        &self,
        path: &ResourcePath,
        version: Option<u64>,
    ) -> Result<Option<SealedVersion>, StoreError> {
        read::sealed_secret(&self.reading(), path, version)
    }

    fn resources(&self) -> Result<Vec<ResourceMetadata>, StoreError> {
        read::resources(&self.connection())
    }

    fn resource_versions(&self, path: &ResourcePath) -> Result<Vec<ResourceMetadata>, StoreError> {
        read::resource_versions(&self.connection(), path)
    }

    fn deleted_versions(&self, path: &ResourcePath) -> Result<Vec<ResourceMetadata>, StoreError> {
        read::deleted_versions(&self.connection(), path)
    }

    fn wrapped_by_others(&self, key_id: &str, most: u32) -> Result<Vec<Wrapped>, StoreError> {
        read::wrapped_by_others(&self.connection(), key_id, most)
    }

    fn policies(&self) -> Result<Vec<PolicyVersion>, StoreError> {
        read::policies(&self.connection())
    }

    fn policy_versions(&self, id: &str) -> Result<Vec<PolicyVersion>, StoreError> {
        read::policy_versions(&self.connection(), id)
    }

    fn reference_values(&self) -> Result<ReferenceValues, StoreError> {
        read::reference_values(&self.connection())
    }

    fn reference_value_versions(
        &self,
        name: &str,
    ) -> Result<Vec<ReferenceValueVersion>, StoreError> {
        read::reference_value_versions(&self.connection(), name)
    }

    fn admins(&self) -> Result<Vec<AdminVersion>, StoreError> {
        read::admins(&self.connection())
    }

    fn admin_versions(&self, name: &str) -> Result<Vec<AdminVersion>, StoreError> {
        read::admin_versions(&self.connection(), name)
    }

    fn claims(&self, token: &str) -> Result<Option<Claims>, StoreError> {
        read::claims(&self.connection(), token)
    }

    fn oldest_claims(&self) -> Result<Option<u64>, StoreError> {
        read::oldest_claims(&self.connection())
    }

    fn audit(&self, limit: u32, before: Option<u64>) -> Result<Vec<Entry>, StoreError> {
        read::audit(&self.connection(), limit, before)
    }

    fn probe(&self) -> Result<(), StoreError> {
        let connection = self.connection();
        let version = schema_version(&connection)?;
        // The same number again takes a page, a transaction and its sync.
        Ok(connection.pragma_update(None, "user_version", version)?)
    }

    fn audit_event(&self, event: &str) -> Result<Option<Entry>, StoreError> {
        read::audit_event(&self.connection(), event)
    }

    fn head(&self) -> Result<Option<Head>, StoreError> {
        read::head(&self.connection())
    }

    fn log_entries(&self, first: u64, count: u32) -> Result<Vec<String>, StoreError> {
        read::log_entries(&self.connection(), first, count)
    }

    fn log_hashes(&self, level: u8, first: u64, count: u32) -> Result<Vec<Hash>, StoreError> {
        read::log_hashes(&self.connection(), level, first, count)
    }

    fn governed(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    configure(&connection)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> Result<(), StoreError> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// So long grows the log, in pages of 4 KiB, before it is folded into the file, which holds up whoever writes then. A page
/// that was written often is folded in once; a log of this length is read in some hundredths of a second after a kill.
const LOG_PAGES: u32 = 4_000;
const READ_ONLY: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);
/// In KiB, which SQLite takes as a negative number: a secret or two and the way to them.
const READING_CACHE: i64 = -256;

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
    let named = |why: String| format!("{}: {why}", path.display());
    match error {
        StoreError::Full(why) => StoreError::Full(named(why)),
        StoreError::ReadOnly(why) => StoreError::ReadOnly(named(why)),
        StoreError::Database(source) => StoreError::Unusable {
            path: path.display().to_string(),
            source,
        },
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    use rusqlite::Row;
    use strongroom_verifier::ReferenceValue;

    use super::*;
    use crate::audit::{Kind, LogError, Outcome, verify_newest};
    use crate::store::{StorageKey, conformance};

    fn path_in(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("store.sqlite")
    }

    fn key() -> LogKey {
        LogKey::from_text(&KEY).unwrap()
    }

    fn open(folder: &tempfile::TempDir) -> SqliteStore {
        let path = path_in(folder);
        if !path.exists() {
            SqliteStore::create(&path, &key()).unwrap();
        }
        SqliteStore::open(&path, &key()).unwrap()
    }

    fn commit(store: &SqliteStore, change: Change) -> Result<Entry, StoreError> {
        let key = key();
        let mut committed = store.commit(vec![(change, record())], &key)?;
        committed.remove(0)
    }

    fn verified(store: &SqliteStore) -> Result<(), StoreError> {
        verify_newest(store, key().verifier(), 1_000)
    }

    fn record() -> Record {
        Record::new(Kind::Admin, Outcome::Allowed, "test", 7)
    }

    fn put(store: &SqliteStore, key: &StorageKey, path: &str, secret: &[u8]) {
        let key = StorageKey::from_text(&key.to_text()).unwrap();
        let place: ResourcePath = path.parse().unwrap();
        let (path, secret) = (place.clone(), secret.to_vec());
        let change = Change::PutSecret {
            path,
            seal: Box::new(move |version| key.seal(&place, version, None, &secret)),
            expires: None,
            keep: 1,
        };
        commit(store, change).unwrap();
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
        conformance::suite(Box::new(open(&folder)), key());
    }

    #[test]
    fn in_memory_it_conforms_too() {
        conformance::suite(Box::new(SqliteStore::in_memory(&key()).unwrap()), key());
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
    fn store_that_is_closed_leaves_a_log_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        put(&store, &StorageKey::generate().unwrap(), "a/b/c", b"secret");
        let log = folder.path().join("store.sqlite-wal");
        assert!(log.exists());
        let path = "a/b/c".parse().unwrap();
        assert!(store.sealed_secret(&path, None).unwrap().is_some());
        drop(store);
        assert!(!log.exists());
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let key = StorageKey::generate().unwrap();
        put(&open(&folder), &key, "a/b/c", b"secret");
        let store = open(&folder);
        let path = "a/b/c".parse().unwrap();
        let sealed = store.sealed_secret(&path, None).unwrap().unwrap();
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
        let sealed = store.sealed_secret(&path, None).unwrap().unwrap();
        assert!(holds(&bytes_on_disk(&folder), &sealed.wrapped_key));
        commit(&store, Change::DeleteSecret { path }).unwrap();
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
            let sealed = store.sealed_secret(&path, None).unwrap().unwrap();
            assert!(key.open(&path, &sealed).is_err());
        }
    }

    #[test]
    fn audit_table_refuses_update_delete_and_replace() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        for _ in 0..3 {
            commit(&store, Change::Nothing).unwrap();
        }
        for statement in [
            "UPDATE log_entry SET entry = '{}' WHERE seq = 2",
            "DELETE FROM log_entry WHERE seq = 2",
            "DELETE FROM log_entry",
            "INSERT OR REPLACE INTO log_entry (seq, event, leaf, entry) VALUES (2, 'x', x'00', '{}')",
            "INSERT INTO log_entry (seq, event, leaf, entry) VALUES (9, 'x', x'00', '{}')",
        ] {
            assert!(
                store.connection().execute(statement, []).is_err(),
                "{statement}"
            );
        }
        verified(&store).unwrap();
    }

    /// A record of 700 entries, with a change made behind the triggers.
    fn tampered(statements: &str) -> Result<(), StoreError> {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let key = key();
        let group = (0..700).map(|_| (Change::Nothing, record())).collect();
        store.commit(group, &key).unwrap();
        let drop_triggers = "DROP TRIGGER log_update_refused; DROP TRIGGER log_delete_refused;
                             DROP TRIGGER log_insert_in_order; DROP TRIGGER log_event_unused;";
        let statements = format!("{drop_triggers}{statements}");
        store.connection().execute_batch(&statements).unwrap();
        verified(&store)
    }

    #[test]
    fn record_that_was_tampered_with_is_refused() {
        let swap = "UPDATE log_entry SET entry = (SELECT entry FROM log_entry WHERE seq = 4) WHERE seq = 3;";
        let hash =
            "UPDATE log_entry SET leaf = (SELECT leaf FROM log_entry WHERE seq = 4) WHERE seq = 3;";
        let both = format!("{swap}{hash}");
        let cases = [
            (
                "UPDATE log_entry SET entry = replace(entry, '\"allowed\"', '\"denied\"') WHERE seq = 3",
                "entry 3 was altered",
            ),
            (
                "UPDATE log_entry SET entry = replace(entry, '\"allowed\"', '\"denied\"') WHERE seq = 700",
                "entry 700 was altered",
            ),
            (swap, "entry 3 was altered"),
            (hash, "entry 3 was altered"),
            (&both, "do not fit together"),
            (
                "DELETE FROM log_entry WHERE seq = 700",
                "entry 700 is not where",
            ),
            ("DELETE FROM log_entry WHERE seq = 2", "do not fit together"),
            (
                "INSERT INTO log_entry SELECT 701, 'x', leaf, entry FROM log_entry WHERE seq = 1",
                "entry 701 is not where",
            ),
            (
                "UPDATE log_node SET hash = zeroblob(32) WHERE position = 1",
                "do not fit together",
            ),
            (
                "DELETE FROM log_node WHERE position = 0",
                "do not fit together",
            ),
            (
                "UPDATE log_head SET edge = zeroblob(length(edge))",
                "do not fit together",
            ),
            ("UPDATE log_head SET edge = x''", "do not fit together"),
            ("UPDATE log_head SET size = 699", "entry 700 is not where"),
            (
                "UPDATE log_head SET checkpoint = ''",
                "checkpoint over 700 audit entries",
            ),
            (
                "UPDATE log_head SET checkpoint = replace(checkpoint, '700', '699')",
                "checkpoint over 700 audit entries",
            ),
        ];
        for (statements, reason) in cases {
            let error = tampered(statements).unwrap_err();
            assert!(
                matches!(error, StoreError::Record(_)),
                "{statements}: {error}"
            );
            assert!(error.to_string().contains(reason), "{statements}: {error}");
        }
        tampered("").unwrap();
    }

    /// A record of 700 entries whose first 256 were pruned, with a change made behind the triggers.
    fn pruned_and_tampered(statements: &str) -> Result<(), StoreError> {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let key = key();
        let group = (0..700).map(|_| (Change::Nothing, record())).collect();
        store.commit(group, &key).unwrap();
        commit(&store, Change::PruneLog { minimum: 256 }).unwrap();
        let drop_triggers = "DROP TRIGGER log_update_refused; DROP TRIGGER log_delete_refused;
                             DROP TRIGGER log_minimum_rises;";
        let statements = format!("{drop_triggers}{statements}");
        store.connection().execute_batch(&statements).unwrap();
        verify_newest(&store, key.verifier(), 100)
    }

    #[test]
    fn what_was_changed_past_the_broker_is_signed() {
        let key = LogKey::generate_for_tests();
        let folder = tempfile::tempdir().unwrap();
        let number = std::cell::Cell::new(0);
        let path = || folder.path().join(format!("{}.sqlite", number.get()));
        let new = || {
            number.set(number.get() + 1);
            SqliteStore::create(&path(), &key).unwrap();
            Box::new(SqliteStore::open(&path(), &key).unwrap()) as Box<dyn Store>
        };
        let statements = |sql: &str| {
            let connection = Connection::open(path()).unwrap();
            let drop_triggers = "DROP TRIGGER log_update_refused; DROP TRIGGER log_delete_refused;";
            connection
                .execute_batch(&format!("{drop_triggers}{sql}"))
                .unwrap();
        };
        let bytes = |bytes: &[u8]| format!("x'{}'", hex::encode(bytes));
        conformance::forgers(&new, &statements, &bytes);
    }

    #[test]
    fn deletion_passes_for_a_pruning() {
        let gone = "DELETE FROM log_entry WHERE seq <= 512;";
        let hashes = format!(
            "INSERT INTO log_node SELECT 0, seq - 1, leaf FROM log_entry WHERE seq <= 512; {gone}"
        );
        let unattested = "up to 512 are not there, and no entry";
        let said = |sql: &str| format!("{hashes} UPDATE log_head SET minimum = 512{sql};");
        for (statements, reason) in [
            (gone.to_owned(), "do not fit together"),
            (hashes.clone(), "entry 257 is not where"),
            (said(""), unattested),
            (said(", pruned_by = 700"), unattested),
            (said(", pruned_by = 0"), unattested),
            (said(", pruned_by = 9"), unattested),
            (
                said(
                    "; UPDATE log_entry SET entry = replace(entry, ':256', ':512') WHERE seq = 701",
                ),
                "entry 701 was altered",
            ),
            (
                "UPDATE log_head SET minimum = 0".to_owned(),
                "entry 1 is not where",
            ),
            (
                "UPDATE log_head SET pruned_by = 0".to_owned(),
                "up to 256 are not there",
            ),
        ] {
            let error = pruned_and_tampered(&statements).unwrap_err();
            assert!(error.to_string().contains(reason), "{statements}: {error}");
        }
        pruned_and_tampered("").unwrap();
    }

    #[test]
    fn pruned_record_can_be_deleted_from_further() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let key = key();
        let group = (0..700).map(|_| (Change::Nothing, record())).collect();
        store.commit(group, &key).unwrap();
        commit(&store, Change::PruneLog { minimum: 256 }).unwrap();
        for statement in [
            "DELETE FROM log_entry WHERE seq = 257",
            "DELETE FROM log_entry",
            "UPDATE log_head SET minimum = 0",
        ] {
            assert!(
                store.connection().execute(statement, []).is_err(),
                "{statement}"
            );
        }
        verified(&store).unwrap();
    }

    #[test]
    fn disk_that_is_full_fails_as_anything_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        commit(&store, Change::Nothing).unwrap();
        let most = |pages: u64| {
            let pages: u64 = store
                .connection()
                .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| {
                    row.get(0)
                })
                .unwrap();
            pages
        };
        most(1);
        let large = || Change::KeepClaims {
            token: "t".to_owned(),
            claims: "x".repeat(100_000),
        };
        let error = commit(&store, large()).unwrap_err();
        assert!(matches!(error, StoreError::Full(_)), "{error}");
        assert!(error.to_string().contains("disk"), "{error}");
        // Who was written together with it is told the same.
        let again = error.again();
        assert!(matches!(again, StoreError::Full(_)), "{again}");
        verified(&store).unwrap();
        assert!(store.claims("t").unwrap().is_none());
        most(1_000_000);
        commit(&store, large()).unwrap();
        verified(&store).unwrap();
    }

    #[test]
    fn store_that_cannot_be_written_fails_as_anything_else() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(&folder));
        let store = SqliteStore::open_for_reading(&path_in(&folder))
            .unwrap()
            .unwrap();
        let error = commit(&store, Change::Nothing).unwrap_err();
        assert!(matches!(error, StoreError::ReadOnly(_)), "{error}");
        let error = store.probe().unwrap_err();
        assert!(matches!(error, StoreError::ReadOnly(_)), "{error}");
    }

    #[test]
    fn older_checkpoint_over_a_longer_record_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        commit(&store, Change::Nothing).unwrap();
        let older = store.head().unwrap().unwrap().checkpoint;
        commit(&store, Change::Nothing).unwrap();
        store
            .connection()
            .execute("UPDATE log_head SET checkpoint = ?1", [older])
            .unwrap();
        let error = verified(&store).unwrap_err();
        let wanted = LogError::OtherHead {
            signed: 1,
            found: 2,
        };
        assert!(matches!(error, StoreError::Record(error) if error == wanted));
    }

    #[test]
    fn row_whose_columns_contradict_its_entry_is_altered() {
        for change in ["event = 'x'", "entry = 'x'"] {
            let folder = tempfile::tempdir().unwrap();
            let store = open(&folder);
            for _ in 0..3 {
                commit(&store, Change::Nothing).unwrap();
            }
            let statements = format!(
                "DROP TRIGGER log_update_refused; UPDATE log_entry SET {change} WHERE seq = 2;"
            );
            store.connection().execute_batch(&statements).unwrap();
            let outcome = store.audit(10, None);
            assert!(
                matches!(
                    outcome,
                    Err(StoreError::Record(LogError::Altered { seq: 2 }))
                ),
                "{change}: {outcome:?}"
            );
        }
    }

    /// Every version that ever shipped comes forward with all that it held.
    #[test]
    fn stores_of_all_older_versions_come_forward() {
        for version in 1..migrate::newest() {
            let folder = tempfile::tempdir().unwrap();
            let storage_key = StorageKey::generate().unwrap();
            let path: ResourcePath = "a/b/c".parse().unwrap();
            let sealed = storage_key.seal(&path, 1, None, b"secret").unwrap();
            let mut older = Connection::open(path_in(&folder)).unwrap();
            let fresh = LogKey::generate().unwrap();
            // What was there before the first record that is signed comes with it through every later version.
            let begins = version.min(migrate::SIGNED - 1);
            migrate::migrate_to(&mut older, &fresh, begins).unwrap();
            older
                .execute(
                    "INSERT INTO secret VALUES ('a/b/c', 1, ?1, ?2, ?3, 6, 7, 'alice')",
                    (&sealed.wrapped_key, &sealed.nonce, &sealed.ciphertext),
                )
                .unwrap();
            older
                .execute_batch(
                    "INSERT INTO secret_counter VALUES ('a/b/c', 4);
                     INSERT INTO policy VALUES ('resource-policy', 'package policy');
                     INSERT INTO reference_value (name, value, expires) VALUES ('svn', '[1]', 9);",
                )
                .unwrap();
            for seq in 1..=300 {
                let entry = format!(
                    r#"{{"seq":{seq},"event":"e{seq}","at":7,"kind":"start","outcome":"allowed","action":"start broker","previous":"00","hash":"11"}}"#
                );
                older
                    .execute(
                        "INSERT INTO audit VALUES (?1, ?2, '11', ?3)",
                        (seq, format!("e{seq}"), entry),
                    )
                    .unwrap();
            }
            migrate::migrate_to(&mut older, &fresh, version).unwrap();
            assert_eq!(schema_version(&older).unwrap(), version);
            drop(older);
            std::fs::set_permissions(path_in(&folder), std::fs::Permissions::from_mode(0o600))
                .unwrap();
            let is_older = SqliteStore::is_older_than_audit_keys(&path_in(&folder)).unwrap();
            assert_eq!(is_older, version < migrate::SIGNED);
            if is_older {
                let refused = SqliteStore::open(&path_in(&folder), &key()).err().unwrap();
                assert!(matches!(refused, StoreError::Unsigned { .. }), "{refused}");
            }
            let verified = |store: &SqliteStore| verify_newest(store, fresh.verifier(), 1_000);
            let store = SqliteStore::open(&path_in(&folder), &fresh).unwrap();
            verified(&store).unwrap();
            let sealed = store.sealed_secret(&path, None).unwrap().unwrap();
            assert_eq!(
                storage_key.open(&path, &sealed).unwrap().expose(),
                b"secret"
            );
            let listed = store.resources().unwrap();
            assert_eq!(listed[0].digest, sealed.digest());
            let policies = store.policies().unwrap();
            assert_eq!(policies[0].text.as_deref(), Some("package policy"));
            let values = store.reference_values().unwrap();
            let wanted = ReferenceValue::new(serde_json::json!([1]), 9);
            assert_eq!(values.iter().collect::<Vec<_>>(), [("svn", &wanted)]);
            assert_eq!(store.audit(1, None).unwrap()[0].seq, 300);
            assert!(store.audit_event("e17").unwrap().is_some());
            let place = path.clone();
            let change = Change::PutSecret {
                path: path.clone(),
                seal: Box::new(move |version| storage_key.seal(&place, version, None, b"next")),
                expires: None,
                keep: 1,
            };
            store.commit(vec![(change, record())], &fresh).unwrap();
            assert_eq!(store.resources().unwrap()[0].version, 5);
            verified(&store).unwrap();
            drop(store);
            assert!(!SqliteStore::is_older_than_audit_keys(&path_in(&folder)).unwrap());
        }
    }

    #[test]
    fn store_that_is_gone_or_empty_is_not_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(&folder);
        assert!(matches!(
            SqliteStore::open(&path, &key()),
            Err(StoreError::Gone { .. })
        ));
        drop(private_file(&path).unwrap());
        assert!(matches!(
            SqliteStore::open(&path, &key()),
            Err(StoreError::Empty { .. })
        ));
        assert!(SqliteStore::create(&path, &key()).is_err());
    }

    #[test]
    fn file_that_is_no_database_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(&folder);
        std::fs::write(&path, "this is no database at all, whatever its name says").unwrap();
        let error = SqliteStore::open(&path, &key()).err().unwrap().to_string();
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
            let outcome = SqliteStore::open(&path, &key());
            assert_eq!(outcome.is_ok(), accepted, "{mode:o}");
        }
    }

    #[test]
    fn second_broker_on_one_store_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _first = open(&folder);
        assert!(matches!(
            SqliteStore::open(&folder.path().join("store.sqlite"), &key()),
            Err(StoreError::InUse { .. })
        ));
    }

    #[test]
    fn store_of_a_newer_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder)
            .connection()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            SqliteStore::open(&folder.path().join("store.sqlite"), &key()),
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

    static KEY: LazyLock<String> =
        LazyLock::new(|| LogKey::generate().unwrap().to_text().as_str().to_owned());
}
