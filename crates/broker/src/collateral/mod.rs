//! Collateral: answers a [`CollateralRequest`] from a folder and from the vendors' services. Knows nothing of verdicts.
//!
//! What is kept and not due is given as it is. What is due is fetched, once however many wait for it; when that fails,
//! the old one is given for a stated grace. A service that fails or asks for it is left alone for a while. Nothing is kept
//! that is not whole and of the right form.

mod cache;
mod kds;
mod pcs;
mod rim;
mod service;
mod strangers;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use strongroom_verifier::{
    Collateral, CollateralItem, CollateralRequest, RootId, SnpProduct, Wanted,
};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::anchors::DevelopmentRoot;
use crate::config::{CollateralConfig, Config};
use crate::outgoing::{check_authorities, check_url};
use crate::{BrokerError, Clock, key_file};
use cache::{Bounds, Cache, Kept, Note};
use service::{Answer, Ask, Backoff, Failure, Fetcher, Service};
use strangers::Strangers;

/// Where collateral comes from: a folder, and the services behind it.
#[derive(Clone)]
pub struct Collaterals(Arc<Shared>);

impl Collaterals {
    /// Takes stock of the folder of a configuration. Nothing is fetched yet, and a folder that is not there is empty.
    ///
    /// # Errors
    /// [`BrokerError`] when others may write the folder, or a file that the configuration names cannot be used.
    pub fn open(config: &Config, clock: Clock) -> Result<Self, BrokerError> {
        let development = DevelopmentRoot::read(config)?;
        let folder = config.collateral_folder();
        key_file::check_folder(&folder)?;
        let config = config.collateral.clone();
        check_authorities(config.certificate.as_deref(), service::CERTIFICATE)?;
        Ok(Self::assemble(&folder, config, development, clock))
    }

    /// As [`Self::open`], with the settings of another configuration. What was counted goes on; what is under way ends by
    /// the old settings.
    pub(crate) fn reopened(&self, config: &Config) -> Result<Self, BrokerError> {
        let mut opened = Self::open(config, Arc::clone(&self.0.clock))?;
        if let Some(shared) = Arc::get_mut(&mut opened.0) {
            shared.counters = Arc::clone(&self.0.counters);
        }
        Ok(opened)
    }

    /// As [`Self::open`], for a folder without a broker.
    pub fn open_folder(folder: &Path, config: CollateralConfig, clock: Clock) -> Self {
        Self::assemble(folder, config, None, clock)
    }

    fn assemble(
        folder: &Path,
        config: CollateralConfig,
        development: Option<DevelopmentRoot>,
        clock: Clock,
    ) -> Self {
        let mut roots = vec![RootId::INTEL];
        roots.extend(development.as_ref().map(|development| development.id));
        Self(Arc::new(Shared {
            cache: Cache::open(folder, &roots, Bounds::default()),
            fetcher: Fetcher::new(&config),
            config,
            clock,
            roots,
            development,
            services: Mutex::default(),
            strangers: Mutex::default(),
            flights: Mutex::default(),
            gates: Service::ALL
                .map(|service| (service, Semaphore::new(AT_ONCE)))
                .into(),
            counters: Arc::default(),
        }))
    }

    /// Answers a request, in bounded time. What is optional and cannot be had is left out.
    ///
    /// # Errors
    /// [`CollateralError`] for the first required thing that cannot be had.
    pub async fn answer(&self, request: &CollateralRequest) -> Result<Collateral, CollateralError> {
        let mut collateral = Collateral::none();
        if request.is_empty() {
            return Ok(collateral);
        }
        let deadline = Instant::now() + Duration::from_secs(self.0.config.timeout_seconds);
        let found = self.find(request).await?;
        // All are under way before the first is waited for.
        let waiting: Vec<_> = found
            .into_iter()
            .map(|(wanted, found)| {
                let flight = match &found {
                    Found::Due(_) => Some(self.0.board(&wanted, Anew::WhereDue)),
                    Found::Good(_) | Found::Refused(..) => None,
                };
                (wanted, found, flight)
            })
            .collect();
        for (wanted, found, flight) in waiting {
            match self.0.settle(&wanted, found, flight, deadline).await {
                Ok(item) => collateral.insert(wanted, CollateralItem::clone(&item)),
                Err(error) if wanted.is_required() => return Err(error),
                Err(error) => tracing::debug!(%wanted, %error, "optional collateral is left out"),
            }
        }
        Ok(collateral)
    }

    /// Fetches each thing anew, whatever is kept, and says how it went.
    pub async fn fetch(
        &self,
        request: &CollateralRequest,
    ) -> Vec<(Wanted, Result<(), CollateralError>)> {
        let mut outcomes = Vec::new();
        for wanted in request.iter() {
            let outcome = match self.0.ask(wanted) {
                Ok(_) => {
                    let mut flight = self.0.board(wanted, Anew::Always);
                    let landed = landed(&mut flight, wanted).await;
                    landed.and_then(|landing| self.0.is_kept(landing))
                }
                Err(error) => Err(error),
            };
            outcomes.push((wanted.clone(), outcome));
        }
        outcomes
    }

    /// What lies in the folder, by place. A damaged piece is not listed.
    pub fn list(&self) -> Vec<Listed> {
        let wanted = self.0.cache.wanted(&self.0.roots);
        wanted
            .into_iter()
            .filter_map(|wanted| {
                let kept = self.0.cache.read_again(&wanted)?;
                Some(self.0.listed(wanted, &kept))
            })
            .collect()
    }

    /// Takes over what lies in another collateral folder, or one file of it. What is kept and newer stays.
    ///
    /// # Errors
    /// [`CollateralError::Folder`] when nothing can be written here.
    pub fn import(&self, from: &Path) -> Result<Vec<Imported>, CollateralError> {
        let shared = &self.0;
        let (folder, found) = match from.is_dir() {
            true => {
                let found = cache::scan(from, &shared.roots);
                (from.to_owned(), found.into_iter().map(|(w, _)| w).collect())
            }
            false => place_of(from, &shared.roots)
                .map(|(folder, wanted)| (folder, vec![wanted]))
                .unwrap_or_default(),
        };
        let mut imported = Vec::new();
        for wanted in found {
            let path = folder.join(wanted.path());
            let outcome = match cache::read(&folder, &wanted) {
                Ok(Some(kept)) => self.0.take_over(&wanted, kept)?,
                Ok(None) => continue,
                Err(reason) => ImportOutcome::Refused(reason),
            };
            imported.push(Imported {
                path,
                wanted,
                outcome,
            });
        }
        imported.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(imported)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.0.cache.folder()
    }

    /// What was done since the start.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.0.counters;
        Counts {
            fetched: read(&counters.fetched),
            failed: read(&counters.failed),
            stale: read(&counters.stale),
            refused: read(&counters.refused),
        }
    }

    async fn find(
        &self,
        request: &CollateralRequest,
    ) -> Result<Vec<(Wanted, Found)>, CollateralError> {
        let wanted: Vec<Wanted> = request.iter().cloned().collect();
        if wanted.len() > MAX_WANTED {
            return Err(CollateralError::TooMany {
                actual: wanted.len(),
            });
        }
        let shared = Arc::clone(&self.0);
        let find = move || {
            let find = |wanted: Wanted| {
                let found = shared.find(&wanted);
                (wanted, found)
            };
            wanted.into_iter().map(find).collect()
        };
        tokio::task::spawn_blocking(find)
            .await
            .map_err(|_| CollateralError::Internal)
    }
}

/// What everything here shares.
struct Shared {
    config: CollateralConfig,
    clock: Clock,
    cache: Cache,
    fetcher: Fetcher,
    roots: Vec<RootId>,
    development: Option<DevelopmentRoot>,
    services: Mutex<HashMap<Service, Backoff>>,
    strangers: Mutex<Strangers>,
    flights: Mutex<HashMap<Wanted, Flight>>,
    /// Of each service its own: a silent one keeps nobody from the others.
    gates: HashMap<Service, Semaphore>,
    counters: Arc<Counters>,
}

type Landed = Result<Landing, CollateralError>;
type Flight = watch::Receiver<Option<Landed>>;

/// What was fetched, and why it is not in the folder if it is not.
#[derive(Clone)]
struct Landing {
    item: Arc<CollateralItem>,
    unwritten: Option<String>,
}

/// Whether what is kept and not due is fetched all the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Anew {
    WhereDue,
    Always,
}

/// What there is of something before anybody is asked.
enum Found {
    Good(Arc<CollateralItem>),
    /// To be fetched; beside it the old one, where it is still good for the grace.
    Due(Option<Arc<CollateralItem>>),
    Refused(CollateralError, Option<Arc<CollateralItem>>),
}

impl Shared {
    fn now(&self) -> u64 {
        (self.clock)()
    }

    fn find(&self, wanted: &Wanted) -> Found {
        if let Some(found) = self.find_development(wanted) {
            return found;
        }
        let now = self.now();
        let kept = match self.cache.kept(wanted) {
            Some(kept) if !self.is_due(wanted, &kept.note, now) => return Found::Good(kept.item),
            other => other,
        };
        let stale = kept
            .filter(|kept| now < self.usable_until(wanted, &kept.note))
            .map(|kept| kept.item);
        match self.may_ask(wanted, stale.is_some(), now) {
            Ok(()) => Found::Due(stale),
            Err(error) => Found::Refused(error, stale),
        }
    }

    /// What a development root signed has no service, and its folder is read each time: it is small, and its owner
    /// makes it anew.
    fn find_development(&self, wanted: &Wanted) -> Option<Found> {
        let of_intel = root_of(wanted);
        let Some(development) = &self.development else {
            return match of_intel {
                Some(root) if root != RootId::INTEL => {
                    Some(Found::Refused(CollateralError::UnknownRoot { root }, None))
                }
                _ => None,
            };
        };
        let read = || match cache::read(&development.collateral, wanted) {
            Ok(kept) => kept,
            Err(damage) => {
                tracing::warn!(
                    path = wanted.path(),
                    damage,
                    "a piece of development collateral is damaged"
                );
                None
            }
        };
        match of_intel {
            Some(RootId::INTEL) => None,
            Some(root) if root == development.id => Some(match read() {
                Some(kept) => Found::Good(kept.item),
                None => Found::Refused(self.absent(wanted, &development.collateral), None),
            }),
            Some(root) => Some(Found::Refused(CollateralError::UnknownRoot { root }, None)),
            // A chip or a manifest of the development platform's; a list would stand for the vendor's.
            None => match wanted {
                Wanted::AmdVcek { .. } | Wanted::NvidiaRim { .. } => {
                    read().map(|kept| Found::Good(kept.item))
                }
                _ => None,
            },
        }
    }

    /// Whether a service may be asked for this now.
    fn may_ask(&self, wanted: &Wanted, kept: bool, now: u64) -> Result<(), CollateralError> {
        let ask = self.ask(wanted)?;
        let mut strangers = lock(&self.strangers);
        if let Some(error) = strangers.refused(wanted, now) {
            return Err(error);
        }
        self.left_alone(wanted, ask.service, now)?;
        if depends_on_the_guest(wanted) && !kept && !self.is_under_way(wanted) {
            strangers.begin(ask.service, now).map_err(|seconds| {
                count(&self.counters.refused);
                CollateralError::Busy {
                    wanted: wanted.to_string(),
                    seconds,
                }
            })?;
        }
        Ok(())
    }

    /// The request to the service that has this.
    fn ask(&self, wanted: &Wanted) -> Result<Ask, CollateralError> {
        if !wanted.is_plausible() {
            return Err(CollateralError::Implausible {
                wanted: wanted.to_string(),
            });
        }
        if self.config.offline {
            return Err(self.absent(wanted, self.cache.folder()));
        }
        let config = &self.config;
        let ask = match wanted {
            Wanted::AmdVcek {
                product,
                chip_id,
                tcb,
            } => Some(kds::vcek(&config.kds_url, *product, chip_id, tcb)),
            Wanted::AmdCrl { product } => Some(kds::crl(&config.kds_url, *product)),
            Wanted::NvidiaRim { id } => Some(rim::ask(&config.rim_url, id)),
            intel if root_of(intel) == Some(RootId::INTEL) => pcs::ask(config, intel),
            _ => None,
        };
        ask.ok_or_else(|| self.absent(wanted, self.cache.folder()))
    }

    fn absent(&self, wanted: &Wanted, folder: &Path) -> CollateralError {
        CollateralError::Absent {
            wanted: wanted.to_string(),
            path: folder.join(wanted.path()),
        }
    }

    fn left_alone(
        &self,
        wanted: &Wanted,
        service: Service,
        now: u64,
    ) -> Result<(), CollateralError> {
        let remaining = lock(&self.services)
            .get(&service)
            .and_then(|backoff| backoff.remaining(now));
        match remaining {
            None => Ok(()),
            Some(seconds) => Err(CollateralError::LeftAlone {
                wanted: wanted.to_string(),
                service: service.to_string(),
                seconds,
            }),
        }
    }

    fn is_under_way(&self, wanted: &Wanted) -> bool {
        lock(&self.flights).contains_key(wanted)
    }

    /// Joins the fetch of this that is under way, or starts one. It goes on when nobody waits any more.
    fn board(self: &Arc<Self>, wanted: &Wanted, anew: Anew) -> Flight {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(wanted) {
            return flight.clone();
        }
        let (landing, flight) = watch::channel(None);
        flights.insert(wanted.clone(), flight.clone());
        let under_way = UnderWay {
            shared: Arc::clone(self),
            wanted: wanted.clone(),
        };
        tokio::spawn(async move {
            let landed = under_way.shared.refresh(&under_way.wanted, anew).await;
            drop(under_way);
            landing.send_replace(Some(landed));
        });
        flight
    }

    /// Fetches and keeps one thing.
    async fn refresh(self: &Arc<Self>, wanted: &Wanted, anew: Anew) -> Landed {
        // Between looking and coming here the flight of somebody else may have landed.
        if anew == Anew::WhereDue
            && let Some(kept) = self.cache.kept(wanted)
            && !self.is_due(wanted, &kept.note, self.now())
        {
            return Ok(Landing {
                item: kept.item,
                unwritten: None,
            });
        }
        let ask = self.ask(wanted)?;
        let gate = self.gates.get(&ask.service);
        let gate = gate.ok_or(CollateralError::Internal)?;
        let _one_of_few = gate.acquire().await;
        // Who waited at the gate may find that the one before was sent away.
        self.left_alone(wanted, ask.service, self.now())?;
        let answered = self.fetcher.fetch(&ask, self.now()).await;
        let now = self.now();
        let outcome = answered.and_then(|answer| {
            let kept = kept(wanted, answer, &ask, now).map_err(Failure::Unfit)?;
            Ok(kept)
        });
        let kept = match outcome {
            Ok(kept) => kept,
            Err(failure) => return Err(self.failed(wanted, ask.service, failure, now)),
        };
        lock(&self.services)
            .entry(ask.service)
            .or_default()
            .succeeded();
        count(&self.counters.fetched);
        tracing::debug!(%wanted, service = %ask.service, "fetched collateral");
        let item = Arc::clone(&kept.item);
        let (shared, kept_as) = (Arc::clone(self), wanted.clone());
        let keeping = move || shared.cache.keep(&kept_as, kept);
        // What cannot be written is good for those who wait for it all the same.
        let written = tokio::task::spawn_blocking(keeping).await;
        let unwritten = match written {
            Ok(written) => written.err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = &unwritten {
            tracing::error!(path = wanted.path(), error, "collateral cannot be kept");
        }
        Ok(Landing { item, unwritten })
    }

    /// For whoever fetches for the folder's sake.
    fn is_kept(&self, landing: Landing) -> Result<(), CollateralError> {
        match landing.unwritten {
            None => Ok(()),
            Some(reason) => Err(CollateralError::Folder {
                path: self.cache.folder().to_owned(),
                reason,
            }),
        }
    }

    fn failed(
        &self,
        wanted: &Wanted,
        service: Service,
        failure: Failure,
        now: u64,
    ) -> CollateralError {
        count(&self.counters.failed);
        let what = wanted.to_string();
        let name = service.to_string();
        let back_off = |asked| {
            let mut services = lock(&self.services);
            let backoff = services.entry(service).or_default();
            backoff.failed(asked, now);
            backoff.remaining(now).unwrap_or_default()
        };
        let (error, refused_for) = match failure {
            Failure::NotKnown(status) => (
                CollateralError::NotKnown {
                    wanted: what,
                    service: name,
                    status,
                },
                Some(NOT_KNOWN_SECONDS),
            ),
            Failure::Unfit(reason) => (
                CollateralError::Unfit {
                    wanted: what,
                    service: name,
                    reason,
                },
                Some(UNFIT_SECONDS),
            ),
            Failure::Throttled(asked) => (
                CollateralError::LeftAlone {
                    wanted: what,
                    service: name,
                    seconds: back_off(asked),
                },
                None,
            ),
            Failure::Unavailable(reason) => {
                back_off(None);
                let error = CollateralError::Unavailable {
                    wanted: what,
                    service: name,
                    reason,
                };
                (error, None)
            }
        };
        tracing::warn!(%error, "collateral cannot be fetched");
        if let Some(seconds) = refused_for {
            lock(&self.strangers).refuse(wanted, error.clone(), now, seconds);
        }
        error
    }

    async fn settle(
        &self,
        wanted: &Wanted,
        found: Found,
        flight: Option<Flight>,
        deadline: Instant,
    ) -> Result<Arc<CollateralItem>, CollateralError> {
        let (error, stale) = match (found, flight) {
            (Found::Good(item), _) => return Ok(item),
            (Found::Refused(error, stale), _) => (error, stale),
            (Found::Due(stale), None) => (CollateralError::Internal, stale),
            (Found::Due(stale), Some(mut flight)) => {
                let landed = tokio::time::timeout_at(deadline, landed(&mut flight, wanted)).await;
                match landed {
                    Ok(Ok(landing)) => return Ok(landing.item),
                    Ok(Err(error)) => (error, stale),
                    Err(_) => {
                        let error = CollateralError::Late {
                            wanted: wanted.to_string(),
                            seconds: self.config.timeout_seconds,
                        };
                        (error, stale)
                    }
                }
            }
        };
        match stale {
            Some(item) => {
                count(&self.counters.stale);
                Ok(item)
            }
            None => Err(error),
        }
    }

    /// When it is to be fetched anew.
    fn due(&self, wanted: &Wanted, note: &Note) -> u64 {
        let life = match wanted {
            Wanted::AmdVcek { .. } | Wanted::NvidiaRim { .. } => {
                let said = note.max_age.unwrap_or(UNCHANGING_SECONDS);
                said.clamp(SHORTEST_LIFE, UNCHANGING_SECONDS)
            }
            _ => self.config.refresh_hours.saturating_mul(3_600),
        };
        let due = note.fetched_at.saturating_add(life);
        // A service that sends what is past already is not asked with every attestation.
        let least = note.fetched_at.saturating_add(SHORTEST_LIFE);
        due.min(note.next_update.unwrap_or(u64::MAX)).max(least)
    }

    fn is_due(&self, wanted: &Wanted, note: &Note, now: u64) -> bool {
        match self.config.offline {
            true => self.usable_until(wanted, note) <= now,
            // What is from the future is by a clock that was wrong.
            false => self.due(wanted, note) <= now || note.fetched_at > now.saturating_add(AHEAD),
        }
    }

    /// Until when it is given at all.
    fn usable_until(&self, wanted: &Wanted, note: &Note) -> u64 {
        let end = match self.config.offline {
            // Nobody can be asked: it is good for as long as it says itself.
            true => note.next_update.unwrap_or(u64::MAX),
            false => self.due(wanted, note),
        };
        end.saturating_add(self.config.stale_grace_hours.saturating_mul(3_600))
    }

    fn listed(&self, wanted: Wanted, kept: &Kept) -> Listed {
        let now = self.now();
        Listed {
            path: wanted.path(),
            fetched_at: kept.note.fetched_at,
            next_update: kept.note.next_update,
            due: self.due(&wanted, &kept.note),
            usable_until: self.usable_until(&wanted, &kept.note),
            is_usable: now < self.usable_until(&wanted, &kept.note),
            source: kept.note.source.clone(),
            bytes: kept.item.body.len(),
            wanted,
        }
    }

    fn take_over(&self, wanted: &Wanted, kept: Kept) -> Result<ImportOutcome, CollateralError> {
        let newer = self
            .cache
            .read_again(wanted)
            .is_some_and(|here| here.note.fetched_at >= kept.note.fetched_at);
        if newer {
            return Ok(ImportOutcome::Older);
        }
        self.cache
            .keep(wanted, kept)
            .map(|()| ImportOutcome::Kept)
            .map_err(|error| CollateralError::Folder {
                path: self.cache.folder().to_owned(),
                reason: error.to_string(),
            })
    }
}

/// A fetch that is under way. Gone, others may start one, however it ended.
struct UnderWay {
    shared: Arc<Shared>,
    wanted: Wanted,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.shared.flights).remove(&self.wanted);
    }
}

/// One piece in a folder.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Listed {
    /// What it is.
    pub wanted: Wanted,
    /// Its place in the folder.
    pub path: String,
    /// When it was fetched, in seconds since 1970.
    pub fetched_at: u64,
    /// When its maker will have published another, as it says itself.
    pub next_update: Option<u64>,
    /// When it is fetched anew.
    pub due: u64,
    /// Until when it is used if that fails.
    pub usable_until: u64,
    /// Whether it is used now.
    pub is_usable: bool,
    /// Where it came from.
    pub source: String,
    /// The length of its body.
    pub bytes: usize,
}

/// What became of one piece that was to be taken over.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Imported {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub wanted: Wanted,
    /// What became of it.
    pub outcome: ImportOutcome,
}

/// What became of one piece.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ImportOutcome {
    /// It is kept now.
    Kept,
    /// What was here is as new, or newer.
    Older,
    /// It is not what its name says.
    Refused(String),
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counts {
    /// Answers that were fetched.
    pub fetched: u64,
    /// Fetches that failed.
    pub failed: u64,
    /// Old ones that were given because a fetch failed.
    pub stale: u64,
    /// Things that were not asked for, because too many new ones were.
    pub refused: u64,
}

#[derive(Default)]
struct Counters {
    fetched: AtomicU64,
    failed: AtomicU64,
    stale: AtomicU64,
    refused: AtomicU64,
}

/// Why there is no collateral.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CollateralError {
    /// The service has no such thing.
    #[error("{service} does not know {wanted} (status {status})")]
    NotKnown {
        /// What was asked for.
        wanted: String,
        /// Who was asked.
        service: String,
        /// The answer's status.
        status: u16,
    },
    /// The service failed before, or asked for it, and is left alone.
    #[error("{wanted} cannot be fetched now: {service} is left alone; try again in {seconds} s")]
    LeftAlone {
        /// What is needed.
        wanted: String,
        /// Who has it.
        service: String,
        /// For how long still.
        seconds: u64,
    },
    /// The service does not answer, or with a failure.
    #[error("{wanted} cannot be fetched: {service}: {reason}")]
    Unavailable {
        /// What is needed.
        wanted: String,
        /// Who has it.
        service: String,
        /// What happened.
        reason: String,
    },
    /// The service answered with something else.
    #[error("{service} answered with something that is not {wanted}: {reason}")]
    Unfit {
        /// What was asked for.
        wanted: String,
        /// Who was asked.
        service: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// It is not in the folder, or too old there, and no service is asked for it.
    #[error(
        "{wanted} is not in the collateral folder, or too old there ({path}), and no service is asked for it: fetch it \
         where there is a network with `strongroom broker collateral fetch`, and bring it in with \
         `strongroom broker collateral import`"
    )]
    Absent {
        /// What is needed.
        wanted: String,
        /// Its place.
        path: PathBuf,
    },
    /// Too many new things were asked for in this minute.
    #[error(
        "{wanted} is not fetched now: too many machines are new this minute; try again in {seconds} s"
    )]
    Busy {
        /// What is needed.
        wanted: String,
        /// When there is room.
        seconds: u64,
    },
    /// The evidence's chain ends in a root that is nobody's here.
    #[error("nobody here has collateral for the root {root:?}, in which the evidence's chain ends")]
    UnknownRoot {
        /// The root.
        root: RootId,
    },
    /// Nothing of this form exists.
    #[error("{wanted} cannot exist: no service has anything of that name")]
    Implausible {
        /// What was asked for.
        wanted: String,
    },
    /// The time for one attestation was over.
    #[error("{wanted} did not come within {seconds} s; try again")]
    Late {
        /// What is needed.
        wanted: String,
        /// How long was waited.
        seconds: u64,
    },
    /// One evidence asks for too much.
    #[error(
        "the evidence asks for {actual} pieces of collateral, at most {MAX_WANTED} are fetched"
    )]
    TooMany {
        /// How many.
        actual: usize,
    },
    /// The folder cannot be written.
    #[error("nothing can be written in the collateral folder {path}: {reason}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A task here panicked.
    #[error("fetching collateral failed within the broker; its log says how")]
    Internal,
}

impl CollateralError {
    /// Whether the same may be there a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::LeftAlone { .. }
            | Self::Unavailable { .. }
            | Self::Unfit { .. }
            | Self::Busy { .. }
            | Self::Late { .. }
            | Self::Internal => true,
            Self::NotKnown { .. }
            | Self::Absent { .. }
            | Self::UnknownRoot { .. }
            | Self::Implausible { .. }
            | Self::TooMany { .. }
            | Self::Folder { .. } => false,
        }
    }
}

/// Checks the addresses of the services.
pub(crate) fn check_urls(config: &CollateralConfig) -> Result<(), String> {
    for (key, text) in [
        ("collateral.kds_url", &config.kds_url),
        ("collateral.intel_url", &config.intel_url),
        ("collateral.intel_root_crl_url", &config.intel_root_crl_url),
        ("collateral.rim_url", &config.rim_url),
    ] {
        check_url(key, text, config.insecure_http, "collateral.insecure_http")?;
    }
    Ok(())
}

/// Whether the evidence chooses it from very many; the others are few.
fn depends_on_the_guest(wanted: &Wanted) -> bool {
    matches!(
        wanted,
        Wanted::AmdVcek { .. } | Wanted::IntelTcbInfo { .. } | Wanted::NvidiaRim { .. }
    )
}

/// The root under which Intel's collateral stands.
fn root_of(wanted: &Wanted) -> Option<RootId> {
    match wanted {
        Wanted::IntelTcbInfo { root, .. }
        | Wanted::IntelQeIdentity { root, .. }
        | Wanted::IntelPckCrl { root, .. }
        | Wanted::IntelRootCrl { root } => Some(*root),
        _ => None,
    }
}

/// The longest body of each kind that is kept.
fn body_limit(wanted: &Wanted) -> usize {
    match wanted {
        Wanted::AmdVcek { .. } => MAX_CERTIFICATE,
        Wanted::AmdCrl { .. } | Wanted::IntelPckCrl { .. } | Wanted::IntelRootCrl { .. } => MAX_CRL,
        Wanted::IntelTcbInfo { .. } | Wanted::IntelQeIdentity { .. } => MAX_JSON,
        _ => MAX_RIM_ANSWER,
    }
}

/// What an answer holds, if it has the right form.
fn kept(wanted: &Wanted, answer: Answer, ask: &Ask, now: u64) -> Result<Kept, String> {
    let body = match wanted {
        Wanted::IntelPckCrl { .. } | Wanted::IntelRootCrl { .. } => pcs::crl(answer.body),
        Wanted::NvidiaRim { .. } => rim::manifest(&answer.body)?,
        _ => answer.body,
    };
    let issuer_chain = match answer.chain {
        Some(text) if wanted.chain_path().is_some() => pcs::chain(&text)?,
        _ => String::new(),
    };
    let item = CollateralItem { body, issuer_chain };
    let next_update = item.check_form(wanted).map_err(|e| e.to_string())?;
    // The address without what was asked for, which the place says.
    let source = ask.url.split('?').next().unwrap_or_default();
    let host = source.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    let note = Note {
        next_update,
        max_age: answer.max_age,
        ..Note::new(&item, &host, now)
    };
    Ok(Kept {
        item: Arc::new(item),
        note,
    })
}

async fn landed(flight: &mut Flight, wanted: &Wanted) -> Landed {
    let landed = flight.wait_for(Option::is_some).await;
    match landed.ok().and_then(|landed| landed.clone()) {
        Some(landed) => landed,
        None => {
            tracing::error!(%wanted, "fetching collateral panicked");
            Err(CollateralError::Internal)
        }
    }
}

/// The collateral folder in which a file lies at a place, and what it is.
fn place_of(file: &Path, roots: &[RootId]) -> Option<(PathBuf, Wanted)> {
    file.ancestors().skip(1).take(5).find_map(|folder| {
        let path = file.strip_prefix(folder).ok()?.to_str()?;
        Some((folder.to_owned(), Wanted::from_path(path, roots)?))
    })
}

/// The decoders here, for fuzzing: what a service answers, and what lies in a folder.
pub(crate) fn decode(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let path = Wanted::from_path(&text, &[RootId::INTEL]);
    if let Some(wanted) = &path {
        assert_eq!(wanted.path(), text, "a place has one spelling");
    }
    let item = CollateralItem {
        body: pcs::crl(bytes.to_vec()),
        issuer_chain: pcs::chain(&text).unwrap_or_default(),
    };
    let root = RootId::INTEL;
    let all = [
        Wanted::AmdCrl {
            product: SnpProduct::Milan,
        },
        Wanted::IntelTcbInfo {
            tdx: true,
            fmspc: [0; 6],
            root,
        },
        Wanted::IntelQeIdentity { tdx: true, root },
        Wanted::IntelRootCrl { root },
        Wanted::NvidiaRim {
            id: text.into_owned(),
        },
    ];
    let fits = all.iter().any(|wanted| item.check_form(wanted).is_ok());
    let rim = rim::manifest(bytes).is_ok();
    fits || rim || path.is_some() || cache::parse_note(bytes).is_ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each use leaves what is within whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Requests at once to one service.
const AT_ONCE: usize = 8;
/// A CPU's and eight GPUs' have fewer than thirty.
const MAX_WANTED: usize = 64;
const MAX_CERTIFICATE: usize = 16 * 1024;
const MAX_CRL: usize = 1024 * 1024;
const MAX_JSON: usize = 256 * 1024;
const MAX_CHAIN: usize = 16 * 1024;
const MAX_RIM_ANSWER: usize = 2 * 1024 * 1024;
const NOT_KNOWN_SECONDS: u64 = 3_600;
const UNFIT_SECONDS: u64 = 60;
/// A VCEK and a RIM never change; they are fetched anew in case theirs was replaced.
const UNCHANGING_SECONDS: u64 = 30 * 24 * 3_600;
const SHORTEST_LIFE: u64 = 300;
/// How far this machine's clock may have been set back.
const AHEAD: u64 = 3_600;
