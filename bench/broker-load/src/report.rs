//! What a person reads of a run.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::account::Memory;
use crate::load::Phase;
use crate::{Evidence, Transport};

/// One broker under load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) evidence: Evidence,
    pub(crate) transport: Transport,
    pub(crate) cores: usize,
    pub(crate) clients: u16,
    /// From the start of the process to the line that says it is ready, on a fresh folder.
    pub(crate) start_ms: Vec<f64>,
    /// The same, with everything that this run recorded.
    pub(crate) restart_ms: f64,
    pub(crate) phases: Vec<Phase>,
    pub(crate) memory: Vec<(String, Memory)>,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_bytes_stopped: u64,
}

impl Run {
    pub(crate) fn new(
        evidence: Evidence,
        transport: Transport,
        cores: usize,
        clients: u16,
    ) -> Self {
        Self {
            evidence,
            transport,
            cores,
            clients,
            start_ms: Vec::new(),
            restart_ms: 0.0,
            phases: Vec::new(),
            memory: Vec::new(),
            disk_bytes: 0,
            disk_bytes_stopped: 0,
        }
    }

    pub(crate) fn note_memory(&mut self, after: &str, memory: Memory) {
        self.memory.push((after.to_owned(), memory));
    }
}

impl Display for Run {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (evidence, transport) = (self.evidence, self.transport);
        let (cores, clients) = (self.cores, self.clients);
        writeln!(
            f,
            "\n{evidence:?} evidence over {transport:?}, broker on {cores} core(s), {clients} guests"
        )?;
        let mut starts = self.start_ms.clone();
        starts.sort_by(f64::total_cmp);
        let middle = starts.get(starts.len() / 2).copied().unwrap_or_default();
        writeln!(
            f,
            "start to ready: {middle:.0} ms on a fresh folder, {:.0} ms with this run's record",
            self.restart_ms
        )?;
        writeln!(
            f,
            "{:<18} {:>8} {:>8} {:>9} {:>13} {:>8} {:>8} {:>8} {:>9} {:>8}",
            "phase",
            "done",
            "per s",
            "CPU ms",
            "user + system",
            "p50 ms",
            "p99 ms",
            "max ms",
            "switches",
            "flushes"
        )?;
        for phase in &self.phases {
            let each = |seconds: f64| seconds * 1e3 / phase.done.max(1) as f64;
            let split = format!(
                "{:.3} + {:.3}",
                each(phase.server.user_seconds),
                each(phase.server.system_seconds)
            );
            let [p50, p99, max] = phase.latency.first().map_or([0.0; 3], |latency| {
                [latency.p50_ms, latency.p99_ms, latency.max_ms]
            });
            let flushes = phase
                .flushes_each
                .map_or_else(String::new, |flushes| format!("{flushes:.2}"));
            writeln!(
                f,
                "{:<18} {:>8} {:>8.0} {:>9.3} {:>13} {:>8.2} {:>8.2} {:>8.1} {:>9.1} {:>8}",
                phase.name,
                phase.done,
                phase.per_second,
                phase.server_cpu_ms_each,
                split,
                p50,
                p99,
                max,
                phase.server_switches_each,
                flushes
            )?;
        }
        for phase in &self.phases {
            let parts: Vec<String> = phase
                .latency
                .iter()
                .skip(1)
                .map(|part| format!("{} {:.2} / {:.2}", part.of, part.p50_ms, part.p99_ms))
                .collect();
            if !parts.is_empty() {
                writeln!(f, "{}: p50 / p99 ms of {}", phase.name, parts.join(", "))?;
            }
        }
        for (after, memory) in &self.memory {
            writeln!(
                f,
                "RSS after {after}: {:.1} MB, of it {:.1} MB not from files; peak {:.1} MB",
                megabytes(memory.resident_bytes),
                megabytes(memory.anonymous_bytes),
                megabytes(memory.peak_bytes)
            )?;
        }
        let opened: u64 = self.phases.iter().map(|phase| phase.opened).sum();
        write!(
            f,
            "on disk: {:.1} MB, {:.1} MB when stopped; {opened} answers were decrypted and were right",
            megabytes(self.disk_bytes),
            megabytes(self.disk_bytes_stopped)
        )
    }
}

/// Prints for a person, unless a program reads.
pub(crate) fn say(json: bool, what: &impl Display) {
    if !json {
        println!("{what}");
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
