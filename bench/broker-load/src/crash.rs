//! Kills the broker under load at random moments and checks what it had said was done.
//!
//! Acknowledged is what was answered with 200: a resource stored, a policy set, a token issued, a resource released. After
//! each start all of it must be there; what was sent and not answered may be there, whole.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use serde::Serialize;
use strongroom_client::admin::AdminClient;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::guest::{Guest, Show};
use crate::record::{entries_after, verify};
use crate::server::{Broker, Server};
use crate::{Args, Evidence, Transport, furnish, runtime};

/// What was checked, and held.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Kept {
    pub(crate) seed: u64,
    pub(crate) kills: u32,
    /// Resources that were answered with 200, each read back.
    pub(crate) stored: u64,
    /// Policies that were answered with 200.
    pub(crate) policies: u64,
    /// Tokens that were issued, each found in the record.
    pub(crate) tokens: u64,
    /// Resources that were released, each release found in the record.
    pub(crate) released: u64,
    /// Resources whose answer the kill cut off, and that were stored all the same.
    pub(crate) stored_unanswered: u64,
    /// Resources whose answer the kill cut off, and that are not there.
    pub(crate) lost_unanswered: u64,
    /// Entries of the record, each checked.
    pub(crate) entries: u64,
    /// The longest start after a kill.
    pub(crate) longest_start_ms: f64,
}

impl Display for Kept {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\nkilled {} times under load (seed {}); longest start after it {:.0} ms\n\
             acknowledged and there: {} resources stored, {} policies set, {} tokens issued, {} resources released\n\
             cut off by a kill: {} resources stored whole, {} not stored\n\
             the record holds over its {} entries",
            self.kills,
            self.seed,
            self.longest_start_ms,
            self.stored,
            self.policies,
            self.tokens,
            self.released,
            self.stored_unanswered,
            self.lost_unanswered,
            self.entries
        )
    }
}

/// Runs as many rounds of start, load, kill, start, check.
pub(crate) fn run(args: &Args, times: u32, seed: u64) -> anyhow::Result<Kept> {
    let home = args.home()?;
    let evidence = args.evidence.first().copied().unwrap_or(Evidence::Sample);
    let transport = args.transport.first().copied().unwrap_or(Transport::Http);
    let cores = usize::from(args.cores.first().copied().unwrap_or(1));
    let broker = Broker::init(&args.program, home.path(), evidence, transport, cores)?;
    let runtime = runtime(cores)?;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut server = broker.start()?;
    furnish(&broker, &server, &runtime)?;
    let policy = broker.admin(&server)?;
    let policy = runtime.block_on(policy.policy(POLICY, None))?;
    let policy = policy.text.context("guests are let in by no policy")?;
    let mut round = Round {
        broker: &broker,
        runtime: &runtime,
        policy,
        guests: (0..GUESTS)
            .map(|_| Guest::new(broker.target(&server)?, broker.machine()?))
            .collect::<anyhow::Result<_>>()?,
        writers: (0..WRITERS).map(Writer::new).collect(),
        policies: Place::default(),
        seen: 0,
        kept: Kept {
            seed,
            ..Kept::default()
        },
    };
    for number in 0..times {
        let moment = Duration::from_micros(random.next_u64() % LONGEST_ROUND_US);
        let done = round.load(server, moment, random.next_u64())?;
        round.kept.kills += 1;
        server = broker
            .start()
            .with_context(|| format!("after kill {}", number + 1))?;
        let took = server.until_ready.as_secs_f64() * 1e3;
        round.kept.longest_start_ms = round.kept.longest_start_ms.max(took);
        round
            .check(&server, &done)
            .with_context(|| format!("after kill {} (seed {seed})", number + 1))?;
    }
    round.check_everything(&server)?;
    server.stop()?;
    Ok(round.kept)
}

struct Round<'a> {
    broker: &'a Broker,
    runtime: &'a Runtime,
    /// The text that lets guests read; each policy that is set is this with a comment.
    policy: String,
    guests: Vec<Guest>,
    writers: Vec<Writer>,
    policies: Place,
    /// The number of the newest entry that was checked.
    seen: u64,
    kept: Kept,
}

/// What was acknowledged in one round, and what writers had under way.
#[derive(Default)]
struct Done {
    tokens: Vec<String>,
    /// By token and resource.
    released: HashMap<(String, String), u64>,
    /// By resource.
    stored: HashMap<String, u64>,
}

impl Round<'_> {
    /// Loads the server, kills it at the moment given, and gives what it had acknowledged by then.
    fn load(&mut self, server: Server, moment: Duration, seed: u64) -> anyhow::Result<Done> {
        let killed = Arc::new(AtomicBool::new(false));
        let target = self.broker.target(&server)?;
        let mut guests = JoinSet::new();
        let mut writers = JoinSet::new();
        let _on_runtime = self.runtime.enter();
        for mut guest in self.guests.drain(..) {
            guest.move_to(target.clone());
            guests.spawn(attest_and_read(guest, Arc::clone(&killed)));
        }
        for (number, writer) in (0..).zip(self.writers.drain(..)) {
            let admin = self.broker.admin(&server)?;
            writers.spawn(writer.write(admin, Arc::clone(&killed), seed.wrapping_add(number)));
        }
        let admin = self.broker.admin(&server)?;
        let place = std::mem::take(&mut self.policies);
        let policies = set_policies(admin, self.policy.clone(), place, Arc::clone(&killed), seed);
        let policies = self.runtime.spawn(policies);
        std::thread::sleep(moment);
        killed.store(true, Ordering::SeqCst);
        server.kill()?;
        let mut done = Done::default();
        self.runtime.block_on(async {
            while let Some(ended) = guests.join_next().await {
                let (guest, tokens, released) = ended??;
                self.guests.push(guest);
                done.tokens.extend(tokens);
                for release in released {
                    *done.released.entry(release).or_default() += 1;
                }
            }
            while let Some(ended) = writers.join_next().await {
                let (writer, stored) = ended??;
                self.writers.push(writer);
                for path in stored {
                    *done.stored.entry(path).or_default() += 1;
                }
            }
            let (place, set) = policies.await??;
            self.policies = place;
            self.kept.policies += set;
            anyhow::Ok(())
        })?;
        Ok(done)
    }

    /// Checks that the record has what one round acknowledged, and that the resources of that round can be read.
    fn check(&mut self, server: &Server, done: &Done) -> anyhow::Result<()> {
        verify(self.broker, server)?;
        let entries = entries_after(self.broker, server, self.seen)?;
        let mut tokens = HashSet::new();
        let mut released: HashMap<(String, String), u64> = HashMap::new();
        let mut stored: HashMap<&str, (u64, Option<u64>)> = HashMap::new();
        for entry in &entries {
            self.seen = entry.seq;
            self.kept.entries += 1;
            let resource = entry.resource.as_deref().unwrap_or_default();
            let token = entry.token.clone().unwrap_or_default();
            if entry.is("attestation", "attest") {
                tokens.insert(token);
            } else if entry.is("release", "get resource") {
                *released.entry((token, resource.to_owned())).or_default() += 1;
            } else if entry.is("admin", "put resource") {
                let (count, version) = stored.entry(resource).or_default();
                *count += 1;
                *version = entry.version.max(*version);
            }
        }
        for token in &done.tokens {
            ensure!(
                tokens.contains(token),
                "token {token} was issued and is not recorded"
            );
        }
        for (release, count) in &done.released {
            let recorded = released.get(release).copied().unwrap_or_default();
            ensure!(
                recorded >= *count,
                "{} was released {count} times to token {} and recorded {recorded} times",
                release.1,
                release.0
            );
        }
        for (path, count) in &done.stored {
            let recorded = stored.get(path.as_str()).map_or(0, |(count, _)| *count);
            ensure!(
                recorded >= *count,
                "{path} was stored {count} times and recorded {recorded} times"
            );
        }
        let versions = stored
            .iter()
            .filter_map(|(path, (_, version))| Some(((*path).to_owned(), (*version)?)))
            .collect();
        self.kept.tokens += done.tokens.len() as u64;
        self.kept.released += done.released.values().sum::<u64>();
        self.kept.stored += done.stored.values().sum::<u64>();
        self.check_policy(server)?;
        self.check_places(server, &versions, false)
    }

    fn check_policy(&mut self, server: &Server) -> anyhow::Result<()> {
        let admin = self.broker.admin(server)?;
        let text = self.runtime.block_on(admin.policy(POLICY, None))?;
        let text = text.text.context("the release policy is gone")?;
        let number = match text.rsplit_once(POLICY_MARK) {
            None => None,
            Some((_, number)) => Some(number.trim().parse()?),
        };
        self.policies
            .settle(number)
            .map(drop)
            .context("the release policy")
    }

    /// Reads resources back: those that may have changed since the last check, or all.
    fn check_places(
        &mut self,
        server: &Server,
        versions: &BTreeMap<String, u64>,
        all: bool,
    ) -> anyhow::Result<()> {
        let mut reader = Guest::new(self.broker.target(server)?, self.broker.machine()?)?;
        let kept = &mut self.kept;
        let admin = self.broker.admin(server)?;
        let writers = &mut self.writers;
        self.runtime.block_on(async {
            reader.attest().await?;
            let listed: BTreeMap<String, u64> = admin
                .list_resources()
                .await?
                .into_iter()
                .filter_map(|summary| Some((summary.path.to_string(), summary.version?)))
                .collect();
            for (path, version) in versions {
                let there = listed.get(path);
                ensure!(
                    there == Some(version),
                    "{path} is listed as version {there:?} and recorded as {version}"
                );
            }
            for writer in writers.iter_mut() {
                for (path, place) in &mut writer.places {
                    if !all && !place.touched {
                        continue;
                    }
                    let url = format!("/kbs/v0/resource/{path}");
                    let answer = reader.read(&url, Show::Bearer).await?;
                    let found = match answer.status.as_u16() {
                        404 => None,
                        _ => Some(content_number(&reader.open(&answer.ok()?.body)?)?),
                    };
                    let cut_off = !place.under_way.is_empty();
                    let came = place.settle(found).with_context(|| path.clone())?;
                    match (cut_off, came) {
                        (true, true) => kept.stored_unanswered += 1,
                        (true, false) => kept.lost_unanswered += 1,
                        _ => {}
                    }
                }
            }
            anyhow::Ok(())
        })
    }

    /// Once more over all that was ever acknowledged, and the whole record.
    fn check_everything(&mut self, server: &Server) -> anyhow::Result<()> {
        self.check_places(server, &BTreeMap::new(), true)?;
        let entries = entries_after(self.broker, server, 0)?;
        let last = entries.last().map_or(0, |entry| entry.seq);
        ensure!(
            entries.len() as u64 == last,
            "the record has {} entries, and its last one is number {last}",
            entries.len()
        );
        self.kept.entries = last;
        Ok(())
    }
}

/// What one name must hold: the content acknowledged last, or one that was under way when the broker was killed.
#[derive(Clone, Debug, Default)]
struct Place {
    acknowledged: Option<u64>,
    under_way: Vec<u64>,
    /// Since the last check.
    touched: bool,
}

impl Place {
    fn begin(&mut self, number: u64) {
        self.touched = true;
        self.under_way.push(number);
    }

    fn acknowledge(&mut self, number: u64) {
        self.acknowledged = Some(number);
        self.under_way.clear();
    }

    /// Compares with what was found. Says whether what was found is something that was under way.
    fn settle(&mut self, found: Option<u64>) -> anyhow::Result<bool> {
        let came = found.is_some_and(|found| self.under_way.contains(&found));
        if !came && found != self.acknowledged {
            bail!(
                "holds {found:?}, and was acknowledged as {:?}",
                self.acknowledged
            );
        }
        self.acknowledged = found;
        self.under_way.clear();
        self.touched = false;
        Ok(came)
    }
}

/// An administrator who stores resources: new ones, and one again and again.
struct Writer {
    name: u64,
    next: u64,
    places: BTreeMap<String, Place>,
}

impl Writer {
    fn new(name: u64) -> Self {
        Self {
            name,
            next: 0,
            places: BTreeMap::new(),
        }
    }

    /// Gives the path of each resource that was acknowledged, once for each time.
    async fn write(
        mut self,
        admin: AdminClient,
        killed: Arc<AtomicBool>,
        seed: u64,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut stored = Vec::new();
        loop {
            self.next += 1;
            let path = match self.next % 2 {
                0 => format!("default/writer-{}/again", self.name),
                _ => format!("default/writer-{}/key-{}", self.name, self.next),
            };
            let number = random.next_u64();
            let place = self.places.entry(path.clone()).or_default();
            place.begin(number);
            let put = admin.put_resource(&path.parse()?, &content(number)).await;
            match put {
                Ok(()) => {
                    place.acknowledge(number);
                    stored.push(path);
                }
                Err(_) if killed.load(Ordering::SeqCst) => return Ok((self, stored)),
                Err(error) => return Err(error).context("storing, before the kill"),
            }
        }
    }
}

async fn set_policies(
    admin: AdminClient,
    text: String,
    mut place: Place,
    killed: Arc<AtomicBool>,
    seed: u64,
) -> anyhow::Result<(Place, u64)> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut set = 0;
    loop {
        let number = random.next_u64();
        place.begin(number);
        let policy = format!("{text}\n{POLICY_MARK}{number}\n");
        match admin.set_policy(POLICY, &policy).await {
            Ok(_) => {
                place.acknowledge(number);
                set += 1;
            }
            Err(_) if killed.load(Ordering::SeqCst) => return Ok((place, set)),
            Err(error) => return Err(error).context("setting a policy, before the kill"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

type Attested = (Guest, Vec<String>, Vec<(String, String)>);

/// Gives each token that was issued, and each release that was answered, by token and resource.
async fn attest_and_read(mut guest: Guest, killed: Arc<AtomicBool>) -> anyhow::Result<Attested> {
    let (mut tokens, mut released) = (Vec::new(), Vec::new());
    loop {
        let ended = async {
            guest.attest().await?;
            let token = guest.session().context("no session")?.token.clone();
            tokens.push(token.clone());
            for _ in 0..2 {
                guest.read(RESOURCE_URL, Show::Cookie).await?.ok()?;
                released.push((token.clone(), RESOURCE.to_owned()));
            }
            anyhow::Ok(())
        };
        match ended.await {
            Ok(()) => {}
            Err(_) if killed.load(Ordering::SeqCst) => return Ok((guest, tokens, released)),
            Err(error) => return Err(error).context("attesting, before the kill"),
        }
    }
}

/// The content that a number stands for: its own digits, and bytes that follow from it up to 32 KiB.
fn content(number: u64) -> Vec<u8> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(number);
    let length = match random.next_u64() % 4 {
        0 => 32 * 1024,
        _ => 64,
    };
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize_with(length, || random.next_u64().to_le_bytes()[0]);
    bytes
}

/// The number of a content that is whole.
fn content_number(found: &[u8]) -> anyhow::Result<u64> {
    let head = found.first_chunk().context("less than eight bytes")?;
    let number = u64::from_be_bytes(*head);
    ensure!(
        content(number) == found,
        "{} bytes were read that nobody wrote",
        found.len()
    );
    Ok(number)
}

const GUESTS: usize = 4;
const WRITERS: u64 = 3;
const LONGEST_ROUND_US: u64 = 300_000;
const RESOURCE: &str = "default/bench/key";
const RESOURCE_URL: &str = "/kbs/v0/resource/default/bench/key";
/// The one that `policy allow` sets for the pattern that guests are let in by.
const POLICY: &str = "resource-policy/default/*";
const POLICY_MARK: &str = "# revision ";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn content_that_is_half_written_counts_as_whole() {
        for number in 0..8 {
            let whole = content(number);
            assert_eq!(content_number(&whole).unwrap(), number);
            assert!(content_number(&whole[..whole.len() - 1]).is_err());
            let mut changed = whole.clone();
            *changed.last_mut().unwrap() ^= 1;
            assert!(content_number(&changed).is_err());
        }
    }

    #[test]
    fn lost_write_passes_for_one_that_was_cut_off() {
        let mut place = Place::default();
        place.begin(1);
        place.acknowledge(1);
        place.begin(2);
        assert!(place.clone().settle(None).is_err());
        assert!(place.clone().settle(Some(3)).is_err());
        assert!(!place.clone().settle(Some(1)).unwrap());
        assert!(place.settle(Some(2)).unwrap());
        assert!(place.settle(Some(1)).is_err());
    }
}
