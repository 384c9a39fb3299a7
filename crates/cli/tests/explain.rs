//! `strongroom audit explain` and `strongroom policy` at a broker: what they print runs as it is printed, and does what it
//! says.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use strongroom_testkit::process::{Finished, Program, Running};
use support::{Place, binary, document, printed};

/// A broker that takes sample evidence, with a secret and a policy for it, and an admin's shell beside it.
struct Owner {
    place: Place,
    broker: Running,
    url: String,
}

impl Owner {
    fn new() -> Self {
        let place = Place::new();
        place.ok(&[
            "broker",
            "init",
            "broker",
            "--insecure-accept-sample-evidence",
        ]);
        let (broker, url) = place.start_broker();
        place.write("secret", "s");
        let owner = Self { place, broker, url };
        owner.ok("strongroom resource put default/fraud-model/key secret");
        owner.ok(&format!(
            "strongroom initdata new initdata.toml --broker {} --broker-cert broker/tls.crt",
            owner.url
        ));
        owner.ok("strongroom policy allow 'default/fraud-*' --initdata initdata.toml --assurance development");
        owner
    }

    /// A line as it is typed into a shell.
    fn shell(&self, line: &str) -> Finished {
        let bin = binary();
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", bin.parent().unwrap().display());
        Program::new("bash")
            .args(["-c", line])
            .folder(self.place.path())
            .env("PATH", path)
            .env("STRONGROOM_BROKER", &self.url)
            .run()
            .unwrap()
    }

    fn ok(&self, line: &str) -> String {
        self.shell(line).expect_success().stdout_text()
    }

    /// Runs what must fail, and gives what it says.
    fn fails(&self, line: &str) -> String {
        let finished = self.shell(line);
        assert_ne!(finished.status.code(), Some(0), "{line}");
        printed(&finished)
    }

    fn json(&self, line: &str) -> Value {
        document(&self.shell(&format!("{line} --json")).expect_success())
    }

    /// A fresh guest asks for the secret.
    fn guest_gets_it(&self) -> bool {
        let guest = self
            .place
            .program(&[
                "guest",
                "run",
                "--json",
                "--platform",
                "sample",
                "--initdata",
                "initdata.toml",
                "--listen",
                "127.0.0.1:0",
            ])
            .start()
            .unwrap();
        let ready = guest.wait_for_line("\"ready\"").unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap();
        let url = ready["url"].as_str().unwrap();
        let got = self
            .place
            .run(&["get", "kbs:///default/fraud-model/key", "--guest", url]);
        guest.terminate().unwrap();
        got.status.success() && got.stdout == b"s"
    }

    fn commands(&self) -> Vec<String> {
        let explained = self.json("strongroom audit explain");
        let advice = explained["advice"].as_array().unwrap().clone();
        let commands = advice.iter().filter_map(|one| one["command"].as_str());
        commands.map(str::to_owned).collect()
    }
}

#[test]
fn printed_command_does_not_run_or_mends_nothing_or_does_harm() {
    let owner = Owner::new();
    owner.ok(
        "strongroom reference-value set launch_digest='[\"other\",\"withdrawn\"]' svn='\"1\"' major_version=7 \
         minimum_minor_version=9 accept_development_assurance=true",
    );
    assert!(!owner.guest_gets_it());
    // Tightened after the event.
    owner.ok("strongroom reference-value set launch_digest='[\"other\"]'");
    let mut commands = owner.commands();
    commands.sort();
    assert_eq!(commands.len(), 3, "{commands:?}");
    let text = owner.ok("strongroom audit explain");
    assert!(text.contains("lowers a floor, from 9 to 4"), "{text}");
    // What is to be tried first runs as well.
    let next = text.lines().find(|line| line.contains("--replay")).unwrap();
    let tried = owner.json(next.split('#').next().unwrap().trim());
    assert_eq!(tried["otherwise_already"], 0, "{tried}");
    for command in &commands {
        assert!(text.contains(&format!("to mend it: {command}")), "{text}");
        owner.ok(command);
    }
    assert!(owner.guest_gets_it());
    let value = |name: &str| {
        let got = owner.json(&format!("strongroom reference-value get {name}"));
        got["value"].clone()
    };
    assert_eq!(value("launch_digest"), json!(["other", "abcde"]));
    assert_eq!(value("major_version"), json!([7, 1]));
    assert_eq!(value("minimum_minor_version"), json!(4));
    owner.ok("strongroom audit verify");
    owner.broker.terminate().unwrap();
}

#[test]
fn policy_commands_hide_what_they_do_or_name_what_cannot_be_run() {
    let owner = Owner::new();
    // What is written is shown, and it is what is in force.
    let allowed = owner.ok(&format!(
        "strongroom policy allow 'default/fraud-*' --platform snp --measurement {} --assurance development",
        "ab".repeat(48)
    ));
    let shown = owner.ok("strongroom policy show 'default/fraud-*'");
    for line in shown.lines().filter(|line| line.contains("denials")) {
        assert!(allowed.contains(line), "{line}: {allowed}");
    }
    assert!(allowed.contains("package policy"), "{allowed}");
    // A platform that is another is named.
    assert!(!owner.guest_gets_it());
    let explained = owner.ok("strongroom audit explain");
    assert!(
        explained.contains("platform should be snp, is sample"),
        "{explained}"
    );
    for (platform, digits, wanted) in [("snp", 4, 48), ("tdx", 64, 48), ("sgx", 96, 32)] {
        let said = owner.fails(&format!(
            "strongroom policy allow 'default/x-*' --platform {platform} --measurement {} --dry-run",
            "a".repeat(digits)
        ));
        assert!(said.contains(&format!("has {wanted}")), "{said}");
    }
    // The pattern stays with the file, from one step to the next.
    owner.place.write(
        "one.rego",
        "package policy\n\nimport rego.v1\n\ndefault allow := false",
    );
    let mut line = "strongroom policy test one.rego 'default/fraud-*'".to_owned();
    for wanted in [
        "strongroom policy test one.rego 'default/fraud-*' --replay",
        "strongroom policy set one.rego 'default/fraud-*'",
    ] {
        let said = owner.ok(&line);
        assert!(said.contains(wanted), "{said}");
        line = wanted.to_owned();
    }
    let set = owner.json(&line);
    assert_eq!(set["set"]["id"], "resource-policy/default/fraud-*");
    // An error names the policy that it is in.
    owner
        .place
        .write("bad.rego", "package policy\n\nallow := if {");
    let said = owner.fails("strongroom policy set bad.rego 'default/fraud-*'");
    assert!(
        said.contains("resource-policy/default/fraud-*") && said.contains("line 3"),
        "{said}"
    );
    let said = owner.fails("strongroom policy set one.rego default_cpu");
    assert!(said.contains("set-appraisal"), "{said}");
    // The policy that the help shows is one, and explains itself.
    let help = owner.ok("strongroom policy set --help");
    let example: String = help
        .split("A policy that uses each of them:\n")
        .nth(1)
        .unwrap()
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("  "))
        .map(|line| format!("{line}\n"))
        .collect();
    owner.place.write("example.rego", example);
    owner.ok("strongroom policy set example.rego 'default/fraud-*'");
    assert!(!owner.guest_gets_it());
    let explained = owner.ok("strongroom audit explain");
    for rule in ["real hardware", "for scoring"] {
        assert!(explained.contains(&format!("rule {rule}")), "{explained}");
    }
    assert!(!explained.contains("data.policy.allow"), "{explained}");
    for command in ["set", "test", "allow"] {
        let help = owner.ok(&format!("strongroom policy {command} --help"));
        for word in [
            "input.submods",
            "input.assurance",
            "input.time",
            "data[\"resource-path\"]",
            "denials",
            &format!("\n  strongroom policy {command} "),
        ] {
            assert!(help.contains(word), "{command}: {word}: {help}");
        }
    }
    owner.broker.terminate().unwrap();
}

#[test]
fn what_is_not_there_is_answered_with_words_for_a_guest() {
    let owner = Owner::new();
    for (line, next) in [
        ("strongroom audit explain 99999", "`strongroom audit`"),
        (
            "strongroom resource rollback default/fraud-model/key --to 99",
            "`strongroom resource history`",
        ),
        (
            "strongroom policy show resource-policy --version 99",
            "`strongroom policy history`",
        ),
        (
            "strongroom reference-value get none",
            "`strongroom reference-value list`",
        ),
        (
            "strongroom resource delete default/none/key",
            "`strongroom resource list`",
        ),
    ] {
        let said = owner.fails(line);
        assert!(said.contains("does not exist"), "{line}: {said}");
        assert!(said.contains(next), "{line}: {said}");
        assert!(
            !said.contains("register") && !said.contains("owner"),
            "{line}: {said}"
        );
    }
    std::fs::create_dir(owner.place.join("empty")).unwrap();
    let said = owner.fails("strongroom audit verify empty");
    assert!(said.contains("strongroom audit export"), "{said}");
    let Owner { place, broker, .. } = owner;
    broker.terminate().unwrap();
    std::fs::remove_file(place.join("broker/storage.key")).unwrap();
    let said = place.refused(&["broker", "run", "broker", "--listen", "127.0.0.1:0"]);
    for words in ["storage.key", "no secret", "Restore it"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}
