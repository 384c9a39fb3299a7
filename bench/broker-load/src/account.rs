//! What a process used, by the kernel's own account of it, and what lies on the disk.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

/// What a process had used up to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    user: Duration,
    system: Duration,
    switches: u64,
    written: u64,
}

/// What it used between two moments.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Used {
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    /// Both kinds of context switch, of the threads that still live.
    pub(crate) switches: u64,
    pub(crate) written_bytes: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(") ").context("/proc/pid/stat")?;
        let ticks = |number: usize| -> anyhow::Result<Duration> {
            let field = fields.split(' ').nth(number).context("/proc/pid/stat")?;
            let second = rustix::param::clock_ticks_per_second();
            Ok(Duration::from_millis(
                field.parse::<u64>()?.saturating_mul(1000) / second,
            ))
        };
        let mut switches = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end while this reads.
            let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
            switches += field(&status, "voluntary_ctxt_switches").unwrap_or(0)
                + field(&status, "nonvoluntary_ctxt_switches").unwrap_or(0);
        }
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        Ok(Self {
            user: ticks(11)?,
            system: ticks(12)?,
            switches,
            written: field(&io, "write_bytes").context("/proc/pid/io")?,
        })
    }

    pub(crate) fn since(&self, earlier: &Self) -> Used {
        Used {
            user_seconds: self.user.saturating_sub(earlier.user).as_secs_f64(),
            system_seconds: self.system.saturating_sub(earlier.system).as_secs_f64(),
            switches: self.switches.saturating_sub(earlier.switches),
            written_bytes: self.written.saturating_sub(earlier.written),
        }
    }
}

impl Used {
    /// Time on a core.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident_bytes: u64,
    /// Of that, what is not read from files.
    pub(crate) anonymous_bytes: u64,
    /// The most that ever was resident.
    pub(crate) peak_bytes: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kilobytes = |name| -> anyhow::Result<u64> {
            Ok(1024 * field(&status, name).with_context(|| format!("/proc/pid/status: {name}"))?)
        };
        Ok(Self {
            resident_bytes: kilobytes("VmRSS")?,
            anonymous_bytes: kilobytes("RssAnon")?,
            peak_bytes: kilobytes("VmHWM")?,
        })
    }
}

/// The bytes that a folder takes on its disk.
pub(crate) fn disk_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += match metadata.is_dir() {
            true => disk_bytes(&entry.path())?,
            false => metadata.blocks() * 512,
        };
    }
    Ok(bytes)
}

/// Counts a process's flushes to disk with `perf`, where there is one that may.
pub(crate) struct Flushes(Child);

impl Flushes {
    pub(crate) fn count(pid: u32) -> Option<Self> {
        Command::new("perf")
            .args(["stat", "-x", ",", "-e"])
            .arg("syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync")
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()
            .map(Self)
    }

    /// The number since `count`; none when perf could not tell.
    pub(crate) fn end(self) -> Option<u64> {
        kill_process(Pid::from_child(&self.0), Signal::INT).ok()?;
        let said = self.0.wait_with_output().ok()?;
        let said = String::from_utf8_lossy(&said.stderr);
        let counts: Vec<u64> = said
            .lines()
            .filter(|line| line.contains("sys_enter_f"))
            .filter_map(|line| line.split(',').next()?.parse().ok())
            .collect();
        (!counts.is_empty()).then(|| counts.iter().sum())
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}
