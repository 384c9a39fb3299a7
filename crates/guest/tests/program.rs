//! The guest's own program, started as a guest's image starts it.

#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod broker;
mod support;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use broker::ScriptedBroker;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use strongroom_wire::sealed_secret::{SealedSecret, SigningJwk, seal};
use support::{get_resource, request};

const KEY: &str = "default/key/one";

struct Running {
    child: Child,
    ready: Value,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        Self {
            child,
            ready: serde_json::from_str(&line).unwrap(),
        }
    }

    fn address(&self) -> String {
        let url = self.ready["url"].as_str().unwrap();
        url.strip_prefix("http://").unwrap().to_owned()
    }

    fn stop(mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom-guest"));
    command.args(arguments).env_clear();
    command
}

fn run(broker: &str, folder: &Path, more: &[&str]) -> Running {
    let ttrpc = format!("--ttrpc={}", folder.display());
    let mut arguments = vec!["run", "--json", "--platform", "sample", "--broker", broker];
    arguments.extend(["--listen", "127.0.0.1:0", &ttrpc]);
    arguments.extend(more);
    Running::start(&arguments)
}

fn sockets(folder: &Path) -> [PathBuf; 2] {
    ["attestation-agent/attestation-agent.sock", "cdh.sock"].map(|name| folder.join(name))
}

#[test]
fn one_program_serves_rest_and_both_sockets_and_leaves_none_behind() {
    let broker = ScriptedBroker::start().with_resource(KEY, b"secret");
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("app");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let more = ["--require-token", token.to_str().unwrap()];
    let guest = run(&broker.url, folder.path(), &more);
    let paths = sockets(folder.path());
    let named: Vec<String> = paths
        .iter()
        .map(|path| format!("unix://{}", path.display()))
        .collect();
    assert_eq!(guest.ready["ttrpc"], serde_json::json!(named));
    for path in &paths {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    let answer = get_resource(&paths[1], &format!("kbs:///{KEY}"));
    assert!(answer.ends_with(b"secret"));
    // What programs of ocicrypt read, in the shapes of upstream's own file.
    let told = std::fs::read(folder.path().join("cdh/ocicrypt_config.json")).unwrap();
    let told: Value = serde_json::from_slice(&told).unwrap();
    for name in [
        "confidential-data-hub/hub/src/image/ocicrypt_config.json",
        "image-rs/test_data/ocicrypt_keyprovider_ttrpc.conf",
    ] {
        let Some(upstreams) = support::fixture(&format!("guest/guest-components/{name}")) else {
            continue;
        };
        let mut expected: Value = serde_json::from_str(&upstreams).unwrap();
        let ttrpc = &mut expected["key-providers"]["attestation-agent"]["ttrpc"];
        assert_eq!(*ttrpc, "unix:///run/confidential-containers/cdh.sock");
        *ttrpc = named[1].as_str().into();
        assert_eq!(told, expected, "{name}");
    }
    let address = guest.address();
    let path = format!("/cdh/resource/{KEY}");
    let bearer = [
        ("host", "localhost"),
        ("authorization", "Bearer 0123456789abcdef"),
    ];
    assert_eq!(
        request(&address, "GET", &path, &bearer[..1], b"").status,
        401
    );
    assert_eq!(
        request(&address, "GET", &path, &bearer, b"").body,
        b"secret"
    );
    // REST and ttRPC share one token.
    assert_eq!(broker.auths(), 1);
    guest.stop();
    for path in paths {
        assert!(!path.exists(), "{} stays behind", path.display());
    }
}

#[test]
fn sockets_that_a_killed_guest_left_behind_are_in_the_way() {
    let broker = ScriptedBroker::start().with_resource(KEY, b"secret");
    let folder = tempfile::tempdir().unwrap();
    drop(run(&broker.url, folder.path(), &[]));
    let [_, hub] = sockets(folder.path());
    assert!(hub.exists());
    let _guest = run(&broker.url, folder.path(), &[]);
    assert!(get_resource(&hub, &format!("kbs:///{KEY}")).ends_with(b"secret"));
}

#[test]
fn brokers_and_sockets_of_upstreams_files_are_not_followed() {
    let own = ScriptedBroker::start().with_resource(KEY, b"own");
    let models = ScriptedBroker::start().with_resource(KEY, b"models");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let aa = file(
        "aa.toml",
        format!(
            "[token_configs.kbs]\nurl = '{}'\n[[brokers]]\nhost = 'models'\nurl = '{}'\n",
            own.url, models.url
        ),
    );
    let socket = folder.path().join("my/cdh.sock");
    let agent = folder.path().join("my/aa.sock");
    let cdh = file(
        "cdh.toml",
        format!(
            "socket = 'unix://{}'\n[aa]\naa_socket = 'unix://{}'\n[kbc]\nname = 'cc_kbc'\nurl = '{}'\n",
            socket.display(),
            agent.display(),
            own.url
        ),
    );
    let arguments = [
        "run",
        "--json",
        "--platform",
        "sample",
        "--listen",
        "127.0.0.1:0",
        "--ttrpc",
        "--aa-config",
        &aa,
        "--cdh-config",
        &cdh,
    ];
    let guest = Running::start(&arguments);
    assert!(agent.exists());
    assert!(get_resource(&socket, &format!("kbs:///{KEY}")).ends_with(b"own"));
    assert!(get_resource(&socket, &format!("kbs://models/{KEY}")).ends_with(b"models"));
    let refused = get_resource(&socket, &format!("kbs://evil/{KEY}"));
    let refused = String::from_utf8_lossy(&refused).into_owned();
    assert!(refused.contains("no broker is listed"), "{refused}");
    guest.stop();
}

#[test]
fn option_that_is_wrong_is_not_named() {
    let base = [
        "run",
        "--platform",
        "sample",
        "--broker",
        "https://127.0.0.1:1",
    ];
    let told = |more: &[&str]| {
        let output = command(&base).args(more).output().unwrap();
        assert!(!output.status.success(), "{more:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (more, words) in [
        (
            &["--require-token", "nofile"][..],
            ["--require-token", "nofile"],
        ),
        (&["--broker-cert", "nofile"], ["--broker-cert", "nofile"]),
    ] {
        let text = told(more);
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    // A file without an end is not read to it.
    assert!(told(&["--broker-cert", "/dev/zero"]).contains("too large"));
    for broker in ["127.0.0.1:8080", "localhost:8080"] {
        let output = command(&["attest", "--platform", "sample", "--broker", broker]).output();
        let text = String::from_utf8(output.unwrap().stderr).unwrap();
        assert!(
            text.contains("https://host:port") && !text.contains("without a base"),
            "{text}"
        );
    }
    let output = command(&["attest", "--platform", "smple"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("development:tdx") && !text.contains("hygon"),
        "{text}"
    );
}

#[test]
fn files_that_name_two_brokers_start_a_guest() {
    let folder = tempfile::tempdir().unwrap();
    let (aa, cdh) = (
        folder.path().join("aa.toml"),
        folder.path().join("cdh.toml"),
    );
    std::fs::write(&aa, "[token_configs.kbs]\nurl = 'https://a'\n").unwrap();
    std::fs::write(&cdh, "[kbc]\nname = 'cc_kbc'\nurl = 'https://b'\n").unwrap();
    let output = command(&["attest", "--platform", "sample"])
        .args(["--aa-config", aa.to_str().unwrap()])
        .args(["--cdh-config", cdh.to_str().unwrap()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("different brokers"),
        "{text}"
    );
}

/// A sealed value that points to the broker of another host, over the REST API of a guest that lists it; signing key and
/// value come from different brokers.
#[test]
fn application_does_not_get_what_another_listed_broker_holds() {
    let own = ScriptedBroker::start().with_resource(KEY, b"own");
    let models = ScriptedBroker::start().with_resource(KEY, b"models");
    let signing = SigningJwk::generate().unwrap();
    let public = signing.public_json("any");
    own.put("default/signing/key", public.as_bytes());
    let secret = SealedSecret::vault(&format!("kbs://models/{KEY}"));
    let sealed = seal(&secret, &signing, "kbs:///default/signing/key").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let aa = folder.path().join("aa.toml");
    let text = format!(
        "[token_configs.kbs]\nurl = '{}'\n[[brokers]]\nhost = 'models'\nurl = '{}'\n",
        own.url, models.url
    );
    std::fs::write(&aa, text).unwrap();
    let guest = Running::start(&[
        "run",
        "--json",
        "--platform",
        "sample",
        "--listen",
        "127.0.0.1:0",
        "--aa-config",
        aa.to_str().unwrap(),
    ]);
    let url = format!("http://{}", guest.address());
    let exec = |sealed: &str| {
        command(&[
            "exec", "--guest", &url, "--wait", "0", "--", "/bin/sh", "-c",
        ])
        .arg("printf %s \"$VALUE\"")
        .env("VALUE", sealed)
        .output()
        .unwrap()
    };
    let done = exec(&sealed);
    assert_eq!(
        done.stdout,
        b"models",
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    // A host that nobody listed is not asked, and the application does not start.
    let evil = SealedSecret::vault(&format!("kbs://evil/{KEY}"));
    let evil = seal(&evil, &signing, "kbs:///default/signing/key").unwrap();
    let refused = exec(&evil);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.stdout.is_empty() && said.contains("no broker is listed"),
        "{said}"
    );
}

#[test]
fn program_says_nothing_of_the_machine_or_names_another_program() {
    let output = command(&["attest", "--platform", "sample", "--explain"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("sample was named"), "{text}");
    assert!(
        text.contains("strongroom-guest attest --broker URL"),
        "{text}"
    );
    for name in ["exec", "unseal-volumes", "pull", "scratch", "run", "attest"] {
        let help = command(&[name, "--help"]).output().unwrap();
        assert!(help.status.success(), "{name}");
    }
}
