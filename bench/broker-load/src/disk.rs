//! A disk that is full, and one that cannot be written: what the broker says, and what is there afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::guest::{Guest, Show};
use crate::record::{entries_after, verify};
use crate::server::{Broker, Server};
use crate::{Args, Evidence, Transport, furnish, runtime};

/// What a full disk showed.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Full {
    /// How the disk was made full.
    pub(crate) by: &'static str,
    /// Resources that were acknowledged before, meanwhile and after, each read back.
    pub(crate) stored: usize,
    pub(crate) refused: u64,
    /// What an admin, a guest that attests and a guest that reads were told.
    pub(crate) told: BTreeSet<String>,
    /// What the broker's log says.
    pub(crate) logged: BTreeSet<String>,
    /// From the moment at which there was room again to the first write that passed.
    pub(crate) recovered_ms: f64,
    pub(crate) entries: usize,
}

impl Display for Full {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nfull disk ({}): {} requests refused",
            self.by, self.refused
        )?;
        for told in &self.told {
            writeln!(f, "  told:   {told}")?;
        }
        for logged in &self.logged {
            writeln!(f, "  logged: {logged}")?;
        }
        write!(
            f,
            "room again: the first write passed after {:.0} ms; {} resources acknowledged and there, the record holds \
             over its {} entries",
            self.recovered_ms, self.stored, self.entries
        )
    }
}

/// What a store that cannot be written showed.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Refused {
    /// How it was made so.
    pub(crate) by: &'static str,
    /// What the broker said when it was started.
    pub(crate) said: String,
    /// Resources that were there before and afterwards.
    pub(crate) stored: usize,
}

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\nread-only store ({}): not started: {}\nwritable again: {} resources are there, no file had changed",
            self.by, self.said, self.stored
        )
    }
}

/// Fills the disk under a broker that runs, makes room again, and checks what was acknowledged.
pub(crate) fn full(args: &Args) -> anyhow::Result<Full> {
    let home = args.home()?;
    let disk = Disk::mount(&home.path().join("disk"))?;
    let broker = init(args, &disk)?;
    let runtime = runtime(1)?;
    let mut server = broker.start()?;
    furnish(&broker, &server, &runtime)?;
    let mut stored = BTreeMap::new();
    for number in 0..10 {
        put(&broker, &server, &runtime, &mut stored, number)?;
    }
    let mut guest = Guest::new(broker.target(&server)?, broker.machine()?)?;
    runtime.block_on(guest.attest())?;

    verify(&broker, &server)?;
    disk.fill(&server, broker.folder())?;
    let mut seen = Full {
        by: disk.by(),
        ..Full::default()
    };
    let patience = Instant::now() + Duration::from_secs(60);
    let mut number = 10;
    while seen.refused < REFUSALS {
        ensure!(Instant::now() < patience, "the disk did not get full");
        number += 1;
        let stopped = put(&broker, &server, &runtime, &mut stored, number)
            .err()
            .map(|error| format!("storing: {error:#}"));
        let Some(told) = stopped else { continue };
        seen.refused += 1;
        seen.told.insert(told);
        // What a guest is told: an answer must not leave without its entry, and there is no room for one.
        let read = runtime.block_on(guest.read(READ, Show::Bearer))?;
        let said = String::from_utf8_lossy(&read.body);
        match read.status.as_u16() {
            200 => {}
            status => drop(seen.told.insert(format!("reading: {status} {said}"))),
        }
        let mut stranger = Guest::new(broker.target(&server)?, broker.machine()?)?;
        if let Err(error) = runtime.block_on(stranger.attest()) {
            seen.told.insert(format!("attesting: {error:#}"));
        }
    }
    server.still_runs()?;
    seen.logged = broker.log()?.lines().filter_map(complaint).collect();

    disk.make_room(&server)?;
    let room = Instant::now();
    loop {
        number += 1;
        match put(&broker, &server, &runtime, &mut stored, number) {
            Ok(()) => break,
            Err(error) if room.elapsed() > Duration::from_secs(10) => {
                return Err(error).context("there is room again");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    seen.recovered_ms = room.elapsed().as_secs_f64() * 1e3;
    check(&broker, &server, &runtime, &stored)?;
    server.kill()?;
    let server = broker.start()?;
    check(&broker, &server, &runtime, &stored)?;
    verify(&broker, &server)?;
    seen.entries = entries_after(&broker, &server, 0)?.len();
    seen.stored = stored.len();
    server.stop()?;
    Ok(seen)
}

/// Starts a broker whose folder cannot be written, and again when it can.
pub(crate) fn read_only(args: &Args) -> anyhow::Result<Refused> {
    let home = args.home()?;
    let disk = Disk::mount(&home.path().join("disk"))?;
    let broker = init(args, &disk)?;
    let runtime = runtime(1)?;
    let server = broker.start()?;
    furnish(&broker, &server, &runtime)?;
    let mut stored = BTreeMap::new();
    for number in 0..10 {
        put(&broker, &server, &runtime, &mut stored, number)?;
    }
    server.stop()?;
    let before = files(broker.folder())?;
    disk.writable(broker.folder(), false)?;
    let said = match broker.start() {
        Err(error) => format!("{error:#}"),
        Ok(server) => {
            let put = put(&broker, &server, &runtime, &mut stored, 10);
            disk.writable(broker.folder(), true)?;
            match put {
                Err(error) => format!("it runs, and refuses writes: {error:#}"),
                Ok(()) => bail!("a broker on a read-only store acknowledged a write"),
            }
        }
    };
    ensure!(before == files(broker.folder())?, "a file changed");
    disk.writable(broker.folder(), true)?;
    let server = broker.start()?;
    check(&broker, &server, &runtime, &stored)?;
    server.stop()?;
    Ok(Refused {
        by: disk.by(),
        said: said.split_whitespace().collect::<Vec<_>>().join(" "),
        stored: stored.len(),
    })
}

fn init(args: &Args, disk: &Disk) -> anyhow::Result<Broker> {
    let evidence = args.evidence.first().copied().unwrap_or(Evidence::Sample);
    let transport = args.transport.first().copied().unwrap_or(Transport::Http);
    let broker = Broker::init(&args.program, &disk.folder, evidence, transport, 1)?;
    // A process that writes past a limit of its own is ended unless it ignores the signal; an error is what is wanted.
    let broker = broker.with_wrapper(&["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    // On a disk with room.
    Ok(broker.with_log(disk.folder.with_extension("log")))
}

fn put(
    broker: &Broker,
    server: &Server,
    runtime: &Runtime,
    stored: &mut BTreeMap<String, Vec<u8>>,
    number: u64,
) -> anyhow::Result<()> {
    let path = format!("default/disk/key-{number}");
    let content = vec![number as u8; 16 * 1024];
    let admin = broker.admin(server)?;
    runtime.block_on(admin.put_resource(&path.parse()?, &content))?;
    stored.insert(path, content);
    Ok(())
}

fn check(
    broker: &Broker,
    server: &Server,
    runtime: &Runtime,
    stored: &BTreeMap<String, Vec<u8>>,
) -> anyhow::Result<()> {
    let mut guest = Guest::new(broker.target(server)?, broker.machine()?)?;
    runtime.block_on(async {
        guest.attest().await?;
        for (path, content) in stored {
            let url = format!("/kbs/v0/resource/{path}");
            let answer = guest.read(&url, Show::Cookie).await?.ok()?;
            ensure!(guest.open(&answer.body)? == *content, "{path} was changed");
        }
        Ok(())
    })
}

/// What a line of the log complains of, without its time and the request that it belongs to.
fn complaint(line: &str) -> Option<String> {
    let level = ["ERROR", "WARN"]
        .into_iter()
        .find(|level| line.contains(level))?;
    let (_, said) = line.rsplit_once("}: ").or_else(|| line.split_once(level))?;
    Some(format!("{level} {}", said.trim()))
}

fn files(folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            files.insert(path.clone(), fs::read(path)?);
        }
    }
    Ok(files)
}

/// A folder whose room is bounded: a small file system in memory where one may be mounted, else a limit on the length of
/// the broker's files.
struct Disk {
    folder: PathBuf,
    mounted: bool,
}

impl Disk {
    fn mount(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
            .arg(folder)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        Ok(Self {
            folder: folder.to_owned(),
            mounted,
        })
    }

    fn by(&self) -> &'static str {
        match self.mounted {
            true => "a file system of its own, in memory",
            false => "limits of this user's",
        }
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    fn fill(&self, server: &Server, folder: &Path) -> anyhow::Result<()> {
        if !self.mounted {
            let longest = files(folder)?.values().map(Vec::len).max().unwrap_or(0);
            return limit(server, Some(longest as u64 + 256 * 1024));
        }
        // Leaves room for a few writes, so that the disk gets full under the broker's own hand.
        let room = rustix::fs::statvfs(&self.folder)?;
        let free = room.f_bavail * room.f_frsize;
        let ballast = free.saturating_sub(256 * 1024);
        Ok(fs::write(
            self.ballast(),
            vec![0; usize::try_from(ballast)?],
        )?)
    }

    fn make_room(&self, server: &Server) -> anyhow::Result<()> {
        match self.mounted {
            true => Ok(fs::remove_file(self.ballast())?),
            false => limit(server, None),
        }
    }

    fn writable(&self, folder: &Path, yes: bool) -> anyhow::Result<()> {
        if self.mounted {
            let how = if yes { "remount,rw" } else { "remount,ro" };
            let status = Command::new("mount")
                .args(["-o", how])
                .arg(&self.folder)
                .status()?;
            ensure!(status.success(), "mount -o {how}: {status}");
            return Ok(());
        }
        ensure!(
            !rustix::process::geteuid().is_root(),
            "permissions do not bind root, and nothing may be mounted here: run this as another user"
        );
        for path in files(folder)?.keys() {
            let mode = fs::metadata(path)?.permissions().mode();
            let mode = if yes { mode | 0o200 } else { mode & !0o222 };
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        let mode = if yes { 0o700 } else { 0o500 };
        Ok(fs::set_permissions(folder, Permissions::from_mode(mode))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let unmounted = Command::new("umount").arg("-l").arg(&self.folder).status();
            if !unmounted.is_ok_and(|status| status.success()) {
                eprintln!("{} is still mounted", self.folder.display());
            }
        }
    }
}

/// Bounds the length of the files that a process may write.
fn limit(server: &Server, bytes: Option<u64>) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(server.pid())?).context("no process")?;
    let maximum = getrlimit(Resource::Fsize).maximum;
    prlimit(
        Some(pid),
        Resource::Fsize,
        Rlimit {
            current: bytes.or(maximum),
            maximum,
        },
    )?;
    Ok(())
}

const SIZE: &str = "size=16m,mode=700";
const READ: &str = "/kbs/v0/resource/default/bench/key";
const REFUSALS: u64 = 10;
