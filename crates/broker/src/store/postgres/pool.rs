//! A few connections to one database, used by threads that block.
//!
//! The library is asynchronous. Its connections run on a thread of the pool's own, and whoever asks waits where it is,
//! with a limit: so a store can be used from any thread. A connection that broke is replaced when somebody asks next.
//! While the server is away, one attempt is made in each of a few, growing, spans of time, and whoever asks in
//! between is told at once.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Connection, NoTls, Row, Statement};

use super::super::StoreError;
use super::tls::Tls;

/// The connections to one database.
pub(super) struct Pool {
    /// Nothing once it is being dropped.
    runtime: Option<Runtime>,
    config: Config,
    tls: Option<Tls>,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Session>,
    open: usize,
    failure: Option<Failure>,
}

/// The last attempt to connect, which failed.
struct Failure {
    why: String,
    again_at: Instant,
    wait: Duration,
}

impl Pool {
    pub(super) fn new(config: Config, tls: Option<Tls>) -> Result<Self, StoreError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postgres")
            .enable_all()
            .build()
            .map_err(|error| StoreError::Away(error.to_string()))?;
        Ok(Self {
            runtime: Some(runtime),
            config,
            tls,
            state: Mutex::default(),
            returned: Condvar::new(),
        })
    }

    /// A connection for as long as it is held.
    pub(super) fn session(&self) -> Result<Lease<'_>, StoreError> {
        let deadline = Instant::now() + LIMIT;
        let mut state = self.state();
        loop {
            while let Some(session) = state.idle.pop() {
                if !session.is_broken() {
                    return Ok(self.lease(session));
                }
                state.open -= 1;
            }
            if let Some(failure) = &state.failure
                && Instant::now() < failure.again_at
            {
                return Err(StoreError::Away(failure.why.clone()));
            }
            if state.open < MOST {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Away("every connection is in use".to_owned()));
            }
            state = self
                .returned
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.open += 1;
        drop(state);
        let connected = self.connect();
        let mut state = self.state();
        match connected {
            Ok(session) => {
                state.failure = None;
                Ok(self.lease(session))
            }
            Err(error) => {
                state.open -= 1;
                if let StoreError::Away(why) = &error {
                    let wait = state
                        .failure
                        .take()
                        .map_or(FIRST_WAIT, |failure| (failure.wait * 2).min(LAST_WAIT));
                    state.failure = Some(Failure {
                        why: why.clone(),
                        again_at: Instant::now() + wait,
                        wait,
                    });
                }
                drop(state);
                self.returned.notify_one();
                Err(error)
            }
        }
    }

    /// For how long yet whoever asks is told at once that the server is away.
    #[cfg(test)]
    pub(super) fn again_in(&self) -> Option<Duration> {
        let state = self.state();
        let failure = state.failure.as_ref()?;
        Some(failure.again_at.saturating_duration_since(Instant::now()))
    }

    fn lease(&self, session: Session) -> Lease<'_> {
        Lease {
            pool: self,
            session: Some(session),
        }
    }

    fn connect(&self) -> Result<Session, StoreError> {
        let runtime = self.runtime.as_ref().expect("a pool in use has its thread");
        let (config, tls) = (self.config.clone(), self.tls.clone());
        let connecting = runtime.spawn(async move {
            match tls {
                Some(tls) => config.connect(tls).await.map(driven),
                None => config.connect(NoTls).await.map(driven),
            }
        });
        let client = wait(connecting, LIMIT)
            .ok_or_else(|| StoreError::Away("it did not answer in time".to_owned()))?
            .map_err(|error| StoreError::Away(error.to_string()))?
            .map_err(|error| failed(&error))?;
        let mut session = Session {
            client,
            statements: HashMap::new(),
            broken: false,
        };
        session.batch(SETTINGS)?;
        let settings = session.query(CHECKED, &[])?;
        let setting = |at: usize| -> Result<String, StoreError> {
            let row = settings.first();
            row.map_or_else(|| Ok(String::new()), |row| row.try_get(at))
                .map_err(|error| failed(&error))
        };
        if setting(0)? != "on" {
            return Err(StoreError::Unfit(
                "fsync is off, and what is lost with the power is lost: set fsync = on".to_owned(),
            ));
        }
        if setting(1)? == "off" {
            return Err(StoreError::Unfit(
                "synchronous_commit could not be turned on".to_owned(),
            ));
        }
        if setting(2)? != "UTF8" {
            return Err(StoreError::Unfit(
                "its encoding is not UTF8: make one with createdb --encoding=UTF8".to_owned(),
            ));
        }
        match setting(3)?.as_str() {
            "false" => Ok(session),
            _ => Err(StoreError::Away(
                "it is a standby, which takes no writes".to_owned(),
            )),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for its end is not allowed where other tasks run.
            runtime.shutdown_background();
        }
    }
}

/// Lets a connection run beside its client.
fn driven<S, T>((client, connection): (Client, Connection<S, T>)) -> Client
where
    Connection<S, T>: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "a connection to the database broke");
        }
    });
    client
}

/// A connection that goes back to its pool, unless it broke.
pub(super) struct Lease<'a> {
    pool: &'a Pool,
    session: Option<Session>,
}

impl Deref for Lease<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("it is there until the drop")
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        self.session.as_mut().expect("it is there until the drop")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let mut state = self.pool.state();
            match session.is_broken() {
                true => state.open -= 1,
                false => state.idle.push(session),
            }
            drop(state);
            self.pool.returned.notify_one();
        }
    }
}

/// One connection, with its prepared statements.
pub(super) struct Session {
    client: Client,
    statements: HashMap<&'static str, Statement>,
    broken: bool,
}

impl Session {
    pub(super) fn query(
        &mut self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let statement = self.statement(sql)?;
        let answer = wait(self.client.query(&statement, values), LIMIT);
        self.outcome(answer)
    }

    pub(super) fn row(
        &mut self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.query(sql, values)?.into_iter().next())
    }

    /// Gives how many rows were touched.
    pub(super) fn execute(
        &mut self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, StoreError> {
        let statement = self.statement(sql)?;
        let answer = wait(self.client.execute(&statement, values), LIMIT);
        self.outcome(answer)
    }

    /// Statements without values.
    pub(super) fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        let answer = wait(self.client.batch_execute(sql), LIMIT);
        self.outcome(answer)
    }

    /// Undoes the transaction that is open. A connection on which that fails is not used again.
    pub(super) fn rollback(&mut self) {
        if self.batch("ROLLBACK").is_err() {
            self.broken = true;
        }
    }

    fn statement(&mut self, sql: &'static str) -> Result<Statement, StoreError> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let answer = wait(self.client.prepare(sql), LIMIT);
        let statement = self.outcome(answer)?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    fn outcome<T>(
        &mut self,
        answer: Option<Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(failed(&error)),
            None => {
                self.broken = true;
                Err(StoreError::Away("it did not answer in time".to_owned()))
            }
        }
    }

    fn is_broken(&self) -> bool {
        self.broken || self.client.is_closed()
    }
}

/// What the database said, or that it is away. Its details are left out: they can hold values.
pub(super) fn failed(error: &tokio_postgres::Error) -> StoreError {
    let Some(said) = error.as_db_error() else {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        return StoreError::Away(format!("{error}{}", cause.unwrap_or_default()));
    };
    let (code, text) = (said.code().code(), said.message().to_owned());
    match code {
        "53100" => return StoreError::Full(text),
        "25006" => return StoreError::ReadOnly(text),
        _ => {}
    }
    match AWAY.iter().any(|class| code.starts_with(class)) {
        true => StoreError::Away(text),
        false => StoreError::Postgres(text),
    }
}

/// Drives a future on this thread, for so long at most.
fn wait<F: Future>(future: F, limit: Duration) -> Option<F::Output> {
    let deadline = Instant::now() + limit;
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Connections of one broker. One writes at a time; the others read.
const MOST: usize = 8;
/// More than the server's own limit on a statement.
const LIMIT: Duration = Duration::from_secs(12);
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(2);
/// Classes of SQLSTATE after which another attempt, later or on another connection, may succeed: connection, transaction
/// rolled back, resources, lock not available, the operator's intervention.
const AWAY: [&str; 6] = ["08", "40", "53", "55P03", "57", "25P03"];
/// A commit is on the disk when it is acknowledged, whatever the server's default is; no statement and no open
/// transaction holds the record's head for long.
const SETTINGS: &str = "
SET synchronous_commit = on;
SET statement_timeout = '10s';
SET lock_timeout = '8s';
SET idle_in_transaction_session_timeout = '15s';
SET client_min_messages = warning;";
const CHECKED: &str = "
SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('server_encoding'),
       pg_is_in_recovery()::text";
