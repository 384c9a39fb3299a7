//! What the program says of itself.

#![allow(clippy::unwrap_used)]

mod support;

use support::{printed, strongroom};

/// Every command, and words of what it is for.
const COMMANDS: &[(&str, &str)] = &[
    ("admin", "who administers the broker"),
    ("admin add", "who may act at once"),
    ("admin history", "who added or revoked"),
    ("admin keygen", "an admin's key pair"),
    ("admin list", "the admins with a key"),
    (
        "admin token",
        "a client that sends the same one with each request",
    ),
    ("admin revoke", "tokens are refused from now on"),
    ("attest", "what it says of this machine"),
    ("audit", "releases, denials and admin actions"),
    ("broker", "Run the trusted side"),
    ("broker check-config", "and print the settings in force"),
    ("broker collateral", "makers of the platforms publish"),
    ("broker collateral fetch", "before evidence asks for it"),
    ("broker collateral import", "where there is no network"),
    ("broker collateral list", "how old, and until when"),
    ("broker health", "whether it is ready"),
    ("broker import", "the secrets of a Trustee"),
    ("audit", "was changed, dropped, added or moved"),
    ("audit explain", "what would mend it"),
    ("audit export", "a log that verifies anywhere"),
    ("audit prune", "Remove the oldest entries"),
    ("audit report", "the evidence pack of a period"),
    ("audit verify", "no broker is needed"),
    ("broker init", "certificate, keys, configuration"),
    ("broker recovery-key", "needs no TPM"),
    ("broker rotate-key", "while the broker serves"),
    ("broker run", "until it is told to stop"),
    ("broker seal-key", "for what is booted now"),
    ("decrypt", "only when every byte is verified"),
    ("demo", "a denial explained"),
    ("doctor", "the command that mends it"),
    ("encrypt", "bound to a name"),
    ("generate", "credit card fraud data set"),
    ("get", "Fetch one resource"),
    ("guest", "serves secrets to applications"),
    ("guest exec", "if one fails, APP does not start"),
    ("guest pull", "without one nothing may run"),
    ("guest run", "/cdh/resource/"),
    ("image", "guests that verify and open them"),
    ("image encrypt", "to attested guests only"),
    ("image keyprovider", "skopeo and other programs of ocicrypt"),
    ("image sign", "so that cosign and policies"),
    ("guest scratch", "does not fit into memory"),
    ("guest unseal-volumes", "Mirror mounted volumes"),
    ("initdata", "a confidential VM measures"),
    ("initdata check", "the command that mends it"),
    ("initdata digest", "the values that platforms bind"),
    ("initdata new", "names the broker"),
    ("initdata policy", "as the agent in the guest does"),
    ("initdata show", "what a document or annotation holds"),
    ("keygen", "32 random bytes"),
    ("model", "encrypted and checked together"),
    ("model pack", "model.onnx and preprocessing.json"),
    ("model show", "what a model expects"),
    ("policy", "which attested machines get which secrets"),
    ("policy allow", "a few requirements"),
    ("policy history", "who set which version"),
    ("policy list", "List the policies in force"),
    ("policy remove", "more widely decides then"),
    ("policy rollback", "an older version in force again"),
    ("policy set", "written in Rego"),
    ("policy set-appraisal", "a class of platforms"),
    ("policy show", "policy in force"),
    ("policy test", "without setting it"),
    ("profile", "aggregates of a few rows reveal"),
    ("profile", "drifted from what the model was trained on"),
    ("reference-value", "which measurements are good"),
    ("reference-value diff", "which claims drifted"),
    ("reference-value get", "Show one value"),
    ("reference-value history", "who registered which version"),
    ("reference-value list", "ask for in vain"),
    ("reference-value measure", "Compute values from"),
    ("reference-value remove", "is not affirmed any more"),
    ("reference-value set", "NAME=VALUE"),
    ("report", "the most suspicious rows"),
    ("report", "holds rows in plaintext"),
    ("report", "--manifest <FILE|URL>"),
    ("resource", "the broker's secrets"),
    ("resource delete", "Delete a secret"),
    ("resource history", "who stored each"),
    ("resource list", "never contents"),
    ("resource put", "next version"),
    ("resource rollback", "an older version holds"),
    ("score", "counts, not rows"),
    ("score", "TRESHOLD_PREDICTION"),
    ("score", "runs at another provider"),
    ("score", "--azure-account"),
    ("score", "--azure-sas"),
    ("score", "--azure-key"),
    ("score", "--azure-endpoint"),
    ("score", "--s3-access-key-id"),
    ("score", "--s3-secret-key"),
    ("score", "--s3-session-token"),
    ("score", "--s3-endpoint"),
    ("score", "--s3-region"),
    ("score", "--gcs-credentials"),
    ("score", "--https-query"),
    ("score", "--storage-ca"),
    ("score", "--insecure-storage-http"),
    ("encrypt", "--azure-sas"),
    ("decrypt", "--azure-sas"),
    ("score", "which model scored which bytes"),
    ("seal", "may lie in the open"),
    ("seal", "travels inside"),
    ("unseal", "what a sealed secret points to"),
    ("unseal", "readable by you alone"),
    ("verify", "Check what was recorded, offline"),
    ("verify evidence", "a skip is not a pass"),
    ("verify receipt", "the machine behind its key"),
    ("verify receipt", "--measurement <[CLAIM=]HEX>"),
    ("verify receipt", "--require-authenticated"),
    ("verify receipt", "--require-broker-keys"),
    ("verify receipt", "--release-policy <FILE|DIGEST>"),
    ("verify token", "that the broker signed it"),
];

#[test]
fn command_does_not_say_what_it_is_for() {
    for (command, purpose) in COMMANDS {
        let help = help(command);
        assert!(flowing(&help).contains(purpose), "{command}: {help}");
        assert!(help.contains(&format!("Usage: strongroom {command}")));
    }
}

#[test]
fn command_is_missing_from_the_list_above() {
    let top = commands_in(&help(""));
    assert!(top.len() > 15, "{top:?}");
    for command in top {
        let mut all = vec![command.clone()];
        let below = commands_in(&help(&command));
        all.extend(below.iter().map(|below| format!("{command} {below}")));
        for command in all {
            let known = COMMANDS.iter().any(|(known, _)| *known == command);
            assert!(known, "{command} is new: say what it is for");
        }
    }
}

#[test]
fn help_names_an_internal_option() {
    for (command, _) in COMMANDS {
        assert!(!help(command).contains("--exit-with-parent"), "{command}");
    }
}

#[test]
fn nothing_asked_is_answered_with_nothing() {
    for command in [
        "", "broker", "guest", "image", "initdata", "model", "policy",
    ] {
        let finished = strongroom().args(command.split_terminator(' ')).run();
        let finished = finished.unwrap();
        assert_eq!(finished.status.code(), Some(2), "{command}");
        let said = printed(&finished);
        assert!(said.contains("Usage: strongroom"), "{said}");
        assert!(said.contains("Commands:"), "{said}");
    }
    assert!(flowing(&help("")).contains("Start with `strongroom demo`"));
}

#[test]
fn misspelt_command_is_not_recognised_or_run() {
    for (wrong, right) in [
        ("enrypt", "encrypt"),
        ("scores", "score"),
        ("keygn", "keygen"),
    ] {
        let finished = strongroom().args([wrong, "x"]).run().unwrap();
        assert_eq!(finished.status.code(), Some(2));
        let said = finished.stderr_text();
        assert!(said.contains(&format!("'{right}'")), "{said}");
        assert!(finished.stdout.is_empty());
    }
    let finished = strongroom().args(["score", "--treshold", "1"]).run();
    let said = finished.unwrap().stderr_text();
    assert!(said.contains("'--threshold'"), "{said}");
}

#[test]
fn version_is_of_another_program() {
    let finished = strongroom().arg("--version").run().unwrap();
    assert_eq!(
        finished.expect_success().stdout_text(),
        concat!("strongroom ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

fn help(command: &str) -> String {
    let words = command.split_terminator(' ');
    let finished = strongroom().args(words).arg("--help").run().unwrap();
    let finished = finished.expect_success();
    assert!(finished.stderr.is_empty(), "{command}");
    finished.stdout_text()
}

/// The text without its line ends.
fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn commands_in(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .filter(|line| !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|command| command != "help")
        .collect()
}
