//! The broker under test: a fresh folder, the release binary as a child, pinned to cores, killed when asked.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;
use strongroom_attester::development::DevelopmentRoot;
use strongroom_client::admin::{AdminClient, AdminKey};

use crate::connection::Target;
use crate::guest::Machine;
use crate::{Evidence, Transport};

/// A broker's folder and how to start it.
pub(crate) struct Broker {
    program: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    development_root: Option<PathBuf>,
    cores: usize,
    /// Prefixes the program when it starts, as `ulimit` must.
    wrapper: Vec<String>,
}

impl Broker {
    /// Makes a broker in `home`, which takes one kind of evidence over one kind of connection.
    pub(crate) fn init(
        program: &Path,
        home: &Path,
        evidence: Evidence,
        transport: Transport,
        cores: usize,
    ) -> anyhow::Result<Self> {
        let folder = home.join("broker");
        let broker = Self {
            program: program.to_owned(),
            development_root: match evidence {
                Evidence::Sample => None,
                Evidence::Snp => Some(home.join("root")),
            },
            log: home.join("broker.log"),
            folder,
            cores,
            wrapper: Vec::new(),
        };
        let mut init = vec!["broker", "init"];
        if evidence == Evidence::Sample {
            init.push("--insecure-accept-sample-evidence");
        }
        broker.command(&init, true)?;
        configure(&broker.folder.join("broker.toml"), transport)?;
        if let Some(root) = &broker.development_root {
            DevelopmentRoot::generate(crate::now()?)?.save(root)?;
        }
        Ok(broker)
    }

    /// Starts through another program, such as a shell that sets a limit and then becomes the broker.
    pub(crate) fn with_wrapper(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Logs elsewhere than beside the folder.
    pub(crate) fn with_log(mut self, path: PathBuf) -> Self {
        self.log = path;
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file beside the log, which is not the broker's.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.log.with_file_name(name)
    }

    /// A machine whose evidence this broker takes.
    pub(crate) fn machine(&self) -> anyhow::Result<Machine> {
        match &self.development_root {
            None => Ok(Machine::Sample),
            Some(root) => Machine::snp(&DevelopmentRoot::open(root)?),
        }
    }

    /// Starts the broker and waits until it says that it is ready.
    pub(crate) fn start(&self) -> anyhow::Result<Server> {
        let folder = self.folder.to_str().context("a folder without a name")?;
        let parent = std::process::id().to_string();
        let mut words = self.wrapper.clone();
        words.push(self.program.display().to_string());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(["broker", "run", folder, "--listen", "127.0.0.1:0", "--json"])
            .args(["--exit-with-parent", &parent])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&self.log)?);
        if let Some(root) = &self.development_root {
            command.arg("--development-root").arg(root);
        }
        let started = Instant::now();
        let mut child = pinned(Cores::first(self.cores), || command.spawn())?
            .with_context(|| format!("{} cannot be started", words[0]))?;
        let output = child.stdout.take().context("the child has no output")?;
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let until_ready = started.elapsed();
        let mut server = Server {
            child,
            url: String::new(),
            until_ready,
            output,
        };
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        match said["url"].as_str() {
            Some(url) => server.url = url.to_owned(),
            None => {
                server.output.read_to_string(&mut line)?;
                drop(server);
                bail!("the broker did not start: {}{}", line.trim(), self.log()?);
            }
        }
        Ok(server)
    }

    /// What the broker complained since it was started last.
    pub(crate) fn log(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// How guests reach a server of this broker.
    pub(crate) fn target(&self, server: &Server) -> anyhow::Result<Target> {
        Target::new(&server.url, &fs::read(self.folder.join("tls.crt"))?)
    }

    /// Its administrator.
    pub(crate) fn admin(&self, server: &Server) -> anyhow::Result<AdminClient> {
        let key = fs::read_to_string(self.folder.join("admin.key"))?;
        let certificate = match server.url.starts_with("https") {
            true => Some(fs::read_to_string(self.folder.join("tls.crt"))?),
            false => None,
        };
        let key = AdminKey::from_pem("admin", &key)?;
        Ok(AdminClient::new(&server.url, certificate, key)?)
    }

    /// Runs a command of the program on this broker's folder, to its end, and gives its document.
    pub(crate) fn ask(&self, server: &Server, words: &[&str]) -> anyhow::Result<Value> {
        let folder = self.folder.display().to_string();
        let place = ["--dir", &folder, "--broker", &server.url];
        self.command(&[words, &place].concat(), false)
    }

    fn command(&self, words: &[&str], with_folder: bool) -> anyhow::Result<Value> {
        let mut command = Command::new(&self.program);
        command.args(words).arg("--json").stdin(Stdio::null());
        if with_folder {
            command.arg(&self.folder);
        }
        let output = command
            .output()
            .with_context(|| format!("{} cannot be run", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "strongroom {} failed: {said}{}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_str(&said).unwrap_or_default())
    }
}

/// A broker that runs. Dropping it kills it.
pub(crate) struct Server {
    child: Child,
    url: String,
    /// From the start of the process to the line that says it is ready.
    pub(crate) until_ready: Duration,
    /// Held so that the child never writes into a closed pipe.
    output: BufReader<ChildStdout>,
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without warning, as a power cut would end the process.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Tells it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the broker ended with {status}");
        Ok(())
    }

    /// Fails when the broker ended by itself.
    pub(crate) fn still_runs(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the broker ended by itself with {status}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill, and waiting again is harmless.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

/// Which cores a process may use.
pub(crate) struct Cores(CpuSet);

impl Cores {
    /// The machine's first ones.
    fn first(count: usize) -> Self {
        let mut cores = CpuSet::new();
        (0..count).for_each(|core| cores.set(core));
        Self(cores)
    }

    /// Those that a broker on the first `taken` leaves free; all of them when it leaves none.
    pub(crate) fn left_by(taken: usize) -> Self {
        let there = std::thread::available_parallelism().map_or(1, usize::from);
        let mut cores = CpuSet::new();
        let from = if there > taken { taken } else { 0 };
        (from..there).for_each(|core| cores.set(core));
        Self(cores)
    }

    pub(crate) fn count(&self) -> usize {
        usize::try_from(self.0.count()).unwrap_or(1).max(1)
    }
}

/// Runs `work` on these cores alone; threads and processes that it starts stay on them.
pub(crate) fn pinned<T>(cores: Cores, work: impl FnOnce() -> T) -> anyhow::Result<T> {
    let before = sched_getaffinity(None)?;
    sched_setaffinity(None, &cores.0).context("the cores that --cores names are not all there")?;
    let done = work();
    sched_setaffinity(None, &before)?;
    Ok(done)
}

/// Changes what `init` wrote in two things: all guests here come from one address, which must not be taken for a flood; and
/// a broker without TLS has no certificate.
fn configure(path: &Path, transport: Transport) -> anyhow::Result<()> {
    let text = fs::read_to_string(path)?;
    let text = text.replacen(
        "[limits]\n",
        "[limits]\nattempts_per_minute = 4000000000\nreads_per_minute = 4000000000\n",
        1,
    );
    let text = match transport {
        Transport::Tls => text,
        Transport::Http => {
            let (before, rest) = text.split_once("[tls]").context("no [tls] to remove")?;
            let (_, after) = rest.split_once("\n\n").context("[tls] has no end")?;
            format!("insecure_http = true\n{before}{after}")
        }
    };
    Ok(fs::write(path, text)?)
}
