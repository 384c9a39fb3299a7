//! What a broker keeps: the record for as long as its configuration says, everything on a disk that gets full, and its
//! storage key where the service manager has it.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use strongroom_broker::{Broker, Config};
use strongroom_testkit::fixtures::skip;
use strongroom_testkit::process::{Program, Running};
use support::{Place, document, printed, wait_until};

const YEAR: u64 = 365 * 86_400;

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn start(program: &Program) -> (Running, String) {
    let running = program.start().unwrap();
    let line = running.wait_for_line("\"ready\"").unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    (running, ready["url"].as_str().unwrap().to_owned())
}

fn broker(place: &Place, folder: &str) -> Program {
    place.program(&["broker", "run", folder, "--json", "--listen", "127.0.0.1:0"])
}

/// A broker's folder with more than a bundle of entries that are two years old: it was started that often then.
fn aged() -> Place {
    let place = Place::new();
    place.ok(&["broker", "init", "broker"]);
    for _ in 0..260 {
        let config = Config::load(&place.join("broker/broker.toml")).unwrap();
        drop(Broker::open_with_clock(config, Arc::new(|| now() - 2 * YEAR)).unwrap());
    }
    place
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn pruned_record_does_not_verify_or_a_deleted_one_does() {
    let place = aged();
    let key = "broker/audit.pub";
    let verify = |folder: &str| place.run(&["--json", "audit", "verify", folder, "--key", key]);
    let fails = |folder: &str, reason: &str| {
        let said = printed(&verify(folder));
        assert!(
            said.contains("does not hold") && said.contains(reason),
            "{folder}: {said}"
        );
    };

    // A copy of the whole record, and what an attacker makes of it.
    let (running, url) = start(&broker(&place, "broker"));
    place.ok(&["audit", "export", "whole", "--broker", &url]);
    place.ok(&["audit", "verify", "--broker", &url, "--keep", "before"]);
    let refused = place.run(&["audit", "prune", "--broker", &url]);
    assert!(
        printed(&refused).contains("keep_days in [audit]"),
        "{}",
        printed(&refused)
    );
    running.terminate().unwrap();
    assert_eq!(document(&verify("whole"))["first"], 1);
    copy(&place.join("whole"), &place.join("cut"));
    fs::remove_file(place.join("cut/tile/entries/000")).unwrap();
    fails("cut", "tile/entries/000 is missing");
    fails("cut", "no entry says that it was pruned");

    // The broker prunes by itself, and says so.
    let kept = broker(&place, "broker").env("STRONGROOM_BROKER__AUDIT__KEEP_DAYS", "365");
    let (running, url) = start(&kept);
    let with = ["--broker", url.as_str()];
    wait_until("it has pruned", || {
        let args = [&["--json", "audit", "verify"], &with[..]].concat();
        document(&place.ok(&args))["first"] == 257
    });
    let said = place.ok(&[&["audit", "verify", "--since", "before"], &with[..]].concat());
    let said = said.stdout_text();
    assert!(
        said.contains("Entries 1 to 256 are not there any more")
            && said.contains("as its configuration says"),
        "{said}"
    );
    assert!(said.contains("begins with what before signs"), "{said}");
    let nothing = place.ok(&[&["audit", "prune"], &with[..]].concat());
    assert!(nothing.stdout_text().contains("there from entry 257 on"));
    let young = [&["audit", "prune", "--before", "2126-01-01"], &with[..]].concat();
    let refused = printed(&place.run(&young));
    assert!(
        refused.contains("keeps its record for 365 days"),
        "{refused}"
    );
    let whole = fs::read_to_string(place.join("before")).unwrap();
    assert!(whole.starts_with("strongroom-audit\n"));
    let listed = place.ok(&[&["audit", "--before", "257"], &with[..]].concat());
    assert!(
        listed.stdout_text().contains("pruned"),
        "{}",
        listed.stdout_text()
    );

    // A fresh copy begins there, and one that was there before keeps what it has.
    for (folder, first) in [("fresh", 257), ("whole", 1)] {
        place.ok(&[&["audit", "export", folder, "--jsonl", "lines"], &with[..]].concat());
        let verified = document(&verify(folder));
        assert_eq!(verified["first"], first, "{folder}");
        let lines = fs::read_to_string(place.join("lines")).unwrap();
        let entries = verified["entries"].as_u64().unwrap();
        assert_eq!(lines.lines().count() as u64, entries, "{folder}");
    }
    let report = [
        "audit",
        "report",
        "--from",
        "2020-01-01",
        "--to",
        "2126-01-01",
        "--log",
        "fresh",
        "--key",
        key,
    ];
    let report = place.ok(&report).stdout_text();
    assert!(
        report.contains("Entries 1 to 256 are not there any more"),
        "{report}"
    );
    running.terminate().unwrap();

    // What is above the minimum may not be missing.
    let bundle = fs::read_dir(place.join("fresh/tile/entries/001.p")).unwrap();
    let bundle = bundle.last().unwrap().unwrap().path();
    let aside = place.join("aside");
    fs::rename(&bundle, &aside).unwrap();
    fails("fresh", "is missing");
    fs::rename(&aside, &bundle).unwrap();
    assert!(verify("fresh").status.success());
    // Nor may a record that was pruned pass with the checkpoint of another.
    fs::copy(place.join("before"), place.join("fresh/checkpoint")).unwrap();
    assert_eq!(verify("fresh").status.code(), Some(1));
}

/// A file system of its own for a test, of a few megabytes.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: PathBuf) -> Option<Self> {
        fs::create_dir_all(&folder).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs"])
            .arg(&folder)
            .output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            skip("no file system may be mounted here");
            return None;
        }
        Some(Self(folder))
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let mut ballast = fs::File::create(self.0.join("ballast")).unwrap();
        let block = [0; 4096];
        while ballast.write_all(&block).is_ok() {}
        // Down to the last page.
        while ballast.write_all(&[0]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }

    fn remount(&self, how: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(&self.0)
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status()
            .unwrap();
    }
}

fn plain(place: &Place, config: &str) {
    let text = String::from_utf8(place.read(config)).unwrap();
    let (before, rest) = text.split_once("[tls]").unwrap();
    let after = rest.split_once("\n# Secrets").unwrap().1;
    place.write(
        config,
        format!("insecure_http = true\n{before}\n# Secrets{after}"),
    );
}

fn get(url: &str, path: &str) -> String {
    let address = url.strip_prefix("http://").unwrap().trim_end_matches('/');
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn full_disk_is_told_as_anything_else_or_costs_what_was_there() {
    let place = Place::new();
    let Some(disk) = Disk::mount(place.join("disk")) else {
        return;
    };
    place.ok(&["broker", "init", "disk/broker"]);
    plain(&place, "disk/broker/broker.toml");
    let (running, url) = start(&broker(&place, "disk/broker"));
    let with = ["--dir", "disk/broker", "--broker", url.as_str()];
    place.write("secret", [7; 20_000]);
    let put = |path: &str| place.run(&[&["resource", "put", path, "secret"], &with[..]].concat());
    assert!(put("default/key/one").status.success());
    assert!(get(&url, "/readyz").starts_with("HTTP/1.1 200 "));
    disk.fill();
    let refused = put("default/key/two");
    let said = printed(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the disk under the broker's store is full"),
        "{said}"
    );
    wait_until("it says that it is not ready", || {
        get(&url, "/readyz").contains("\"store-full\"")
    });
    // The process lives, and what was there is there.
    assert!(get(&url, "/healthz").starts_with("HTTP/1.1 200 "));
    let listed = place.ok(&[&["--json", "resource", "list"], &with[..]].concat());
    assert!(listed.stdout_text().contains("default/key/one"));
    disk.make_room();
    assert!(put("default/key/two").status.success());
    wait_until("it is ready again", || {
        get(&url, "/readyz").starts_with("HTTP/1.1 200 ")
    });
    place.ok(&[&["audit", "verify"], &with[..]].concat());
    running.terminate().unwrap();
}

#[test]
fn broker_starts_on_a_disk_that_it_cannot_write() {
    let place = Place::new();
    let Some(disk) = Disk::mount(place.join("disk")) else {
        return;
    };
    place.ok(&["broker", "init", "disk/broker"]);
    disk.remount("ro");
    let refused = broker(&place, "disk/broker").run().unwrap();
    let said = printed(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("disk/broker/strongroom") && said.contains("Read-only file system"),
        "{said}"
    );
    disk.remount("rw");
    let (running, _) = start(&broker(&place, "disk/broker"));
    assert!(running.terminate().unwrap().status.success());
}

#[test]
fn storage_key_in_the_credential_folder_is_not_used_or_is_written_there() {
    let place = Place::new();
    place.ok(&["broker", "init", "broker"]);
    fs::create_dir(place.join("credentials")).unwrap();
    let credential = place.join("credentials/storage.key");
    fs::rename(place.join("broker/storage.key"), &credential).unwrap();
    // As systemd hands it: the bits of the group are the mask of an access control list.
    let is_root = rustix::process::geteuid().is_root();
    let mode = if is_root { 0o440 } else { 0o400 };
    let handed = |content: &str| {
        fs::set_permissions(&credential, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&credential, content).unwrap();
        fs::set_permissions(&credential, fs::Permissions::from_mode(mode)).unwrap();
    };
    let old = fs::read_to_string(&credential).unwrap();
    handed(&old);
    let program = || {
        broker(&place, "broker")
            .env("CREDENTIALS_DIRECTORY", place.join("credentials"))
            .env("STRONGROOM_BROKER__STORE__KEY_FILE", &credential)
    };
    if is_root {
        let stranger = program().env("CREDENTIALS_DIRECTORY", "/run/credentials/other");
        let refused = printed(&stranger.run().unwrap());
        assert!(refused.contains("has mode 440"), "{refused}");
    }
    place.write("secret", "s");
    let (running, url) = start(&program());
    let with = ["--broker", url.as_str()];
    place.ok(&[&["resource", "put", "default/key/one", "secret"], &with[..]].concat());
    // What is written there would be gone with the process, and the secrets with it.
    let refused = place.run(&[&["broker", "rotate-key"], &with[..]].concat());
    let said = printed(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("it is a credential") && said.contains("openssl rand -hex 32"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&credential).unwrap(), old);
    running.terminate().unwrap();

    // So its owner writes a fresh line there, and a start wraps everything anew.
    let fresh = format!("{}\n", "5a".repeat(32));
    handed(&format!("{fresh}{old}"));
    let (running, url) = start(&program());
    let with = ["--broker", url.as_str()];
    wait_until("it is wrapped anew", || {
        let audit = place.ok(&[&["audit"], &with[..]].concat()).stdout_text();
        audit.contains("take the others out of the key file")
    });
    running.terminate().unwrap();
    handed(&fresh);
    let (running, url) = start(&program());
    let with = ["--broker", url.as_str()];
    let back = ["resource", "rollback", "default/key/one", "--to", "1"];
    // Opens what was sealed first.
    place.ok(&[&back[..], &with].concat());
    running.terminate().unwrap();
}
