//! `broker-load`: what a handshake costs a broker, and what a broker keeps when it is killed or its disk is full.
//!
//! `bench/README.md` says what is measured and how. `bench/broker` builds both programs and runs this one.

mod account;
mod connection;
mod crash;
mod disk;
mod guest;
mod load;
mod record;
mod report;
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use serde::Serialize;
use serde_json::json;
use strongroom_attester::development::snp;
use tokio::runtime::Runtime;

use account::{Memory, disk_bytes};
use guest::{Guest, Machine, Show};
use load::{Connections, Until, Wanted, Work, phase};
use report::Run;
use server::{Broker, Cores, Server, pinned};

/// Load a broker and say what it costs, or kill it and say what it kept.
///
/// Without --kill, --disk-full or --read-only: full handshakes and reads, for each combination of --evidence, --transport
/// and --cores.
#[derive(Parser)]
#[command(name = "broker-load")]
struct Args {
    /// The broker's program.
    #[arg(long, env = "STRONGROOM_BIN", value_name = "PROGRAM")]
    program: PathBuf,

    /// What guests show.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sample,snp")]
    evidence: Vec<Evidence>,

    /// How they connect.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "http")]
    transport: Vec<Transport>,

    /// How many cores the broker may use; guests use the others, or the same when there are no others.
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u8).range(1..=64))]
    cores: Vec<u8>,

    /// How many guests ask at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,

    /// How long each phase takes.
    #[arg(long, default_value_t = 5)]
    seconds: u64,

    /// Go on until memory has had time to grow: this many handshakes, then as many sessions that are abandoned.
    #[arg(long, value_name = "COUNT")]
    soak: Option<u64>,

    /// Kill the broker this often at random moments under load, and check each time what it had acknowledged.
    #[arg(long, value_name = "TIMES")]
    kill: Option<u32>,

    /// What decides the random moments and contents; without it, the clock.
    #[arg(long)]
    seed: Option<u64>,

    /// Fill the disk under a broker, then make room again.
    #[arg(long)]
    disk_full: bool,

    /// Start a broker on a store that cannot be written.
    #[arg(long)]
    read_only: bool,

    /// Make the broker's folder here instead of in the system's folder for temporary files.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,

    /// Print one JSON document instead of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Evidence {
    /// Evidence that anybody can make up.
    Sample,
    /// SNP reports under a development root: real formats, real signatures.
    Snp,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Http,
    Tls,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let seed = match args.seed {
        Some(seed) => seed,
        None => now()?,
    };
    let mut document = serde_json::Map::new();
    if let Some(times) = args.kill {
        let kept = crash::run(&args, times, seed)?;
        report::say(args.json, &kept);
        document.insert("kill".to_owned(), json!(kept));
    }
    if args.disk_full {
        let full = disk::full(&args)?;
        report::say(args.json, &full);
        document.insert("disk_full".to_owned(), json!(full));
    }
    if args.read_only {
        let refused = disk::read_only(&args)?;
        report::say(args.json, &refused);
        document.insert("read_only".to_owned(), json!(refused));
    }
    if document.is_empty() {
        let mut runs = Vec::new();
        for evidence in &args.evidence {
            for transport in &args.transport {
                for cores in &args.cores {
                    let run = measured(&args, *evidence, *transport, usize::from(*cores))?;
                    report::say(args.json, &run);
                    runs.push(run);
                }
            }
        }
        document.insert("load".to_owned(), json!(runs));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    }
    Ok(())
}

/// One fresh broker, from its first start to its last.
fn measured(
    args: &Args,
    evidence: Evidence,
    transport: Transport,
    cores: usize,
) -> anyhow::Result<Run> {
    let home = args.home()?;
    let broker = Broker::init(&args.program, home.path(), evidence, transport, cores)?;
    let mut run = Run::new(evidence, transport, cores, args.clients);
    for _ in 0..STARTS {
        let server = broker.start()?;
        run.start_ms.push(server.until_ready.as_secs_f64() * 1e3);
        server.stop()?;
    }
    let mut server = broker.start()?;
    let runtime = runtime(cores)?;
    let wanted = furnish(&broker, &server, &runtime)?;
    let mut guests = (0..args.clients)
        .map(|_| Guest::new(broker.target(&server)?, broker.machine()?))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let for_a_while = Until::Elapsed(Duration::from_secs(args.seconds));
    let pid = server.pid();
    let mut go = |name: &str, work, until, run: &mut Run, count_flushes| {
        let done = phase(name, &mut guests, work, until, &wanted, pid, count_flushes);
        run.phases.push(runtime.block_on(done)?);
        run.note_memory(name, Memory::of(pid)?);
        anyhow::Ok(())
    };
    use Connections::{Fresh, Kept};
    let warm_up = Until::Done(WARM_UP);
    go("warm-up", Work::Handshakes(Kept), warm_up, &mut run, true)?;
    go(
        "handshakes",
        Work::Handshakes(Kept),
        for_a_while,
        &mut run,
        false,
    )?;
    let fresh = Work::Handshakes(Fresh);
    go("fresh connections", fresh, for_a_while, &mut run, false)?;
    go(
        "reads, cookie",
        Work::Reads(Show::Cookie),
        for_a_while,
        &mut run,
        false,
    )?;
    go(
        "reads, bearer",
        Work::Reads(Show::Bearer),
        for_a_while,
        &mut run,
        false,
    )?;
    if let Some(count) = args.soak {
        let many = Until::Done(count);
        go(
            "soak: handshakes",
            Work::Handshakes(Kept),
            many,
            &mut run,
            false,
        )?;
        go("soak: abandoned", Work::Abandon, many, &mut run, false)?;
    }
    run.disk_bytes = disk_bytes(broker.folder())?;
    server.still_runs()?;
    server.stop()?;
    run.disk_bytes_stopped = disk_bytes(broker.folder())?;
    // With all that is recorded by now.
    let server = broker.start()?;
    run.restart_ms = server.until_ready.as_secs_f64() * 1e3;
    server.stop()?;
    Ok(run)
}

/// Gives a broker a resource, the values that good machines are compared with, and a policy for them.
pub(crate) fn furnish(
    broker: &Broker,
    server: &Server,
    runtime: &Runtime,
) -> anyhow::Result<Wanted> {
    let content: Arc<[u8]> = (0..32).collect();
    let admin = broker.admin(server)?;
    let values = match broker.machine()? {
        Machine::Sample => json!({
            "launch_digest": ["abcde"], "svn": ["1"], "major_version": 1, "minimum_minor_version": 1,
            "accept_development_assurance": true,
        }),
        Machine::Snp { forge, .. } => snp_values(&forge),
    };
    runtime.block_on(async {
        admin.put_resource(&RESOURCE.parse()?, &content).await?;
        admin
            .put_reference_values(&serde_json::from_value(values)?)
            .await?;
        anyhow::Ok(())
    })?;
    let allow = [
        "policy",
        "allow",
        "default/*/*",
        "--assurance",
        "development",
    ];
    broker.ask(server, &allow)?;
    Ok(Wanted {
        path: format!("/kbs/v0/resource/{RESOURCE}").into(),
        content,
    })
}

fn snp_values(forge: &snp::Forge) -> serde_json::Value {
    let tcb = forge.report.reported_tcb;
    json!({
        "snp_launch_measurement": [hex::encode(forge.report.measurement)],
        "snp_bootloader": [tcb.bootloader], "snp_microcode": [tcb.microcode],
        "snp_snp_svn": [tcb.snp], "snp_tee_svn": [tcb.tee],
        "accept_development_assurance": true,
    })
}

/// What guests run on: the cores that the broker leaves.
pub(crate) fn runtime(taken: usize) -> anyhow::Result<Runtime> {
    let cores = Cores::left_by(taken);
    let threads = cores.count();
    let build = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
    };
    Ok(pinned(cores, build)??)
}

pub(crate) fn now() -> anyhow::Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(since.context("the clock is before 1970")?.as_secs())
}

impl Args {
    /// A folder of its own for one broker, which goes when it is dropped.
    pub(crate) fn home(&self) -> anyhow::Result<tempfile::TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("broker-load-");
        Ok(match &self.folder {
            Some(folder) => builder.tempdir_in(folder)?,
            None => builder.tempdir()?,
        })
    }
}

const RESOURCE: &str = "default/bench/key";
const STARTS: usize = 5;
const WARM_UP: u64 = 500;
