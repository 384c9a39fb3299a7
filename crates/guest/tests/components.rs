//! guest-components' programs as Kata's agent starts them: names, arguments and sockets from the manifest that upstream's
//! image carries.

#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod broker;
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use broker::ScriptedBroker;
use rustix::process::{Pid, Signal, kill_process};
use support::{eventually, fixture, get_resource, request};

const KEY: &str = "default/key/one";

/// An image with upstream's names for the guest's program, and what Kata's agent puts in place of `${...}`.
struct Image {
    root: tempfile::TempDir,
    manifest: toml::Table,
    context: BTreeMap<&'static str, String>,
}

impl Image {
    fn new(broker: Option<&ScriptedBroker>) -> Option<Self> {
        let manifest = fixture("guest/guest-components/tools/coco-extension/components.toml")?;
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("usr/local/bin");
        std::fs::create_dir_all(&bin).unwrap();
        for name in [
            "attestation-agent",
            "attestation-agent-nv",
            "confidential-data-hub",
            "api-server-rest",
        ] {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_strongroom-guest"), bin.join(name))
                .unwrap();
        }
        let at = |name: &str| root.path().join(name).display().to_string();
        let (aa, cdh) = (at("run/aa/attestation-agent.sock"), at("run/cdh.sock"));
        let kbs = |table: &str| match broker {
            Some(broker) => format!("[{table}]\nurl = '{}'\n", broker.url),
            None => String::new(),
        };
        let name = if broker.is_some() {
            "name = 'cc_kbc'\n"
        } else {
            ""
        };
        std::fs::write(at("aa.toml"), kbs("token_configs.kbs")).unwrap();
        std::fs::write(
            at("cdh.toml"),
            format!("socket = 'unix://{cdh}'\n{}{name}", kbs("kbc")),
        )
        .unwrap();
        let context = BTreeMap::from([
            ("aa_attestation_uri", format!("unix://{aa}")),
            ("aa_attestation_socket", aa),
            ("aa_config_path", at("aa.toml")),
            ("cdh_socket", cdh),
            ("cdh_config_path", at("cdh.toml")),
            ("ocicrypt_config_path", at("etc/ocicrypt_config.json")),
            ("extension_root", root.path().display().to_string()),
            ("launch_process_timeout", "6".to_owned()),
            ("rest_api_features", "all".to_owned()),
            ("attester_variant", "default".to_owned()),
        ]);
        Some(Self {
            root,
            manifest: manifest.parse().unwrap(),
            context,
        })
    }

    fn substituted(&self, text: &str) -> String {
        self.context
            .iter()
            .fold(text.to_owned(), |text, (name, value)| {
                text.replace(&format!("${{{name}}}"), value)
            })
    }

    /// Starts a process of the manifest; `more` arguments are of the test's machine, which has no TEE and one port for all.
    fn start(&self, id: &str, more: &[&str]) -> Program {
        let processes = self.manifest["process"].as_array().unwrap();
        let process = processes
            .iter()
            .find(|process| process["id"].as_str() == Some(id))
            .unwrap();
        let variant = process.get("select").map(|select| {
            let select = self.substituted(select.as_str().unwrap());
            &process["variants"][select]
        });
        let path = variant.unwrap_or(process)["path"].as_str().unwrap();
        let mut command = Command::new(self.root.path().join(path));
        command.env_clear();
        for argument in process
            .get("args")
            .into_iter()
            .flat_map(|a| a.as_array().unwrap())
        {
            command.arg(self.substituted(argument.as_str().unwrap()));
        }
        if let Some(config) = process.get("config") {
            command
                .arg("-c")
                .arg(self.substituted(config.as_str().unwrap()));
        }
        let child = command
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let program = Program(child.unwrap());
        if let Some(socket) = process.get("wait_socket") {
            let socket = PathBuf::from(self.substituted(socket.as_str().unwrap()));
            eventually(|| UnixStream::connect(&socket).ok());
        }
        program
    }

    fn agent(&self) -> Program {
        self.start("attestation-agent", &["--platform", "sample"])
    }

    fn rest(&self) -> Program {
        let agents = self.context["aa_attestation_uri"].clone();
        let here = ["--bind", "127.0.0.1:0", "--aa_addr", &agents];
        self.start("api-server-rest", &here)
    }
}

struct Program(Child);

impl Program {
    /// The first line that it prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let out = self.0.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        line
    }

    fn address(&mut self) -> SocketAddr {
        let line = self.line();
        let (_, url) = line.split_once("http://").unwrap();
        url.trim().trim_end_matches('.').parse().unwrap()
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }

    /// What it says when it ends by itself, in vain.
    fn failed(mut self) -> String {
        assert!(!self.0.wait().unwrap().success());
        let mut said = String::new();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        said
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn get(address: SocketAddr, path: &str) -> support::Answer {
    let host = address.to_string();
    request(&host, "GET", path, &[("host", &host)], b"")
}

#[test]
fn programs_that_katas_agent_starts_are_not_there() {
    let broker = ScriptedBroker::start().with_resource(KEY, b"secret");
    let Some(image) = Image::new(Some(&broker)) else {
        return;
    };
    let agent = image.agent();
    let hub = image.start("confidential-data-hub", &[]);
    let socket = PathBuf::from(&image.context["cdh_socket"]);
    assert!(get_resource(&socket, &format!("kbs:///{KEY}")).ends_with(b"secret"));
    let mut rest = image.rest();
    let address = rest.address();
    let answer = get(address, &format!("/cdh/resource/{KEY}"));
    assert_eq!((answer.status, answer.body), (200, b"secret".to_vec()));
    assert_eq!(get(address, "/aa/token?token_type=kbs").status, 200);
    assert!(get(address, "/info").text().contains(r#""feature":"all""#));
    // One guest, one token.
    assert_eq!(broker.auths(), 1);
    // The API goes with its program, the rest with the guest.
    rest.stop();
    assert!(eventually(|| std::net::TcpStream::connect(address)
        .is_err()
        .then_some(true)));
    hub.stop();
    agent.stop();
    assert!(!socket.exists());
}

#[test]
fn nvidias_variant_or_parts_of_the_api_are_another_program() {
    let broker = ScriptedBroker::start().with_resource(KEY, b"secret");
    let Some(mut image) = Image::new(Some(&broker)) else {
        return;
    };
    image
        .context
        .insert("attester_variant", "nvidia".to_owned());
    image
        .context
        .insert("rest_api_features", "resource".to_owned());
    let agent = image.agent();
    let mut rest = image.rest();
    let address = rest.address();
    assert_eq!(get(address, "/aa/token?token_type=kbs").status, 404);
    // A guest that is gone takes its API and its companions along.
    let mut hub = image.start("confidential-data-hub", &[]);
    assert!(hub.line().contains("answers on"));
    agent.stop();
    for companion in [rest, hub] {
        let said = companion.failed();
        assert!(said.contains("attestation-agent"), "{said}");
    }
}

/// As with upstream's: pods that need no broker start, and what needs one is refused with the reason.
#[test]
fn image_without_a_broker_does_not_start() {
    let Some(image) = Image::new(None) else {
        return;
    };
    let _agent = image.agent();
    let mut rest = image.rest();
    let address = rest.address();
    let answer = get(address, &format!("/cdh/resource/{KEY}"));
    assert_eq!(answer.status, 502);
    assert!(
        answer.text().contains("[token_configs.kbs]"),
        "{}",
        answer.text()
    );
    assert_eq!(get(address, "/aa/evidence?runtime_data=a").status, 200);
}

#[test]
fn digest_of_another_document_starts_the_agent() {
    let broker = ScriptedBroker::start();
    let Some(image) = Image::new(Some(&broker)) else {
        return;
    };
    let sixteen = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom-guest"));
    let output = command
        .args(["attestation-agent", "--platform", "sample", "-i", sixteen])
        .args(["-a", &image.context["aa_attestation_uri"]])
        .args(["-c", &image.context["aa_config_path"]])
        .output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains("--initdata-digest"), "{said}");
}

fn project(name: &str) -> String {
    std::fs::read_to_string(strongroom_testkit::fixtures::workspace_root().join(name)).unwrap()
}

/// The page's own commands, in a folder with the program, into another one.
#[test]
fn page_about_images_installs_something_else() {
    let (here, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let program = env!("CARGO_BIN_EXE_strongroom-guest");
    std::os::unix::fs::symlink(program, here.path().join("strongroom-guest")).unwrap();
    let deploy = strongroom_testkit::fixtures::workspace_root().join("deploy");
    std::os::unix::fs::symlink(deploy, here.path().join("deploy")).unwrap();
    let page = project("docs/kata.md");
    let blocks: Vec<&str> = page.split("```sh\n").skip(1).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let commands = block.split("```").next().unwrap();
        let status = Command::new("sh")
            .args(["-e", "-c", commands])
            .env("ROOTFS", image.path())
            .current_dir(here.path())
            .status();
        assert!(status.unwrap().success(), "{commands}");
    }
    for name in [
        "attestation-agent",
        "confidential-data-hub",
        "api-server-rest",
    ] {
        let path = image.path().join("usr/local/bin").join(name);
        let help = Command::new(path).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains(&format!("strongroom-guest {name}")), "{help}");
        assert!(page.contains(&format!("`{name} ")), "{name}");
    }
    let unit = image
        .path()
        .join("etc/systemd/system/strongroom-guest.service");
    assert!(
        std::fs::read_to_string(unit)
            .unwrap()
            .contains("ExecStart=")
    );
}

#[test]
fn service_starts_what_the_program_does_not_know_or_systemd_not_understand() {
    let program = env!("CARGO_BIN_EXE_strongroom-guest");
    let unit = project("deploy/systemd/strongroom-guest.service");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let mut words = line.unwrap().split_whitespace();
    assert_eq!(words.next(), Some("/usr/local/bin/strongroom-guest"));
    let help = Command::new(program).args(words).arg("--help").output();
    assert!(help.unwrap().status.success());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("strongroom-guest.service");
    std::fs::write(
        &path,
        unit.replace("/usr/local/bin/strongroom-guest", program),
    )
    .unwrap();
    let analyzed = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output();
    let Ok(analyzed) = analyzed else {
        strongroom_testkit::fixtures::missing_peer("no systemd-analyze here; ./check installs it");
        return;
    };
    let said = String::from_utf8_lossy(&analyzed.stderr).into_owned();
    assert!(
        analyzed.status.success() && !said.contains("strongroom-guest.service"),
        "{said}"
    );
}
