//! `strongroom admin` at a broker: who is added may act at once and as no more than was said, who is revoked may not.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use strongroom_testkit::fixtures::peer;
use strongroom_testkit::process::Program;
use support::{Place, document, printed};

#[test]
fn admin_who_was_added_may_nothing_or_everything_and_after_being_revoked_too() {
    let place = Place::new();
    place.ok(&["broker", "init", "broker"]);
    let (broker, url) = place.start_broker();
    let url = url.as_str();

    place.ok(&["admin", "keygen", "ann.key"]);
    place.write("secret", "s");
    let root = ["--broker", url];
    let ann = [
        "--admin",
        "ann",
        "--admin-role",
        "secrets",
        "--admin-key",
        "ann.key",
    ];
    let ann = [&root[..], &ann].concat();
    let put = ["resource", "put", "default/a/b", "secret"];
    let refused = fails(&place, &with(&ann, &put));
    assert!(
        refused.contains("not signed by the key of an admin"),
        "{refused}"
    );

    let add = ["admin", "add", "ann", "--role", "secrets", "--public-key"];
    let private = fails(&place, &with(&root, &[&add[..], &["ann.key"]].concat()));
    assert!(private.contains("stays with its owner"), "{private}");
    let added = [&add[..], &["ann.key.pub.pem"]].concat();
    place.ok(&with(&root, &added));
    let again = fails(&place, &with(&root, &added));
    assert!(again.contains("revoke it first"), "{again}");
    let configured = [
        "admin",
        "add",
        "admin",
        "--role",
        "admin",
        "--public-key",
        "ann.key.pub.pem",
    ];
    let said = fails(&place, &with(&root, &configured));
    assert!(
        said.contains("the configuration names this admin"),
        "{said}"
    );

    place.ok(&with(&ann, &put));
    let denied = fails(&place, &with(&ann, &["policy", "list"]));
    assert!(
        denied.contains("the role secrets may not list policies"),
        "{denied}"
    );
    let listed = document(&place.ok(&with(&root, &["admin", "list"])));
    let names = listed["admins"].as_array().unwrap();
    let of = |number: usize| {
        let admin = &names[number];
        json!([admin["name"], admin["role"], admin["source"]])
    };
    assert_eq!(names.len(), 2, "{listed}");
    assert_eq!(of(0), json!(["admin", "admin", "configuration"]));
    assert_eq!(of(1), json!(["ann", "secrets", "store"]));

    place.ok(&with(&root, &["admin", "revoke", "ann"]));
    let refused = fails(&place, &with(&ann, &put));
    assert!(
        refused.contains("not signed by the key of an admin"),
        "{refused}"
    );
    let gone = fails(&place, &with(&root, &["admin", "revoke", "ann"]));
    assert!(gone.contains("ann"), "{gone}");
    let history = document(&place.ok(&with(&root, &["admin", "history", "ann"])));
    let roles: Vec<&Value> = history["versions"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&roles[0]["role"], &roles[1]["role"]),
        (&json!("secrets"), &Value::Null)
    );
    broker.terminate().unwrap();
}

#[test]
fn token_file_of_kbs_client_is_good_for_one_request_or_for_ever() {
    let place = Place::new();
    place.ok(&["broker", "init", "broker"]);
    place.ok(&["admin", "token", "token"]);
    let token = String::from_utf8(place.read("token")).unwrap();
    assert_eq!(token.trim(), token, "clients send the file as it is");
    let mode = std::fs::metadata(place.join("token"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    // As kbs-client sends it, by another program.
    let Some(curl) = peer("curl") else { return };
    let asked = |url: &str| {
        let token = format!("authorization: Bearer {token}");
        let at = format!("{url}/kbs/v0/resource/default/a/b");
        let sent = Program::new(&curl)
            .args([
                "--silent",
                "--cacert",
                "broker/tls.crt",
                "--data-binary",
                "s",
            ])
            .args(["--write-out", "\n%{http_code}", "--header", &token, &at])
            .folder(place.path())
            .run()
            .unwrap();
        let said = sent.expect_success().stdout_text();
        let (said, status) = said.rsplit_once('\n').unwrap();
        (status.parse::<u16>().unwrap(), said.to_owned())
    };

    let (broker, url) = place.start_broker();
    let (status, said) = asked(&url);
    assert_eq!(status, 401, "{said}");
    assert!(said.contains("[admin_tokens] reusable_minutes"), "{said}");
    broker.terminate().unwrap();

    let config = String::from_utf8(place.read("broker/broker.toml")).unwrap();
    place.write(
        "broker/broker.toml",
        format!("{config}\n[admin_tokens]\nreusable_minutes = 10\n"),
    );
    let (broker, url) = place.start_broker();
    for _ in 0..2 {
        let (status, said) = asked(&url);
        assert_eq!(status, 200, "{said}");
    }
    let listed = place.ok(&["--json", "audit", "--broker", &url, "--limit", "1"]);
    let entry = &document(&listed)["entries"][0];
    assert_eq!(entry["action"], "put resource", "{entry}");
    let loosened = json!(["admin_tokens.reusable_minutes"]);
    assert_eq!(entry["loosenings"], loosened, "{entry}");
    broker.terminate().unwrap();
}

/// As [`Place::refused`], beside a broker whose files come and go.
fn fails(place: &Place, args: &[&str]) -> String {
    let finished = place.run(args);
    let printed = printed(&finished);
    assert_eq!(finished.status.code(), Some(1), "{args:?}: {printed}");
    printed
}

fn with<'a>(admin: &[&'a str], args: &[&'a str]) -> Vec<&'a str> {
    [&["--json"], args, admin].concat()
}
