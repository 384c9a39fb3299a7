//! Mounted volumes and their mirrors, against a broker that follows a script: what appears, when, and what never does.

#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod broker;
mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use broker::{ScriptedBroker, error};
use strongroom_client::seal::{seal_envelope, seal_vault};
use strongroom_guest::data::unseal::Signature;
use strongroom_guest::volumes::{Access, Pace, Volume, VolumeStatus, Volumes};
use strongroom_guest::{GuestError, Placement, Source, UnsealOptions, Unsealer};
use strongroom_wire::sealed_secret::SigningJwk;
use support::agent;

const KEY: &str = "default/secrets/key";
const OTHER: &str = "default/secrets/other";
const KEK: &str = "default/envelope-keys/one";
const SIGNING: &str = "default/signing-key/sealed";

/// A broker, a folder for volumes, and one in memory for their mirrors.
struct Bench {
    broker: ScriptedBroker,
    signing: SigningJwk,
    volumes: tempfile::TempDir,
    mirrors: tempfile::TempDir,
}

impl Bench {
    fn new() -> Option<Self> {
        let Ok(mirrors) = tempfile::tempdir_in("/dev/shm") else {
            println!("SKIPPED: no /dev/shm to write to");
            return None;
        };
        let signing = SigningJwk::generate().unwrap();
        let broker = ScriptedBroker::start()
            .with_resource(KEY, b"the key\n")
            .with_resource(OTHER, b"binary \0\xff")
            .with_resource(KEK, &[7; 32])
            .with_resource(SIGNING, signing.public_json("any").as_bytes());
        Some(Self {
            broker,
            signing,
            volumes: tempfile::tempdir().unwrap(),
            mirrors,
        })
    }

    fn seal(&self, path: &str) -> String {
        let uri = |path: &str| format!("kbs:///{path}").parse().unwrap();
        seal_vault(&uri(path), &self.signing, &uri(SIGNING)).unwrap()
    }

    fn envelope(&self, plaintext: &[u8]) -> String {
        let uri = |path: &str| format!("kbs:///{path}").parse().unwrap();
        let (kek, signing) = (uri(KEK), uri(SIGNING));
        seal_envelope(plaintext, &[7; 32], &kek, &self.signing, &signing).unwrap()
    }

    fn from(&self, name: &str) -> PathBuf {
        self.volumes.path().join(name)
    }

    fn to(&self, name: &str) -> PathBuf {
        self.mirrors.path().join(name)
    }

    fn volume(&self, name: &str) -> Volume {
        Volume {
            from: self.from(name),
            to: self.to(name),
        }
    }

    fn unsealer(&self) -> Unsealer {
        self.unsealer_with(UnsealOptions::default())
    }

    fn unsealer_with(&self, options: UnsealOptions) -> Unsealer {
        Unsealer::new(Source::Agent(agent(&self.broker.url)), options)
    }

    fn start_with(&self, names: &[&str], unsealer: &Unsealer) -> Result<Volumes, GuestError> {
        let volumes = names.iter().map(|name| self.volume(name)).collect();
        let mut volumes = Volumes::open(volumes, Access::default(), Placement::MemoryOnly)?;
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(volumes.start(unsealer, &mut |_, step| step()))?;
        Ok(volumes)
    }

    fn start(&self, names: &[&str]) -> Result<Volumes, GuestError> {
        self.start_with(names, &self.unsealer())
    }

    #[track_caller]
    fn refused(&self, names: &[&str]) -> String {
        let error = self.start(names).err().unwrap().to_string();
        for name in names {
            let to = self.to(name);
            assert!(!to.is_dir() || fs::read_dir(&to).unwrap().count() == 0);
            assert!(!to.is_file());
        }
        error
    }
}

/// Puts a version of a volume in force, as the kubelet does.
fn swap(volume: &Path, version: &str, keys: &[(&str, &str)]) {
    let folder = volume.join(version);
    fs::create_dir_all(&folder).unwrap();
    for (key, content) in keys {
        fs::write(folder.join(key), content).unwrap();
    }
    let before = fs::read_link(volume.join("..data")).ok();
    symlink(version, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    for (key, _) in keys {
        symlink(format!("..data/{key}"), volume.join(key)).ok();
    }
    if let Some(before) = before {
        fs::remove_dir_all(volume.join(before)).unwrap();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(".."))
        .collect();
    names.sort();
    names
}

#[test]
fn every_form_of_volume_appears_in_plaintext() {
    let Some(bench) = Bench::new() else { return };
    let sealed = format!("{}\r\n", bench.seal(KEY));
    swap(
        &bench.from("kubelets"),
        "..2026_11_23",
        &[("key", &sealed), ("plain", "sealed? no")],
    );
    fs::create_dir_all(bench.from("folder/deep")).unwrap();
    fs::write(bench.from("folder/deep/other"), bench.seal(OTHER)).unwrap();
    fs::write(bench.from("folder/bytes"), [0xff, 0xfe, 0]).unwrap();
    let odd = OsStr::from_bytes(b"\xff");
    fs::write(bench.from("folder").join(odd), "odd").unwrap();
    fs::write(bench.from("sub.path"), bench.envelope(b"inside")).unwrap();

    let all = ["kubelets", "folder", "sub.path"];
    let volumes = bench.start(&all).unwrap();
    let read = |name: &str| fs::read(bench.to(name)).unwrap();
    assert_eq!(read("kubelets/key"), b"the key\n");
    assert_eq!(read("kubelets/plain"), b"sealed? no");
    assert_eq!(
        fs::read_link(bench.to("kubelets/key")).unwrap(),
        Path::new("..data/key")
    );
    assert_eq!(read("folder/deep/other"), b"binary \0\xff");
    assert_eq!(read("folder/bytes"), [0xff, 0xfe, 0]);
    assert_eq!(fs::read(bench.to("folder").join(odd)).unwrap(), b"odd");
    assert_eq!(read("sub.path"), b"inside");
    assert!(bench.to("sub.path").symlink_metadata().unwrap().is_file());
    assert!(volumes.status().iter().all(|one| one.problem.is_none()));
    volumes.clear();
    assert_eq!(names(&bench.to("folder")), [""; 0]);
    assert!(!bench.to("sub.path").exists());
}

#[test]
fn one_of_three_secrets_is_bad_and_something_appears() {
    let Some(bench) = Bench::new() else { return };
    let stranger = Bench::new().unwrap();
    fs::create_dir(bench.from("good")).unwrap();
    fs::write(bench.from("good/key"), bench.seal(KEY)).unwrap();
    swap(
        &bench.from("bad"),
        "..1",
        &[("1", &bench.seal(KEY)), ("2", &stranger.seal(KEY))],
    );
    let text = bench.refused(&["good", "bad"]);
    assert!(
        text.contains("bad/2") && text.contains("signature"),
        "{text}"
    );
    // Mended, everything is there.
    swap(&bench.from("bad"), "..2", &[("1", &bench.seal(KEY))]);
    bench.start(&["good", "bad"]).unwrap();
    assert_eq!(fs::read(bench.to("bad/1")).unwrap(), b"the key\n");
}

#[test]
fn denial_or_missing_secret_lets_something_appear() {
    let Some(bench) = Bench::new() else { return };
    fs::create_dir(bench.from("v")).unwrap();
    fs::write(bench.from("v/key"), bench.seal(KEY)).unwrap();
    bench.broker.on_get([error(403, "PolicyDeny")]);
    assert!(bench.refused(&["v"]).contains("denied"));
    bench.broker.delete(KEY);
    assert!(bench.refused(&["v"]).contains("does not exist"));
}

#[test]
fn sealed_bytes_that_are_no_text_or_preceded_are_copied() {
    let Some(bench) = Bench::new() else { return };
    fs::create_dir(bench.from("v")).unwrap();
    for (content, reason) in [
        (b"sealed.\xff".to_vec(), "not UTF-8"),
        (format!("\n{}", bench.seal(KEY)).into(), "stands before"),
        (b"sealed.".to_vec(), "parts"),
    ] {
        fs::write(bench.from("v/key"), content).unwrap();
        let text = bench.refused(&["v"]);
        assert!(text.contains(reason), "{text}");
    }
    assert_eq!(bench.broker.auths(), 0);
}

#[test]
fn unsigned_secrets_need_no_name() {
    let Some(bench) = Bench::new() else { return };
    let sealed = bench.seal(KEY);
    let payload = sealed.split('.').nth(2).unwrap();
    fs::create_dir(bench.from("v")).unwrap();
    let legacy = format!("sealed.fakejwsheader.{payload}.fakesignature");
    fs::write(bench.from("v/key"), legacy).unwrap();
    assert!(bench.refused(&["v"]).contains("unsigned"));
    let named = bench.unsealer_with(UnsealOptions {
        signature: Signature::InsecureSkip,
        ..UnsealOptions::default()
    });
    bench.start_with(&["v"], &named).unwrap();
    assert_eq!(fs::read(bench.to("v/key")).unwrap(), b"the key\n");
}

#[test]
fn envelope_opens_with_a_key_that_was_replaced() {
    let Some(bench) = Bench::new() else { return };
    fs::create_dir(bench.from("v")).unwrap();
    fs::write(bench.from("v/key"), bench.envelope(b"inside")).unwrap();
    bench.broker.put(KEK, &[8; 32]);
    let text = bench.refused(&["v"]);
    assert!(text.contains("does not open"), "{text}");
    bench.broker.put(KEK, b"a passphrase\n");
    let text = bench.refused(&["v"]);
    assert!(text.contains("13 bytes"), "{text}");
}

#[test]
fn mirror_on_a_disk_is_written_or_the_broker_asked() {
    let Some(bench) = Bench::new() else { return };
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if rustix::fs::statfs(disk.path()).unwrap().f_type == 0x0102_1994 {
        println!("SKIPPED: the build folder itself is on tmpfs");
        return;
    }
    fs::create_dir(bench.from("v")).unwrap();
    fs::write(bench.from("v/key"), bench.seal(KEY)).unwrap();
    for (from, to) in [("v", "made"), ("v/key", "file")] {
        let volume = Volume {
            from: bench.from(from),
            to: disk.path().join(to),
        };
        let open = |placement| Volumes::open(vec![volume.clone()], Access::default(), placement);
        let refused = open(Placement::MemoryOnly).err().unwrap();
        assert!(
            matches!(refused, GuestError::NotInMemory { .. }),
            "{refused}"
        );
        assert_eq!(names(disk.path()), [""; 0]);
        assert_eq!(bench.broker.auths(), 0);
        assert!(open(Placement::InsecureAnyFilesystem).is_ok());
        fs::remove_dir(disk.path().join(to)).ok();
    }
}

#[test]
fn mirror_in_a_volume_or_of_two_volumes_is_made() {
    let Some(bench) = Bench::new() else { return };
    fs::create_dir_all(bench.from("v")).unwrap();
    fs::create_dir_all(bench.from("w")).unwrap();
    let open = |pairs: &[(PathBuf, PathBuf)]| {
        let volumes = pairs
            .iter()
            .map(|(from, to)| Volume {
                from: from.clone(),
                to: to.clone(),
            })
            .collect();
        let placement = Placement::InsecureAnyFilesystem;
        let refused = Volumes::open(volumes, Access::default(), placement).err();
        refused.unwrap().to_string()
    };
    let (v, w) = (bench.from("v"), bench.from("w"));
    for text in [
        open(&[(v.clone(), v.clone())]),
        open(&[(v.clone(), v.join("to"))]),
        open(&[(v.clone(), v.parent().unwrap().to_owned())]),
        open(&[(v.clone(), bench.to("v")), (w.clone(), v.join("to"))]),
        open(&[(v.clone(), w.join("to")), (w.clone(), bench.to("w"))]),
        open(&[
            (v.clone(), bench.to("v")),
            (w.clone(), bench.to("v").join("w")),
        ]),
    ] {
        assert!(text.contains("lie in each other"), "{text}");
    }
    let both = [(v.clone(), bench.to("same")), (w, bench.to("same"))];
    assert!(open(&both).contains("two volumes"));
    assert!(open(&[(bench.from("none"), bench.to("none"))]).contains("cannot be read"));
    assert!(!bench.to("none").exists());
}

/// Keeps a volume in a thread until dropped; its news come over a channel.
struct Keeper {
    news: mpsc::Receiver<Vec<VolumeStatus>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Keeper {
    fn start(mut volumes: Volumes, unsealer: Unsealer, pace: Pace) -> Self {
        let (sender, news) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let mut on_status = |status: &[VolumeStatus]| sender.send(status.to_vec()).unwrap();
            let stopped = async {
                // Sent, or dropped with the test.
                let _ = stopped.await;
            };
            runtime.block_on(volumes.keep(&unsealer, pace, &mut on_status, stopped));
        });
        let keeper = Self {
            news,
            stop: Some(stop),
            thread: Some(thread),
        };
        assert_eq!(keeper.problem(), None);
        keeper
    }

    /// The one volume's problem in the next news.
    fn problem(&self) -> Option<String> {
        let news = self.news.recv_timeout(Duration::from_secs(30)).unwrap();
        news[0].problem.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[test]
fn rotated_secret_is_not_unsealed_again_or_a_failed_one_takes_the_old_away() {
    let Some(bench) = Bench::new() else { return };
    let volume = bench.from("v");
    let sealed = bench.seal(KEY);
    swap(&volume, "..1", &[("key", &sealed), ("gone", "x")]);
    let volumes = bench.start(&["v"]).unwrap();
    let keeper = Keeper::start(volumes, bench.unsealer(), Pace::default());
    let read = || fs::read(bench.to("v/key")).unwrap();

    bench.broker.put(OTHER, b"the second");
    swap(&volume, "..2", &[("key", &bench.seal(OTHER))]);
    assert_eq!(keeper.problem(), None);
    assert_eq!(read(), b"the second");
    assert_eq!(names(&bench.to("v")), ["key"]);

    // One of two is bad: neither appears.
    let bad = sealed.replace("sealed.ey", "sealed.eY");
    swap(&volume, "..3", &[("key", &sealed), ("bad", &bad)]);
    assert!(keeper.problem().unwrap().contains("v/bad"));
    assert_eq!(read(), b"the second");
    assert_eq!(names(&bench.to("v")), ["key"]);

    swap(&volume, "..4", &[("key", &sealed), ("good", &sealed)]);
    assert_eq!(keeper.problem(), None);
    assert_eq!(read(), b"the key\n");
    assert_eq!(names(&bench.to("v")), ["good", "key"]);
}

#[test]
fn broker_that_is_down_when_the_secret_rotates_is_given_up() {
    let Some(bench) = Bench::new() else { return };
    fs::write(bench.from("key"), bench.seal(KEY)).unwrap();
    let volumes = bench.start(&["key"]).unwrap();
    let keeper = Keeper::start(volumes, bench.unsealer(), Pace::default());
    // Denied once, which is tried again later; then the file changes, which is at once.
    bench.broker.on_get([error(403, "PolicyDeny")]);
    fs::write(bench.from("next"), bench.seal(OTHER)).unwrap();
    fs::rename(bench.from("next"), bench.from("key")).unwrap();
    assert!(keeper.problem().unwrap().contains("denied"));
    assert_eq!(fs::read(bench.to("key")).unwrap(), b"the key\n");
    // Not reached, which is tried again soon.
    bench.broker.on_auth([error(503, "x"), error(503, "x")]);
    bench.broker.on_get([error(503, "x"), error(503, "x")]);
    fs::write(bench.from("next"), bench.seal(OTHER)).unwrap();
    fs::rename(bench.from("next"), bench.from("key")).unwrap();
    assert!(keeper.problem().unwrap().contains("503"));
    assert_eq!(keeper.problem(), None);
    assert_eq!(fs::read(bench.to("key")).unwrap(), b"binary \0\xff");
}

#[test]
fn what_the_broker_has_now_is_not_fetched_when_that_is_asked_for() {
    let Some(bench) = Bench::new() else { return };
    fs::create_dir(bench.from("v")).unwrap();
    fs::write(bench.from("v/key"), bench.seal(KEY)).unwrap();
    let volumes = bench.start(&["v"]).unwrap();
    let pace = Pace {
        refresh: Some(Duration::from_millis(20)),
        ..Pace::default()
    };
    let keeper = Keeper::start(volumes, bench.unsealer(), pace);
    bench.broker.put(KEY, b"rotated");
    assert_eq!(keeper.problem(), None);
    assert_eq!(fs::read(bench.to("v/key")).unwrap(), b"rotated");
}

#[test]
fn what_upstreams_tests_sealed_is_unsealed_otherwise() {
    let Some(bench) = Bench::new() else { return };
    let files = ["test", "nim-instruct", "nim-embedqa"];
    let read = |name: &str| support::fixture(&format!("guest/sealed-secrets/{name}"));
    let Some(jwk) = read("kata-signing-public.jwk.json") else {
        return;
    };
    let put = |path: &str, text: &str| bench.broker.put(path, text.as_bytes());
    put("default/signing-key/sealed-secret", &jwk);
    put("default/sealed-secret/test", "unsealed_secret");
    put("default/ngc-api-key/instruct", "instruct");
    put("default/ngc-api-key/embedqa", "embedqa");
    let keys = files.map(|file| {
        (
            file,
            read(&format!("kata-precreated-{file}.sealed")).unwrap(),
        )
    });
    let version: Vec<_> = keys
        .iter()
        .map(|(file, text)| (*file, text.as_str()))
        .collect();
    let volume = "..2024_09_30_02_55_58.2237819815";
    swap(&bench.from("v"), volume, &version);
    bench.start(&["v"]).unwrap();
    let opened = files.map(|file| fs::read_to_string(bench.to("v").join(file)).unwrap());
    assert_eq!(opened, ["unsealed_secret", "instruct", "embedqa"]);

    // What `cococtl` wrote without a signature.
    let path = "guest/cococtl/pod-with-env-secret-trustee-secrets.json";
    let pod: serde_json::Value = serde_json::from_str(&support::fixture(path).unwrap()).unwrap();
    put("default/db-creds/password", "password");
    put("default/api-secret/key", "key");
    for secret in pod["secrets"].as_array().unwrap() {
        let uri = secret["resourceUri"].as_str().unwrap();
        let name = uri.rsplit('/').next().unwrap();
        fs::write(bench.from(name), secret["sealedSecret"].as_str().unwrap()).unwrap();
        assert!(bench.refused(&[name]).contains("unsigned"));
        let named = bench.unsealer_with(UnsealOptions {
            signature: Signature::InsecureSkip,
            ..UnsealOptions::default()
        });
        bench.start_with(&[name], &named).unwrap();
        assert_eq!(fs::read_to_string(bench.to(name)).unwrap(), name);
    }
}

#[test]
fn sealed_text_at_the_broker_passes_for_plaintext() {
    let Some(bench) = Bench::new() else { return };
    bench.broker.put(KEY, bench.seal(OTHER).as_bytes());
    fs::create_dir(bench.from("v")).unwrap();
    fs::write(bench.from("v/key"), bench.seal(KEY)).unwrap();
    let text = bench.refused(&["v"]);
    assert!(text.contains("a sealed secret itself"), "{text}");
}
