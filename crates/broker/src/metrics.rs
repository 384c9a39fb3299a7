//! What a broker counts, in the text form that Prometheus reads (`OpenMetrics` 1.0).
//!
//! Every label's values come from a small set that the code holds: a route's template, a platform's name, a word for an
//! outcome. No path, no name, no event and nothing that a client chose stands in a label.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use axum::http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use rustix::time::{ClockId, clock_gettime};
use strongroom_wire::tee::Tee;

use crate::Inner;
use crate::telemetry;

/// The counters of one broker.
pub(crate) struct Metrics {
    registry: Registry,
    began: SystemTime,
    started: Instant,
    /// Until when policies count as slow, in seconds since the start.
    slow_until: AtomicU64,
    requests: Family<Request, Counter>,
    request_seconds: Family<Route, Histogram, fn() -> Histogram>,
    attestations: Family<Attestation, Counter>,
    releases: Family<Named, Counter>,
    denials: Family<Denial, Counter>,
    evaluation_seconds: Family<Named, Histogram, fn() -> Histogram>,
    commit_seconds: Family<Named, Histogram, fn() -> Histogram>,
    audit_entries: Counter,
    turned_away: Family<Named, Counter>,
    reloads: Family<Named, Counter>,
    spans: OnceLock<Arc<telemetry::Counts>>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Request {
    route: Arc<str>,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Route {
    route: Arc<str>,
    method: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Attestation {
    tee: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Denial {
    action: &'static str,
    class: &'static str,
}

type Named = [(&'static str, &'static str); 1];

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            began: SystemTime::now(),
            started: Instant::now(),
            slow_until: AtomicU64::new(0),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(histogram),
            attestations: Family::default(),
            releases: Family::default(),
            denials: Family::default(),
            evaluation_seconds: Family::new_with_constructor(histogram),
            commit_seconds: Family::new_with_constructor(histogram),
            audit_entries: Counter::default(),
            turned_away: Family::default(),
            reloads: Family::default(),
            spans: OnceLock::new(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register(
            "strongroom_build",
            "The version of this broker",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "strongroom_requests",
            "Requests that were answered, by the template of their route",
            self.requests.clone(),
        );
        registry.register(
            "strongroom_request_seconds",
            "Time from a request's head to its answer",
            self.request_seconds.clone(),
        );
        registry.register(
            "strongroom_attestations",
            "Attestations by platform and outcome",
            self.attestations.clone(),
        );
        registry.register(
            "strongroom_releases",
            "Requests for resources by outcome",
            self.releases.clone(),
        );
        registry.register(
            "strongroom_denials",
            "Refused attestations and releases by the kind of rule that refused",
            self.denials.clone(),
        );
        registry.register(
            "strongroom_policy_seconds",
            "Time that evaluations of policies took",
            self.evaluation_seconds.clone(),
        );
        registry.register(
            "strongroom_store_commit_seconds",
            "Time until a change and its audit entry were durable",
            self.commit_seconds.clone(),
        );
        registry.register(
            "strongroom_audit_entries",
            "Audit entries written since the start",
            self.audit_entries.clone(),
        );
        registry.register(
            "strongroom_turned_away",
            "Clients turned away by a limit",
            self.turned_away.clone(),
        );
        registry.register(
            "strongroom_reloads",
            "Reloads of the configuration or the certificate",
            self.reloads.clone(),
        );
        self
    }

    /// A request was answered.
    pub(crate) fn request(&self, route: &Arc<str>, method: &Method, status: u16, took: Duration) {
        let method = method_name(method);
        let route = || Arc::clone(route);
        self.requests
            .get_or_create(&Request {
                route: route(),
                method,
                status,
            })
            .inc();
        self.request_seconds
            .get_or_create(&Route {
                route: route(),
                method,
            })
            .observe(took.as_secs_f64());
    }

    /// Evidence earned a token.
    pub(crate) fn attested(&self, tee: Option<Tee>) {
        self.attestation(tee, "attested");
    }

    /// Evidence earned none. `class` is a word of the code's own.
    pub(crate) fn attestation_refused(&self, tee: Option<Tee>, class: &'static str) {
        self.attestation(tee, "refused");
        self.denied("attest", class);
    }

    fn attestation(&self, tee: Option<Tee>, outcome: &'static str) {
        let tee = tee.map_or("unknown", Tee::as_str);
        self.attestations
            .get_or_create(&Attestation { tee, outcome })
            .inc();
    }

    /// A guest asked for a resource. `outcome` is a word of the code's own.
    pub(crate) fn release(&self, outcome: &'static str) {
        self.releases.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Somebody was refused something. Both are words of the code's own.
    pub(crate) fn denied(&self, action: &'static str, class: &'static str) {
        self.denials.get_or_create(&Denial { action, class }).inc();
    }

    /// Evaluates a policy, and the time that takes.
    pub(crate) fn evaluated<T>(&self, policy: &'static str, evaluate: impl FnOnce() -> T) -> T {
        let (began, busy) = (Instant::now(), on_this_core());
        let evaluated = evaluate();
        let (took, busy) = (began.elapsed(), on_this_core().saturating_sub(busy));
        self.evaluation_seconds
            .get_or_create(&[("policy", policy)])
            .observe(took.as_secs_f64());
        if busy > SLOW {
            let until = self.clock().saturating_add(SLOW_FOR.as_secs());
            self.slow_until.store(until, Ordering::Relaxed);
        }
        evaluated
    }

    /// Whether an evaluation took long in the last minute: the next one may as well.
    pub(crate) fn evaluates_slowly(&self) -> bool {
        self.clock() < self.slow_until.load(Ordering::Relaxed)
    }

    /// Seconds since the start.
    fn clock(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// A change and its audit entry became durable, or could not.
    pub(crate) fn committed(&self, took: Duration, done: bool) {
        let outcome = match done {
            true => {
                self.audit_entries.inc();
                "done"
            }
            false => "failed",
        };
        self.commit_seconds
            .get_or_create(&[("outcome", outcome)])
            .observe(took.as_secs_f64());
    }

    /// A limit turned somebody away.
    pub(crate) fn turned_away(&self, limit: &'static str) {
        self.turned_away.get_or_create(&[("limit", limit)]).inc();
    }

    /// Something was read again, or could not be.
    pub(crate) fn reloaded(&self, outcome: &'static str) {
        self.reloads.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Has the counts of exported spans shown as well.
    pub(crate) fn show_spans(&self, counts: Arc<telemetry::Counts>) {
        // There is one exporter.
        self.spans.set(counts).ok();
    }

    /// The whole text.
    pub(crate) fn render(&self, broker: &Inner) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &self.sampled(broker))?;
        self.process(&mut text)?;
        encode_eof(&mut text)?;
        Ok(text)
    }

    /// What is counted elsewhere, as it is now.
    fn sampled(&self, broker: &Inner) -> Registry {
        let mut registry = Registry::default();
        let sessions = Family::<Named, Gauge>::default();
        let (nonces, tokens) = broker.sessions().counts();
        for (kept, count) in [("nonce", nonces), ("token", tokens)] {
            sessions.get_or_create(&[("kept", kept)]).set(as_i64(count));
        }
        registry.register(
            "strongroom_sessions",
            "Used nonces and attested sessions' tokens that are kept",
            sessions,
        );
        let connections: Gauge = Gauge::default();
        connections.set(as_i64(broker.connections.connection_count()));
        registry.register("strongroom_connections", "Open connections", connections);
        let attesting: Gauge = Gauge::default();
        let free = broker.attesting.available_permits();
        let most = broker.config.limits.attestations_in_flight;
        attesting.set(as_i64(most.saturating_sub(free)));
        registry.register(
            "strongroom_attestations_in_flight",
            "Attestations under way",
            attesting,
        );
        if let Some(not_after) = broker.live().certificate_ends {
            let ends: Gauge = Gauge::default();
            ends.set(i64::try_from(not_after).unwrap_or(i64::MAX));
            registry.register(
                "strongroom_tls_certificate_not_after_seconds",
                "When the server's certificate ends, in seconds since 1970",
                ends,
            );
        }
        let counts = broker.live().collaterals.counts();
        let collateral = Family::<Named, Counter>::default();
        for (event, count) in [
            ("fetched", counts.fetched),
            ("failed", counts.failed),
            ("stale", counts.stale),
            ("refused", counts.refused),
        ] {
            collateral.get_or_create(&[("event", event)]).inc_by(count);
        }
        registry.register(
            "strongroom_collateral",
            "What the platforms' makers were asked for: answers fetched, fetches failed, old ones given instead, \
             requests refused",
            collateral,
        );
        if let Some(counts) = self.spans.get() {
            let spans = Family::<Named, Counter>::default();
            for (outcome, count) in [("exported", &counts.exported), ("dropped", &counts.dropped)] {
                let count = count.load(Ordering::Relaxed);
                spans.get_or_create(&[("outcome", outcome)]).inc_by(count);
            }
            registry.register("strongroom_spans", "Spans for the collector", spans);
        }
        registry
    }

    /// The names that every exporter has for its own process; what cannot be read is left out.
    fn process(&self, text: &mut String) -> std::fmt::Result {
        let mut put = |name: &str, kind: &str, help: &str, value: Option<f64>| {
            let Some(value) = value else { return Ok(()) };
            let family = name.trim_end_matches("_total");
            writeln!(text, "# HELP {family} {help}.")?;
            writeln!(text, "# TYPE {family} {kind}")?;
            writeln!(text, "{name} {value}")
        };
        let began = self.began.duration_since(SystemTime::UNIX_EPOCH).ok();
        put(
            "process_start_time_seconds",
            "gauge",
            "When this broker was opened",
            began.map(|began| began.as_secs_f64()),
        )?;
        put(
            "process_cpu_seconds_total",
            "counter",
            "CPU time of this process",
            Some(cpu_seconds()),
        )?;
        put(
            "process_resident_memory_bytes",
            "gauge",
            "Memory of this process",
            resident(),
        )?;
        put("process_open_fds", "gauge", "Open files", open_files())?;
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        put(
            "process_max_fds",
            "gauge",
            "Files that may be open",
            most.map(as_f64),
        )
    }
}

/// Clients may send any method.
pub(crate) fn method_name(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    let known = KNOWN.into_iter().find(|known| *known == method.as_str());
    known.unwrap_or("other")
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

fn cpu_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(spent.tv_sec).unwrap_or(0),
        u32::try_from(spent.tv_nsec).unwrap_or(0),
    )
    .as_secs_f64()
}

fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(as_f64(kilobytes.saturating_mul(1_024)))
}

fn open_files() -> Option<f64> {
    // The folder's own is among them.
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(as_f64(u64::try_from(open.saturating_sub(1)).ok()?))
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(number: u64) -> f64 {
    number as f64
}

fn as_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// From 0.1 ms, which a commit to memory takes, to 10 s, by which a request has been given up.
/// How long this thread has had a core: on a busy machine, what takes long need not be slow.
fn on_this_core() -> Duration {
    let busy = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(busy).unwrap_or_default()
}

/// An evaluation that takes longer is one that a thread of its own is worth.
const SLOW: Duration = Duration::from_millis(5);
const SLOW_FOR: Duration = Duration::from_secs(60);
const BUCKETS: [f64; 14] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluation_that_only_waits_is_slow_and_one_that_works_is_not() {
        let metrics = Metrics::new();
        metrics.evaluated("release", || std::thread::sleep(4 * SLOW));
        assert!(!metrics.evaluates_slowly());
        metrics.evaluated("release", || {
            let began = on_this_core();
            while on_this_core() - began < 2 * SLOW {
                std::hint::spin_loop();
            }
        });
        assert!(metrics.evaluates_slowly());
    }
}
