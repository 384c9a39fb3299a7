//! The demo's child processes: this same binary, each with its log in a file, all gone when the demo ends.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::cleanup;

/// A server that runs until it is dropped.
pub(crate) struct Server {
    child: Child,
    name: &'static str,
    /// What it said when it was ready.
    pub(crate) ready: Value,
    /// Held so that the child never writes into a closed pipe.
    _output: BufReader<ChildStdout>,
}

impl Server {
    /// Starts `strongroom ARGS --json` and waits for its ready line.
    pub(crate) fn start(name: &'static str, args: &[&str], logs: &Path) -> anyhow::Result<Self> {
        let mut child = cleanup::spawn(
            command(args)?
                .stdout(Stdio::piped())
                .stderr(File::create(logs.join(format!("{name}.log")))?),
        )
        .with_context(|| format!("cannot start the {name}"))?;
        let mut output = BufReader::new(child.stdout.take().context("the child has no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).unwrap_or_default();
        if ready["ready"] != true {
            stop(&mut child);
            let log = std::fs::read_to_string(logs.join(format!("{name}.log"))).unwrap_or_default();
            bail!("the {name} did not start: {ready} {}", log.trim());
        }
        Ok(Self {
            child,
            name,
            ready,
            _output: output,
        })
    }

    /// Where it serves.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        Ok(self.ready["url"]
            .as_str()
            .with_context(|| format!("the {} did not say where it serves", self.name))?
            .to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// Runs `strongroom ARGS --json` to its end and returns its document. Its progress bar stays visible.
pub(crate) fn run(name: &str, args: &[&str], logs: &Path) -> anyhow::Result<Value> {
    let log = logs.join(format!("{name}.log"));
    let stderr = if console::Term::stderr().is_term() {
        Stdio::inherit()
    } else {
        File::create(&log)?.into()
    };
    let mut child = cleanup::spawn(command(args)?.stdout(Stdio::piped()).stderr(stderr))
        .with_context(|| format!("cannot start {name}"))?;
    let mut text = String::new();
    child
        .stdout
        .take()
        .context("the child has no output")?
        .read_to_string(&mut text)?;
    let status = child.wait()?;
    cleanup::ended(&child);
    let document: Value = serde_json::from_str(&text).unwrap_or_default();
    if !status.success() {
        // A verification's reasons are its steps.
        let steps = document["steps"].as_array().into_iter().flatten();
        let failed: Vec<&Value> = steps.filter(|step| step["outcome"] != "PASS").collect();
        bail!(
            "{name} failed: {}; {}",
            document["error"].as_str().unwrap_or("no reason given"),
            if failed.is_empty() {
                document["causes"].clone()
            } else {
                json!(failed)
            }
        );
    }
    Ok(document)
}

fn command(args: &[&str]) -> anyhow::Result<Command> {
    let mut command =
        Command::new(std::env::current_exe().context("cannot find this program's own file")?);
    let parent = std::process::id().to_string();
    command
        .args(args)
        .args(["--json", "--exit-with-parent", &parent])
        .stdin(Stdio::null());
    // The children take their orders from the command line alone.
    for name in [
        "STRONGROOM_BROKER",
        "STRONGROOM_BROKER_CERT",
        "STRONGROOM_BROKER_DIR",
        "STRONGROOM_GUEST",
        "STRONGROOM_LOG",
    ] {
        command.env_remove(name);
    }
    Ok(command)
}

/// Asks first, so that the server finishes what it is writing.
fn stop(child: &mut Child) {
    // It may have ended by itself; waiting tells.
    let _: rustix::io::Result<()> =
        rustix::process::kill_process(Pid::from_child(child), Signal::TERM);
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < patience => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                // It had its time; a server that hangs must not hold the demo up.
                if let Err(error) = child.kill() {
                    eprintln!("a child process could not be ended: {error}");
                    break;
                }
            }
            Err(error) => {
                eprintln!("a child process could not be waited for: {error}");
                break;
            }
        }
    }
    cleanup::ended(child);
}
