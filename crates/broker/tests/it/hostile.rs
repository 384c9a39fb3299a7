//! What somebody would do who wants the broker to stop, to fill its disk, or to believe what it should not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use strongroom_broker::Config;
use strongroom_broker::audit::{Kind, Outcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::limits::insecure;
use crate::support::{Answer, Guest, Running};

const PUT: &str = "/kbs/v0/resource/a/b/c";

#[tokio::test]
async fn policy_that_kills_the_process_is_set() {
    let broker = Running::strict().await;
    let amplify = "package policy\n\nimport rego.v1\n\nd := [0,1,2,3,4,5,6,7,8,9]\n\n\
        s1 := concat(\"\", [\"0123456789\" | some a in d; some b in d])\n\n\
        s2 := concat(\"\", [s1 | some a in d; some b in d])\n\n";
    let amplified = "count(concat(\"\", [s2 | some a in d; some b in d])) > 0";
    for (rule, reason) in [
        (format!("allow := {amplified}"), "bytes"),
        (
            "f(n) := [f(n + 1)]\n\nallow := f(0)".to_owned(),
            "calls itself",
        ),
        (
            format!("allow := {}1{}", "[".repeat(30), "]".repeat(30)),
            "brackets",
        ),
    ] {
        let body = format!("{amplify}{rule}\n");
        let path = "/strongroom/v1/policy/resource-policy";
        let answer = broker.admin(Method::PUT, path, body).await;
        let said = answer.refused(StatusCode::BAD_REQUEST, "ParsePolicyError");
        assert!(said.contains(reason), "{said}");
    }
    // Behind a claim the trial does not see it: a guest that comes is denied, and the broker stays.
    let broker = Running::accepting_sample().await;
    broker.register_reference_values().await;
    broker
        .set_policy(&format!(
            "{amplify}allow if {{\n input.submods.cpu0\n {amplified}\n}}\n"
        ))
        .await;
    let (_, token) = broker.attest(&Guest::new()).await;
    for _ in 0..3 {
        let answer = broker.get_with_token("a/b/c", &token).await;
        answer.refused(StatusCode::FORBIDDEN, "PolicyDeny");
    }
    let denied = broker.last_entry().await.record;
    assert!(denied.detail.unwrap().contains("bytes"));
}

#[tokio::test]
async fn guest_that_is_denied_without_end_fills_the_record() {
    let broker = Running::accepting_sample().await;
    let (_, token) = broker.attest(&Guest::new()).await;
    for number in 0..50 {
        let answer = broker
            .get_with_token(&format!("a/b/c{number}"), &token)
            .await;
        answer.refused(StatusCode::FORBIDDEN, "PolicyDeny");
    }
    let entries = broker.audit().await;
    let denials: Vec<_> = entries
        .iter()
        .map(|entry| &entry.record)
        .filter(|record| record.kind == Kind::Release && record.outcome == Outcome::Denied)
        .collect();
    assert_eq!(denials.len(), 31);
    let all: u64 = denials
        .iter()
        .map(|record| 1 + record.suppressed.unwrap_or(0))
        .sum();
    assert_eq!(all, 50);
    // Another guest has its own.
    let (_, other) = broker.attest(&Guest::new()).await;
    broker
        .get_with_token("a/b/other", &other)
        .await
        .refused(StatusCode::FORBIDDEN, "PolicyDeny");
    let newest = broker.last_entry().await.record;
    assert_eq!(newest.resource.as_deref(), Some("a/b/other"));
}

#[tokio::test]
async fn source_reads_without_end() {
    let broker =
        Running::start(|config| config.replace("[limits]", "[limits]\nreads_per_minute = 3")).await;
    let read = async || Answer::of(broker.request(Method::GET, PUT).send().await.unwrap()).await;
    for _ in 0..3 {
        read()
            .await
            .refused(StatusCode::UNAUTHORIZED, "TokenNotFound");
    }
    read()
        .await
        .refused(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests");
    // What an admin does is no read of a guest.
    broker.put("a/b/c", "x").await;
    broker.pass(20);
    read()
        .await
        .refused(StatusCode::UNAUTHORIZED, "TokenNotFound");
}

#[tokio::test]
async fn claims_of_attestations_fill_the_disk() {
    let broker = Running::start(|config| {
        config.replace("[audit]", "[audit]\nclaims_megabytes_per_day = 1")
            + "\n[development]\naccept_sample_evidence = true\n"
    })
    .await;
    let attested = async || {
        let (_, token) = broker.attest(&Guest::new()).await;
        let detail = broker.last_entry().await.record.detail.unwrap();
        (token, detail.contains("claims are not kept"))
    };
    let mut kept = 0;
    loop {
        let (token, not_kept) = attested().await;
        assert!(!token.is_empty());
        if not_kept {
            break;
        }
        kept += 1;
        assert!(kept < 2_000, "what is kept has no end");
    }
    assert!(kept > 10);
    broker.pass(24 * 60 * 60);
    assert!(!attested().await.1);
}

#[tokio::test]
async fn rollback_brings_back_a_secret_without_its_end() {
    let broker = Running::strict().await;
    let end = broker.now() + 100;
    let put = format!("{PUT}?expires={end}");
    broker
        .admin(Method::POST, &put, "first")
        .await
        .expect(StatusCode::OK);
    broker.put("a/b/c", "second").await;
    let roll = async |query: &str| {
        let path = format!("/strongroom/v1/rollback/resource/a/b/c?{query}");
        broker.admin(Method::POST, &path, "").await
    };
    let newest = async || {
        let path = "/strongroom/v1/resource/a/b/c";
        let versions = broker.admin(Method::GET, path, "").await.json();
        versions.as_array().unwrap().last().unwrap()["expires"].clone()
    };
    roll("version=1").await.expect(StatusCode::OK);
    assert_eq!(newest().await, json!(end));
    let detail = broker.last_entry().await.record.detail.unwrap();
    assert!(detail.contains(&end.to_string()), "{detail}");
    broker.pass(100);
    let said = roll("version=1").await;
    let said = said.refused(StatusCode::BAD_REQUEST, "SerdeError");
    assert!(said.contains("has expired"), "{said}");
    for bad in [end, u64::MAX] {
        let refused = roll(&format!("version=1&expires={bad}")).await;
        refused.refused(StatusCode::BAD_REQUEST, "SerdeError");
    }
    let later = end + 1_000;
    roll(&format!("version=1&expires={later}"))
        .await
        .expect(StatusCode::OK);
    assert_eq!(newest().await, json!(later));
}

#[tokio::test]
async fn query_of_an_admin_means_something_else_than_it_says() {
    let broker = Running::strict().await;
    for query in [
        "expires=18446744073709551615",
        "expires=9223372036854775808",
        "expire=2000000000",
        "expires=",
        "expires=soon",
        "shadow=yes",
        "shadow=1",
        "shadow=",
        "expires=4000000000&x=1",
    ] {
        let answer = broker
            .admin(Method::POST, &format!("{PUT}?{query}"), "x")
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        let answer = broker
            .admin(Method::DELETE, &format!("{PUT}?{query}"), "")
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
    }
    for query in [
        "expires=9223372036854775807",
        "shadow=true",
        "shadow=false",
        "",
    ] {
        let answer = broker
            .admin(Method::POST, &format!("{PUT}?{query}"), "x")
            .await;
        answer.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn stranger_sends_a_long_opening() {
    let broker = Running::strict().await;
    let body = json!({"version": "0.4.0", "tee": "sample", "extra-params": "x".repeat(20_000)});
    let answer = broker.post("/kbs/v0/auth", None, &body).await;
    answer.refused(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge");
}

#[tokio::test]
async fn one_address_has_all_connections() {
    let broker =
        Running::start(|config| config.replace("[limits]", "[limits]\nconnections_per_source = 3"))
            .await;
    let mut open = Vec::new();
    let closed = async |connection: &mut TcpStream| {
        let mut one = [0; 1];
        let read = connection.read(&mut one);
        tokio::time::timeout(Duration::from_millis(500), read)
            .await
            .is_ok()
    };
    for _ in 0..3 {
        let mut connection = TcpStream::connect(broker.address).await.unwrap();
        assert!(!closed(&mut connection).await);
        open.push(connection);
    }
    let mut more = TcpStream::connect(broker.address).await.unwrap();
    assert!(closed(&mut more).await);
    drop(open);
    tokio::time::sleep(Duration::from_millis(200)).await;
    broker.put("a/b/c", "x").await;
}

#[tokio::test]
async fn strangers_hold_large_bodies_without_end() {
    let broker = insecure(|config| {
        config.replace("[limits]", "[limits]\ntrusted_proxies = [\"127.0.0.1\"]")
    })
    .await;
    // 128 MiB in all, of 2 MiB each; a quarter for each client.
    let begin = async |client: &str| {
        let mut connection = TcpStream::connect(broker.address).await.unwrap();
        let head = format!(
            "POST /kbs/v0/attest HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {client}\r\ncontent-length: 2097152\r\n\r\n{{"
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        connection
    };
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(begin("192.0.2.1").await);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut more = begin("192.0.2.1").await;
    let mut answer = [0; 12];
    more.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    // Others have room, and who sends little needs none.
    held.push(begin("192.0.2.2").await);
    let none = tokio::time::timeout(Duration::from_millis(500), held[16].read(&mut answer)).await;
    assert!(none.is_err());
    broker.put("a/b/c", "x").await;
    drop(held);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut again = begin("192.0.2.1").await;
    let none = tokio::time::timeout(Duration::from_millis(500), again.read(&mut answer)).await;
    assert!(none.is_err());
}

#[tokio::test]
async fn reload_leaves_nobody_who_may_do_everything() {
    let broker = Running::strict().await;
    let text = fs::read_to_string(&broker.summary.config).unwrap();
    let without = text.split("[[admin]]").next().unwrap().to_owned();
    let lesser = text.replace("role = \"admin\"", "role = \"auditor\"");
    assert_ne!(text, lesser);
    for text in [without, lesser] {
        fs::write(&broker.summary.config, text).unwrap();
        let next = Config::load(&broker.summary.config).unwrap();
        let said = broker.handle.reload(next).unwrap_err().to_string();
        assert!(
            said.contains("nobody with a key of the role admin"),
            "{said}"
        );
    }
    broker.put("a/b/c", "x").await;
}

#[tokio::test]
async fn page_of_the_record_takes_all_memory() {
    let broker = Running::strict().await;
    for number in 0..250 {
        broker.put(&format!("a/b/c{number}"), "x").await;
    }
    let page = async |query: &str| {
        let path = format!("/strongroom/v1/audit?{query}");
        let answer = broker.admin(Method::GET, &path, "").await.json();
        let entries = answer.as_array().unwrap().clone();
        entries
            .iter()
            .map(|entry| entry["seq"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    let all = page("limit=10000").await;
    assert!(all.len() > 250);
    assert!(all.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    let newest = *all.last().unwrap();
    assert_eq!(page("limit=3").await, [newest - 2, newest - 1, newest]);
    assert_eq!(page("limit=203").await, all[all.len() - 203..]);
    assert_eq!(
        page(&format!("limit=2&before={newest}")).await,
        [newest - 2, newest - 1]
    );
}

#[tokio::test]
async fn file_of_a_key_or_a_secret_is_writable_by_others() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("db");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "good").unwrap();
    fs::write(secret.join("loose"), "planted").unwrap();
    fs::set_permissions(secret.join("loose"), fs::Permissions::from_mode(0o666)).unwrap();
    let place = folder.path().display().to_string();
    let broker = Running::start(|config| {
        config
            + &format!(
                "\n[sources]\nfolder = {place:?}\n[development]\naccept_sample_evidence = true\n"
            )
    })
    .await;
    broker.register_reference_values().await;
    broker
        .set_policy("package policy\n\nimport rego.v1\n\ndefault allow := true")
        .await;
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    let good = broker.get_with_token("default/db/key", &token).await;
    assert_eq!(guest.decrypt(good), b"good");
    let loose = broker.get_with_token("default/db/loose", &token).await;
    loose.refused(StatusCode::SERVICE_UNAVAILABLE, "PluginInternalError");
    let detail = broker.last_entry().await.record.detail.unwrap();
    assert!(detail.contains("others may write it"), "{detail}");
    // A folder that is opened to others while the broker runs gives nothing any more.
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o777)).unwrap();
    let open = broker.get_with_token("default/db/key", &token).await;
    open.refused(StatusCode::SERVICE_UNAVAILABLE, "PluginInternalError");
}

#[tokio::test]
async fn rehearsal_goes_on_when_nobody_waits_for_it() {
    let broker = Running::accepting_sample().await;
    let (_, token) = broker.attest(&Guest::new()).await;
    for _ in 0..12 {
        broker.get_with_token("a/b/c", &token).await;
    }
    let slow = "package policy\n\nimport rego.v1\n\nd := [0,1,2,3,4,5,6,7,8,9]\n\nallow if {\n input.submods.cpu0\n \
        count([1 | some a in d; some b in d; some c in d; some e in d; some f in d; some g in d; some h in d]) > 0\n}";
    let changes = json!({"policies": {"resource-policy": slow}}).to_string();
    let path = "/strongroom/v1/rehearse";
    let rehearse = |changes: &str| {
        let token = broker.admin_token();
        let request = broker.request(Method::POST, path).bearer_auth(token);
        request.body(changes.to_owned()).send()
    };
    // Twelve decisions of half a second each.
    let first = tokio::time::timeout(Duration::from_secs(1), rehearse(&changes));
    let second = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        rehearse("{}").await.unwrap()
    };
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_err());
    assert_eq!(second.headers()["retry-after"], "1");
    Answer::of(second)
        .await
        .refused(StatusCode::SERVICE_UNAVAILABLE, "Busy");
    let begun = std::time::Instant::now();
    loop {
        let again = Answer::of(rehearse("{}").await.unwrap()).await;
        if again.status == StatusCode::OK {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(3));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn older_storage_key_is_thrown_away_on_the_word_of_a_row() {
    let mut broker = Running::strict().await;
    broker.put("a/b/c", "secret").await;
    let mut other = Running::strict().await;
    let rotate = "/strongroom/v1/storage-key/rotate";
    let rotated = other.admin(Method::POST, rotate, "").await.json();
    let (fresh, id) = (
        other.store().with_file_name("storage.key"),
        rotated["key"].clone(),
    );
    let (fresh, id) = (
        fs::read_to_string(fresh).unwrap(),
        id.as_str().unwrap().to_owned(),
    );
    broker.stop().await;
    other.stop().await;
    // As after a rotation that broke off, and a row that says that it is wrapped anew.
    let file = broker.store().with_file_name("storage.key");
    let older = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{}\n{older}", fresh.trim_end())).unwrap();
    let database = rusqlite::Connection::open(broker.store()).unwrap();
    let honest: String = database
        .query_row("SELECT key_id FROM secret", [], |row| row.get(0))
        .unwrap();
    database
        .execute("UPDATE secret SET key_id = ?1", [&id])
        .unwrap();
    drop(database);
    let mut broker = broker.start_again();
    let kept = async || {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        fs::read_to_string(&file).unwrap().lines().count()
    };
    assert_eq!(kept().await, 2);
    broker.stop().await;
    let database = rusqlite::Connection::open(broker.store()).unwrap();
    database
        .execute("UPDATE secret SET key_id = ?1", [&honest])
        .unwrap();
    drop(database);
    let _broker = broker.start_again();
    assert_eq!(kept().await, 1);
}
