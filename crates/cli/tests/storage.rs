//! Inputs and outputs in storages, by the commands of `docs/storage.md`, against Azurite, moto, fake-gcs-server and a web
//! server; and that no credential is printed, whatever fails.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use strongroom_testkit::fixtures::workspace_root;
use strongroom_testkit::process::Finished;
use strongroom_testkit::storage::{
    AZURITE_ACCOUNT, AZURITE_KEY, Step, StorageServer, WebServer, azure_container_sas,
    azure_create_container, request,
};

use support::{Place, assert_never_printed, document, printed, transactions, wait_until};

/// A secret key that must be seen by nobody.
const SECRET: &str = "HUNTER2HUNTER2";
/// What is put in for the names of the document.
type Puts<'a> = &'a [(&'a str, &'a str)];

/// A folder with what the document's commands use.
fn place() -> Place {
    let place = Place::new();
    place.ok(&["keygen", "data.key"]);
    place.ok(&["keygen", "owner.pem", "--kind", "recipient"]);
    place.write("june.csv", transactions(2000));
    place.write("account.key", format!("{AZURITE_KEY}\n"));
    place.write("s3.key", format!("{SECRET}\n"));
    place
}

/// The commands under a heading of the document.
fn commands(heading: &str) -> Vec<String> {
    let text = std::fs::read_to_string(workspace_root().join("docs/storage.md")).unwrap();
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with(heading));
    let lines = section.unwrap().lines();
    let commands = lines.filter_map(|line| line.strip_prefix("strongroom "));
    commands.map(str::to_owned).collect()
}

/// Runs commands of the document: how many it expects there, and what each ends with.
#[track_caller]
fn run(place: &Place, commands: &[String], puts: Puts<'_>) -> Vec<Finished> {
    let run = |command: &String| {
        let put = puts
            .iter()
            .fold(command.clone(), |text, (from, to)| text.replace(from, to));
        let finished = place.ok(&put.split_whitespace().collect::<Vec<_>>());
        assert_never_printed(&[SECRET, AZURITE_KEY], &finished);
        finished
    };
    commands.iter().map(run).collect()
}

#[test]
fn azure_is_scored_or_written_otherwise() {
    let Some(server) = StorageServer::azurite() else {
        return;
    };
    let place = place();
    azure_create_container(&server, "batches");
    azure_create_container(&server, "results");
    let sas = azure_container_sas("batches", "rcw");
    place.write("storage.sas", format!("?{sas}\n"));
    place.write("out.sas", azure_container_sas("results", "cw"));
    let account = format!("az://{AZURITE_ACCOUNT}/");
    let with_endpoint = format!("--azure-endpoint {}/{AZURITE_ACCOUNT} --azure-", server.url);
    let puts = [("az://bank/", account.as_str())];
    // An endpoint is given once; the document needs none.
    let once: Vec<String> = commands("Azure")
        .iter()
        .map(|command| command.replacen(" --azure-", &format!(" {with_endpoint}"), 1))
        .collect();
    assert_eq!(once.len(), 3);
    let finished = run(&place, &once, &puts);
    assert!(
        finished[1].stdout_text().starts_with("2000 rows"),
        "{}",
        printed(&finished[1])
    );
    assert!(finished[1].stdout_text().contains(&format!(
        "strongroom decrypt {account}results/june.jsonl.enc"
    )));
    let signature = sas.split("sig=").nth(1).unwrap();
    for finished in &finished {
        assert_never_printed(&[signature], finished);
    }
    let results = String::from_utf8(place.read("june.jsonl")).unwrap();
    assert!(
        results.lines().last().unwrap().contains("2000"),
        "{results}"
    );
    // The exit strategy: the same job, elsewhere.
    let exits: Vec<String> = commands("The exit strategy")
        .iter()
        .filter(|command| command.contains("az://"))
        .map(|command| command.replacen(" --azure-", &format!(" {with_endpoint}"), 1))
        .collect();
    assert_eq!(exits.len(), 1);
    run(&place, &exits, &puts);

    // It is there already; a signature that only reads writes nothing; the account of the environment.
    let endpoint = format!("{}/{AZURITE_ACCOUNT}", server.url);
    let there = format!("{account}batches/june.csv.enc");
    let encrypt = [
        "encrypt",
        "june.csv",
        "--key",
        "data.key",
        "--azure-endpoint",
        &endpoint,
        "-o",
        &there,
    ];
    let said = place.refused(&[&encrypt[..], &["--azure-sas", "storage.sas"]].concat());
    assert!(
        said.contains("exists already") && said.contains("--force"),
        "{said}"
    );
    place.write("read.sas", azure_container_sas("batches", "r"));
    let said = place.refused(&[&encrypt[..], &["--azure-sas", "read.sas", "--force"]].concat());
    assert!(said.contains("sp=r") && !said.contains("sig"), "{said}");
    let finished = place
        .program(&[
            "score",
            "az://batches/june.csv.enc",
            "--key",
            "data.key",
            "--json",
        ])
        .env("AZURE_STORAGE_ACCOUNT", AZURITE_ACCOUNT)
        .env("AZURE_STORAGE_ENDPOINT", &endpoint)
        .env("AZURE_STORAGE_SAS_TOKEN", &sas)
        .env("STRONGROOM_LOG", "trace")
        .run()
        .unwrap()
        .expect_success();
    assert_eq!(document(&finished)["rows"], 2000);
    assert_never_printed(&[signature], &finished);
}

#[test]
fn s3_is_scored_or_written_otherwise() {
    let Some(server) = StorageServer::moto() else {
        return;
    };
    let place = place();
    assert_eq!(
        request(&server.url, "PUT", "/bank-batches", &[], b"").0,
        200
    );
    let s3 = commands("S3, MinIO, Ceph");
    assert_eq!(s3.len(), 2);
    let finished = run(&place, &s3, &[("http://127.0.0.1:9000", &server.url)]);
    assert!(finished[1].stdout_text().starts_with("2000 rows"));
    let exits = commands("The exit strategy");
    let exits: Vec<String> = exits
        .into_iter()
        .filter(|command| command.contains("s3://"))
        .collect();
    assert_eq!(exits.len(), 1);
    let here = format!("ID --s3-endpoint {}", server.url);
    run(
        &place,
        &exits,
        &[(
            "--s3-access-key-id ID",
            &format!("--s3-access-key-id {here}"),
        )],
    );

    // The variables that other tools read.
    let finished = place
        .program(&[
            "score",
            "s3://bank-batches/june.csv.enc",
            "--key",
            "data.key",
            "--json",
        ])
        .env("AWS_ENDPOINT_URL", &server.url)
        .env("AWS_ACCESS_KEY_ID", "ID")
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_REGION", "eu-central-1")
        .env("STRONGROOM_LOG", "trace")
        .run()
        .unwrap()
        .expect_success();
    assert_eq!(document(&finished)["rows"], 2000);
    assert_never_printed(&[SECRET], &finished);
}

#[test]
fn signal_leaves_parts_of_an_upload() {
    let Some(server) = StorageServer::moto() else {
        return;
    };
    let place = place();
    assert_eq!(request(&server.url, "PUT", "/bucket", &[], b"").0, 200);
    let uploads = || {
        let (_, body) = request(&server.url, "GET", "/bucket?uploads", &[], b"");
        String::from_utf8(body)
            .unwrap()
            .matches("<UploadId>")
            .count()
    };
    // More than two parts, and no end.
    support::fifo(&place.join("endless"));
    let running = place
        .program(&[
            "encrypt",
            "endless",
            "--key",
            "data.key",
            "-o",
            "s3://bucket/x",
        ])
        .args([
            "--s3-access-key-id",
            "ID",
            "--s3-secret-key",
            "s3.key",
            "--s3-endpoint",
            &server.url,
        ])
        .start()
        .unwrap();
    let mut pipe = std::fs::OpenOptions::new()
        .write(true)
        .open(place.join("endless"))
        .unwrap();
    std::io::Write::write_all(&mut pipe, &vec![7; 20 << 20]).unwrap();
    wait_until("the upload has begun", || uploads() == 1);
    let finished = running.interrupt().unwrap();
    assert_eq!(finished.status.code(), Some(130), "{}", printed(&finished));
    // The server may still be at a part that was on its way.
    wait_until("nothing is left of the upload", || uploads() == 0);
    assert_eq!(request(&server.url, "GET", "/bucket/x", &[], b"").0, 404);
}

#[test]
fn google_is_scored_otherwise() {
    let Some(server) = StorageServer::fake_gcs() else {
        return;
    };
    let place = place();
    place.ok(&["encrypt", "june.csv", "--key", "data.key"]);
    let post = |target: &str, body: &[u8]| {
        let headers = [("Content-Type", "application/json")];
        assert_eq!(request(&server.url, "POST", target, &headers, body).0, 200);
    };
    post("/storage/v1/b?project=x", br#"{"name": "bank-batches"}"#);
    let upload = "/upload/storage/v1/b/bank-batches/o?uploadType=media&name=june.csv.enc";
    post(upload, &place.read("june.csv.enc"));
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)
        .unwrap()
        .serialize_pem();
    let account = serde_json::json!({
        "type": "service_account", "client_email": "scorer@bank.example", "private_key_id": "1",
        "private_key": key, "gcs_base_url": server.url,
    });
    place.write("account.json", account.to_string());
    let google = commands("Google Cloud Storage");
    assert_eq!(google.len(), 1);
    let finished = run(&place, &google, &[]);
    assert!(finished[0].stdout_text().starts_with("2000 rows"));
    let finished = place
        .program(&[
            "score",
            "gs://bank-batches/june.csv.enc",
            "--key",
            "data.key",
            "--json",
        ])
        .env("GOOGLE_APPLICATION_CREDENTIALS", place.join("account.json"))
        .run();
    assert_eq!(document(&finished.unwrap().expect_success())["rows"], 2000);
}

#[test]
fn web_server_is_scored_otherwise() {
    let place = place();
    place.ok(&["encrypt", "june.csv", "--key", "data.key"]);
    place.write("signed.query", format!("X-Signature={SECRET}\n"));
    let server = WebServer::of(place.read("june.csv.enc"));
    let web = commands("https");
    assert_eq!(web.len(), 2);
    let finished = run(
        &place,
        &web,
        &[("https://files.bank.example", &server.url())],
    );
    for finished in finished {
        assert!(finished.stdout_text().starts_with("2000 rows"));
    }
    let seen = server.seen();
    assert_eq!(seen.first().unwrap().target, "/june.csv.enc");
    assert_eq!(
        seen.last().unwrap().target,
        format!("/june.csv.enc?X-Signature={SECRET}")
    );
    let local = commands("The exit strategy");
    let local: Vec<String> = local
        .into_iter()
        .filter(|command| !command.contains("://"))
        .collect();
    assert_eq!(local.len(), 1);
    run(&place, &local, &[]);
    // Decrypted from there, under the name that it has there.
    let from = format!("{}/june.csv.enc", server.url());
    place.ok(&["decrypt", &from, "--key", "data.key", "-o", "back.csv"]);
    assert_eq!(place.read("back.csv"), place.read("june.csv"));
    let said = place.refused(&["encrypt", "june.csv", "--key", "data.key", "-o", &from]);
    assert!(said.contains("read and not written"), "{said}");
}

#[test]
fn credential_in_an_argument_is_used_or_repeated() {
    let place = place();
    for location in [
        format!("https://bank.blob.core.windows.net/c/b.csv?sig={SECRET}"),
        format!("az://bank/c/b.csv?sv=1&sig={SECRET}"),
        format!("https://user:{SECRET}@host/b.csv"),
        format!("s3://id:{SECRET}@bucket/b.csv"),
    ] {
        for args in [
            vec!["score", &location],
            vec![
                "score",
                "june.csv",
                "--results",
                &location,
                "--results-to",
                "owner.pem.pub.json",
            ],
            vec!["encrypt", &location, "--key", "data.key", "-o", "x"],
            vec!["decrypt", "june.csv", "--key", "data.key", "-o", &location],
        ] {
            let said = place.refused(&args);
            assert!(!said.contains(SECRET), "{said}");
            assert!(said.contains("lists the processes"), "{said}");
        }
    }
}

#[test]
fn credential_in_place_of_its_file_is_repeated() {
    let place = place();
    for (location, option) in [
        ("s3://bucket/b.csv", "--s3-secret-key"),
        ("az://bank/c/b.csv", "--azure-sas"),
        ("az://bank/c/b.csv", "--azure-key"),
        ("gs://bucket/b.csv", "--gcs-credentials"),
        ("https://localhost/b.csv", "--https-query"),
    ] {
        for given in [
            SECRET.to_owned(),
            format!("sv=1&sig={SECRET}"),
            format!("{{\"private_key\": \"{SECRET}\"}}"),
            format!("{SECRET}/{}", "x".repeat(5000)),
        ] {
            let mut args = vec!["score", location, option, &given];
            if option == "--s3-secret-key" {
                args.extend(["--s3-access-key-id", "ID"]);
            }
            let said = place.refused(&args);
            assert!(!said.contains(SECRET), "{said}");
            assert!(said.contains(&format!("{option} names no file")), "{said}");
        }
    }
}

#[test]
fn results_appear_though_the_input_broke_off() {
    let Some(server) = StorageServer::moto() else {
        return;
    };
    let place = place();
    assert_eq!(request(&server.url, "PUT", "/bucket", &[], b"").0, 200);
    let broken = WebServer::start(|_| {
        let head = b"HTTP/1.1 206 Partial Content\r\nETag: \"x\"\r\nContent-Range: bytes 0-999/1000\r\nContent-Length: 1000\r\n\r\n";
        vec![
            Step::Send(head.to_vec()),
            Step::Wait(Duration::from_millis(5)),
        ]
    });
    let from = format!("{}/june.csv", broken.url());
    let said = place.refused(&[
        "score",
        &from,
        "--results",
        "s3://bucket/results",
        "--results-to",
        "owner.pem.pub.json",
        "--s3-access-key-id",
        "ID",
        "--s3-secret-key",
        "s3.key",
        "--s3-endpoint",
        &server.url,
    ]);
    assert!(
        said.contains("the download broke off") && said.contains("in 6 attempts"),
        "{said}"
    );
    assert_eq!(
        request(&server.url, "GET", "/bucket/results", &[], b"").0,
        404
    );
}

#[test]
fn secret_of_a_broker_is_not_used() {
    let Some(server) = StorageServer::azurite() else {
        return;
    };
    let place = place();
    azure_create_container(&server, "batches");
    let sas = azure_container_sas("batches", "rcw");
    place.write("storage.sas", &sas);
    place.ok(&["broker", "init", "--insecure-accept-sample-evidence"]);
    let (_broker, url) = place.start_broker();
    place.allow_sample_guests(&url);
    place.ok(&[
        "resource",
        "put",
        "default/fraud-azure-sas/azure-sas",
        "storage.sas",
        "--broker",
        &url,
    ]);
    let (_guest, socket) = place.start_guest(&url);
    let endpoint = format!("{}/{AZURITE_ACCOUNT}", server.url);
    let there = format!("az://{AZURITE_ACCOUNT}/batches/june.csv.enc");
    let with_secret = [
        "--azure-endpoint",
        &endpoint,
        "--azure-sas",
        "kbs:///default/fraud-azure-sas/azure-sas",
        "--guest",
        &socket,
    ];
    place.ok(&[
        &["encrypt", "june.csv", "--key", "data.key", "-o", &there][..],
        &with_secret,
    ]
    .concat());
    let finished = place.ok(&[
        &["score", &there, "--key", "data.key", "--json"][..],
        &with_secret,
    ]
    .concat());
    assert_eq!(document(&finished)["rows"], 2000);
}
