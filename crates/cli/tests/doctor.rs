//! The way from a guest to its secret, with the real broker and the real guest, and one thing wrong each time.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use serde_json::Value;
use strongroom_testkit::process::Running;

use support::{Place, document, printed, strongroom};

struct World {
    place: Place,
    _broker: Running,
    url: String,
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        place.ok(&["broker", "init", "--insecure-accept-sample-evidence"]);
        let (broker, url) = place.start_broker();
        let world = Self {
            place,
            _broker: broker,
            url,
        };
        world.place.write("secret", "0123456789abcdef");
        for resource in ["default/secrets/a", "denied/secrets/a"] {
            world.admin(&["resource", "put", resource, "secret"]);
        }
        world.admin(&[
            "reference-value",
            "set",
            "launch_digest=abcde",
            "svn=\"1\"",
            "major_version=1",
            "minimum_minor_version=1",
            "accept_development_assurance=true",
        ]);
        world.admin(&[
            "policy",
            "allow",
            "default/*/*",
            "--assurance",
            "development",
        ]);
        world
    }

    fn admin(&self, args: &[&str]) {
        self.place.ok(&[args, &["--broker", &self.url]].concat());
    }

    /// Walks the way; the exit code says whether a step failed.
    #[track_caller]
    fn walk(&self, broker: &str, certificate: &str, more: &[&str]) -> Walked {
        let args = [
            "--json",
            "doctor",
            "--platform",
            "sample",
            "--broker",
            broker,
        ];
        let args = [&args[..], &["--broker-cert", certificate], more].concat();
        walked(&self.place, &args)
    }
}

#[track_caller]
fn walked(place: &Place, args: &[&str]) -> Walked {
    let finished = place.run(args);
    let told = document(&finished);
    let failed = told["failed"].as_u64().unwrap();
    let code = i32::from(failed > 0);
    assert_eq!(finished.status.code(), Some(code), "{}", printed(&finished));
    assert_eq!(told["good"], failed == 0);
    for step in told["steps"].as_array().unwrap() {
        let mended = step["cause"].is_string() && step["mend"].is_string();
        assert_eq!(step["status"] == "fail", mended, "{step}");
    }
    Walked(told)
}

struct Walked(Value);

impl Walked {
    fn steps(&self, name: &str) -> Vec<&Value> {
        let steps = self.0["steps"].as_array().unwrap();
        steps.iter().filter(|step| step["name"] == name).collect()
    }

    #[track_caller]
    fn is(&self, name: &str, status: &str, words: &str) {
        let steps = self.steps(name);
        let holds = |step: &&Value| step["status"] == status && step.to_string().contains(words);
        assert!(steps.iter().any(holds), "{name}: {:#}", self.0);
    }

    fn failed(&self) -> Vec<&str> {
        let steps = self.0["steps"].as_array().unwrap().iter();
        let failed = steps.filter(|step| step["status"] == "fail");
        failed.map(|step| step["name"].as_str().unwrap()).collect()
    }
}

#[test]
fn guest_that_gets_its_secret_is_told_to_be_ill() {
    let world = World::new();
    let listen = format!("unix:{}", world.place.join("guest.sock").display());
    let guest = world
        .place
        .program(&["guest", "run", "--platform", "sample", "--json"])
        .args(["--broker", &world.url, "--broker-cert", "broker/tls.crt"])
        .args(["--listen", &listen])
        .start()
        .unwrap();
    guest.wait_for_line("\"ready\"").unwrap();
    let new = ["initdata", "new", "initdata.toml", "--broker", &world.url];
    let new = [
        &new[..],
        &["--broker-cert", "broker/tls.crt", "--allow-logs"],
    ]
    .concat();
    world.place.ok(&new);
    world.place.ok(&["initdata", "check", "initdata.toml"]);
    let args = [
        "--json",
        "doctor",
        "kbs:///default/secrets/a",
        "--platform",
        "sample",
    ];
    let more = [
        "--initdata",
        "initdata.toml",
        "--guest",
        &listen,
        "--storage",
        "secret",
    ];
    let walked = walked(&world.place, &[&args[..], &more].concat());
    assert!(walked.failed().is_empty(), "{:#}", walked.0);
    for step in [
        "init-data",
        "broker",
        "tls",
        "clock",
        "platform",
        "attestation",
        "storage",
        "guest API",
    ] {
        walked.is(step, "pass", "");
    }
    walked.is("resource", "pass", "16 bytes");
    walked.is(
        "policy",
        "pass",
        "any command (kubectl exec): refused; logs: allowed",
    );
    // Nothing vouches for it on this platform, and that is not a pass.
    walked.is("measured", "skipped", "no hardware");
    assert!(!walked.0.to_string().contains("0123456789abcdef"));
}

#[test]
fn owner_learns_of_what_is_missing_from_the_guest_alone() {
    let world = World::new();
    let new = ["--broker", &world.url, "--broker-cert", "broker/tls.crt"];
    for (file, more) in [("known.toml", &[][..]), ("other.toml", &["--allow-logs"])] {
        world
            .place
            .ok(&[&["initdata", "new", file], &new[..], more].concat());
    }
    let allow = ["policy", "allow", "only/*/*", "--assurance", "development"];
    world.admin(&[&allow[..], &["--initdata", "known.toml"]].concat());
    let walk = |file: &str, resource: &str| {
        let args = ["--json", "doctor", "--owner", resource, "--initdata", file];
        let key = ["--admin-key", "broker/admin.key"];
        walked(&world.place, &[&args[..], &key].concat())
    };
    let good = walk("known.toml", "kbs:///default/secrets/a");
    assert!(good.failed().is_empty(), "{:#}", good.0);
    good.is("resource", "pass", "16 bytes");
    good.is("release policy", "pass", "names this init-data");
    good.is("reference values", "pass", "none has ended");
    good.is("attestation", "skipped", "only a guest");
    let bad = walk("other.toml", "kbs:///default/secrets/none");
    assert_eq!(bad.failed(), ["resource", "release policy"]);
    bad.is(
        "resource",
        "fail",
        "strongroom resource put default/secrets/none FILE",
    );
    bad.is("release policy", "fail", "policy allow");
    // Without a key that is not known, and said so.
    let args = ["--json", "doctor", "--owner", "--initdata", "known.toml"];
    walked(&world.place, &args).is("release policy", "skipped", "--admin-key");
}

#[test]
fn secret_that_is_denied_or_missing_is_not_told_apart() {
    let world = World::new();
    let more = ["kbs:///denied/secrets/a", "kbs:///default/secrets/none"];
    let walked = world.walk(&world.url, "broker/tls.crt", &more);
    assert_eq!(walked.failed(), ["resource", "resource", "guest API"]);
    walked.is("resource", "fail", "audit explain");
    walked.is("resource", "fail", "resource put");
    walked.is("guest API", "fail", "strongroom guest run");
}

#[test]
fn guest_with_another_document_than_the_owner_knows() {
    let world = World::new();
    world.admin(&["resource", "put", "only/secrets/a", "secret"]);
    let new = ["--broker", &world.url, "--broker-cert", "broker/tls.crt"];
    for (file, more) in [("known.toml", &[][..]), ("other.toml", &["--allow-logs"])] {
        let args = [&["initdata", "new", file], &new[..], more].concat();
        world.place.ok(&args);
    }
    let allow = ["policy", "allow", "only/*/*", "--assurance", "development"];
    world.admin(&[&allow[..], &["--initdata", "known.toml"]].concat());
    let walk = |file: &str| {
        let more = ["kbs:///only/secrets/a", "--initdata", file];
        world.walk(&world.url, "broker/tls.crt", &more)
    };
    walk("known.toml").is("resource", "pass", "16 bytes");
    let other = walk("other.toml");
    other.is("attestation", "pass", "believes");
    other.is("resource", "fail", "its init-data");
    other.is("resource", "fail", "policy allow ... --initdata FILE");
}

#[test]
fn broker_that_is_down_or_another_or_of_another_name() {
    let world = World::new();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let walked = world.walk(
        &format!("https://127.0.0.1:{port}"),
        "broker/tls.crt",
        &["kbs:///default/secrets/a"],
    );
    walked.is("broker", "fail", "strongroom broker run");
    for step in ["tls", "clock", "attestation", "resource"] {
        walked.is(step, "skipped", "");
    }

    world.place.ok(&["broker", "init", "other"]);
    let walked = world.walk(&world.url, "other/tls.crt", &[]);
    walked.is("broker", "pass", "answers");
    walked.is("tls", "fail", "another certificate");
    walked.is("attestation", "skipped", "not reached");

    let broker = world
        .place
        .program(&[
            "broker",
            "run",
            "other",
            "--json",
            "--listen",
            "127.0.0.2:0",
        ])
        .start()
        .unwrap();
    let line = broker.wait_for_line("\"ready\"").unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let walked = world.walk(ready["url"].as_str().unwrap(), "other/tls.crt", &[]);
    walked.is("tls", "fail", "for other names");
    walked.is("tls", "fail", "--name HOST");
}

#[test]
fn clock_of_a_guest_that_is_ahead() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // A broker's answer as it came an hour ago, and one that does not say when.
    let hour_ago = time::OffsetDateTime::now_utc() - time::Duration::HOUR;
    let date = hour_ago
        .format(&time::format_description::well_known::Rfc2822)
        .unwrap();
    let date = date.replace("+0000", "GMT");
    thread::spawn(move || {
        for (connection, date) in listener
            .incoming()
            .zip([format!("Date: {date}\r\n"), String::new()])
        {
            let mut connection = connection.unwrap();
            let read = connection.read(&mut [0; 4096]).unwrap();
            assert!(read > 0);
            let head = format!(
                "HTTP/1.1 404 Not Found\r\n{date}Connection: close\r\nContent-Length: 0\r\n\r\n"
            );
            connection.write_all(head.as_bytes()).unwrap();
        }
    });
    let args = ["--json", "doctor", "--owner", "--broker", &url];
    let ahead = walked(&place, &args);
    assert_eq!(ahead.failed(), ["clock"]);
    ahead.is("clock", "fail", "ahead of the broker's");
    ahead.is("clock", "fail", "chronyc makestep");
    ahead.is("tls", "skipped", "nothing proves");
    walked(&place, &args).is("clock", "skipped", "does not say");
}

#[test]
fn document_of_the_launch_that_names_no_broker() {
    let place = Place::new();
    place.ok(&[
        "initdata",
        "new",
        "initdata.toml",
        "--broker",
        "https://127.0.0.1:1",
    ]);
    let text = String::from_utf8(place.read("initdata.toml")).unwrap();
    place.write("empty.toml", text.replace("https://127.0.0.1:1", ""));
    let checked = place.run(&["--json", "initdata", "check", "empty.toml"]);
    assert_eq!(checked.status.code(), Some(1));
    assert_eq!(document(&checked)["findings"][0]["code"], "url");
    let args = [
        "--json",
        "doctor",
        "--platform",
        "sample",
        "--initdata",
        "empty.toml",
    ];
    let walked = walked(&place, &args);
    walked.is("init-data", "fail", "the url is empty");
    walked.is("broker", "fail", "no broker is named");
    walked.is("attestation", "skipped", "not reached");
}

#[test]
fn what_the_host_may_have_is_shown_with_its_rule() {
    let place = Place::new();
    let url = "https://127.0.0.1:1";
    place.ok(&[
        "initdata",
        "new",
        "i.toml",
        "--broker",
        url,
        "--allow-exec",
        "uname -r",
    ]);
    let test = [
        "--json",
        "initdata",
        "policy",
        "test",
        "i.toml",
        "--request",
    ];
    let told = place.ok(&[&test[..], &["exec", "--command", "uname -r"]].concat());
    assert_eq!(document(&told)["allowed"], true);
    for more in [
        &["exec", "--command", "cat /etc/passwd"][..],
        &["logs"],
        &["SetPolicyRequest"],
        &["NoSuchRequest"],
    ] {
        let told = place.run(&[&test[..], more].concat());
        assert_eq!(told.status.code(), Some(1), "{more:?}");
        assert_eq!(document(&told)["allowed"], false);
    }
    for request in ["create", "copy", "AddSwapRequest"] {
        let told = place.run(&[&test[..], &[request]].concat());
        assert_eq!(told.status.code(), Some(1), "{request}");
    }
    let told = place.run(&[&test[1..], &["exec"]].concat()).stdout_text();
    assert!(
        told.contains("default ExecProcessRequest := false"),
        "{told}"
    );
}

#[test]
fn policy_by_which_the_host_may_run_anything_is_no_finding() {
    let place = Place::new();
    let new = [
        "initdata",
        "new",
        "open.toml",
        "--broker",
        "https://127.0.0.1:1",
    ];
    let warned = place.ok(&[&new[..], &["--insecure-any-container"]].concat());
    let said = warned.stderr_text();
    assert!(said.contains("reads every secret of this guest"), "{said}");
    let checked = place.run(&["--json", "initdata", "check", "open.toml"]);
    let found = document(&checked)["findings"].to_string();
    assert!(
        found.contains("policy-open") && found.contains("CreateContainerRequest"),
        "{found}"
    );
    assert_eq!(checked.status.code(), Some(1));

    // Named containers are nothing to find, and no container at all is said.
    let bound = ["--container", "/bin/app --serve", "--force"];
    place.ok(&[&new[..], &bound].concat());
    let checked = place.run(&["--json", "initdata", "check", "open.toml"]);
    let found = document(&checked)["findings"].to_string();
    assert!(!found.contains("policy-open"), "{found}");
    let none = place.ok(&[&new[..], &["--force"]].concat());
    let said = none.stderr_text();
    assert!(
        said.contains("no container is named") && said.contains("genpolicy"),
        "{said}"
    );
}

#[test]
fn symptom_is_looked_up_without_taking_a_step() {
    let args = [
        "doctor",
        "--symptom",
        "ExecProcessRequest is blocked by policy: ",
    ];
    let told = strongroom()
        .args(args)
        .run()
        .unwrap()
        .expect_success()
        .stdout_text();
    assert!(told.contains("--allow-exec COMMAND"), "{told}");
    let all = strongroom()
        .args(["--json", "doctor", "--symptom", "all"])
        .run()
        .unwrap();
    assert!(
        document(&all.expect_success())["symptoms"]
            .as_array()
            .unwrap()
            .len()
            > 15
    );
    let unknown = strongroom()
        .args(["doctor", "--symptom", "all is well"])
        .run()
        .unwrap();
    assert_eq!(unknown.status.code(), Some(1));
}
