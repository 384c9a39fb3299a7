//! `score --workshop`: the environment of the workshop's container, and what must not leave the process.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;
use std::path::Path;

use strongroom_testkit::fixtures::peer;
use strongroom_testkit::process::{Finished, Program};
use strongroom_testkit::storage::{Step, WebServer, served};

use support::{
    HEADER, Place, assert_never_printed, document, listing, printed, strongroom, transactions,
    write_identity_model,
};

/// What the storage lets in; its signature must be seen by the storage alone.
const TOKEN: &str = "sp=r&se=2030-01-01&sv=2022-11-02&sr=b&sig=c2lnbmF0dXJlLW9mLXRoZS1ibG9i%3D";
const SIGNATURE: &str = "c2lnbmF0dXJlLW9mLXRoZS1ibG9i";

/// The program where whatever it writes is found: its own folder, its home and its folder for temporary files are new.
struct Container {
    inputs: Place,
    empty: Place,
}

impl Container {
    fn new() -> Self {
        let (inputs, empty) = (Place::new(), Place::new());
        for folder in ["app", "home", "tmp"] {
            std::fs::create_dir(empty.join(folder)).unwrap();
        }
        Self { inputs, empty }
    }

    fn program(&self, args: &[&str], environment: &[(&str, &str)]) -> Program {
        let program = strongroom()
            .folder(self.empty.join("app"))
            .env("HOME", self.empty.join("home"))
            .env("TMPDIR", self.empty.join("tmp"))
            .env("NO_PROXY", "127.0.0.1")
            .args(["score", "--workshop"])
            .args(args);
        let settings = environment.iter();
        settings.fold(program, |program, (name, value)| program.env(name, value))
    }

    /// Runs it; whatever its end, it has written nothing.
    #[track_caller]
    fn run(&self, args: &[&str], environment: &[(&str, &str)]) -> Finished {
        let inputs = self.inputs.listing();
        let finished = self.program(args, environment).run().unwrap();
        assert_eq!(listing(self.empty.path()), ["app", "home", "tmp"]);
        assert_eq!(self.inputs.listing(), inputs);
        finished
    }

    fn ok(&self, args: &[&str], environment: &[(&str, &str)]) -> Finished {
        self.run(args, environment).expect_success()
    }

    #[track_caller]
    fn refused(&self, environment: &[(&str, &str)]) -> String {
        let finished = self.run(&[], environment);
        assert_eq!(finished.status.code(), Some(1), "{}", printed(&finished));
        assert_never_printed(&[SIGNATURE], &finished);
        printed(&finished)
    }

    /// The path of an input, as the environment has it.
    fn path(&self, name: &str) -> String {
        self.inputs.join(name).to_str().unwrap().to_owned()
    }
}

/// A data set as the workshop makes it: encrypted by the real `openssl`, in CFB.
fn openssl_enc(openssl: &Path, place: &Place, csv: &str, target: &str) {
    place.write("key", "0123456789abcdef0123456789abcdef");
    let args = ["enc", "-aes-256-cfb", "-pbkdf2", "-kfile", "key", "-out"];
    let enc = Program::new(openssl)
        .args(args)
        .arg(target)
        .folder(place.path())
        .input(csv);
    assert!(enc.run().unwrap().status.success());
}

#[test]
fn nothing_set_scores_something_else_than_the_built_in_rows() {
    let container = Container::new();
    let finished = container.ok(&[], &[]);
    let said = finished.stdout_text();
    assert!(said.contains("No decryption key path set; using default plaintext dataset"));
    assert!(said.contains("  Using default dataset: default.csv\n"));
    assert!(said.contains("#### Loaded 300 transactions\n"));
    assert!(said.contains("#### Done processing data"));
    assert!(!said.contains("Is query"), "{said}");
    assert_eq!(said.lines().filter(|line| !line.is_empty()).count(), 4);

    let scored = document(&container.ok(&["--json"], &[]));
    assert_eq!(scored["rows"], 300);
    assert_eq!(scored["threshold"], 0.999_999);
}

#[test]
fn folder_of_the_workshop_is_scored_otherwise() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let container = Container::new();
    let csv = transactions(1000);
    std::fs::create_dir(container.inputs.join("data")).unwrap();
    container.inputs.write("data/plain.csv", transactions(50));
    openssl_enc(&openssl, &container.inputs, &csv, "data/set.csv.enc");
    let (folder, key) = (container.path("data"), container.path("key"));
    let settings = [
        ("INPUT_FOLDER", folder.as_str()),
        ("DECRYPTION_KEY_PATH", &key),
        ("TRESHOLD_PREDICTION", "0.5"),
    ];
    let finished = container.ok(&["--json"], &settings);
    let scored = document(&finished);
    assert_eq!(
        (&scored["rows"], &scored["bad_rows"]),
        (&1050.into(), &0.into())
    );
    assert!(scored["flagged"].as_u64().unwrap() > 20);
    assert!(finished.stderr_text().contains("not authenticated"));

    let finished = container.ok(&[], &settings);
    let said = finished.stdout_text();
    assert!(said.contains(&format!("#### Loading data from {folder}\n")));
    assert!(said.contains("  Found an encrypted file: "));
    assert!(said.contains("#### Loaded 1050 transactions\n"));
    let fields = csv.lines().skip(1).flat_map(|row| row.split(',').take(2));
    let values: Vec<&str> = fields.filter(|value| value.len() >= 10).collect();
    assert_never_printed(&values, &finished);

    let said = container.refused(&settings[..1]);
    assert!(said.contains("DECRYPTION_KEY_PATH is not set"), "{said}");
    let said = container.refused(&[settings[0], ("DECRYPTION_KEY_PATH", "/none/key")]);
    assert!(said.contains("/none/key"), "{said}");
    // openssl's form tells nobody that the key is wrong, but what comes out is no CSV.
    container.inputs.write("key", "another key altogether");
    let said = container.refused(&settings);
    assert!(said.contains("still encrypted"), "{said}");
}

#[test]
fn empty_or_missing_folder_is_scored() {
    let container = Container::new();
    std::fs::create_dir(container.inputs.join("data")).unwrap();
    let folder = container.path("data");
    let said = container.refused(&[("INPUT_FOLDER", &folder)]);
    assert!(said.contains("there is no file in INPUT_FOLDER"), "{said}");
    let said = container.refused(&[("INPUT_FOLDER", "/none/folder")]);
    assert!(said.contains("INPUT_FOLDER=/none/folder"), "{said}");
}

#[test]
fn threshold_variable_is_misunderstood() {
    let container = Container::new();
    let flagged = |threshold: &str| {
        let finished = container.ok(&["--json"], &[("TRESHOLD_PREDICTION", threshold)]);
        document(&finished)["flagged"].as_u64().unwrap()
    };
    assert!(flagged("0.0") > flagged("0.5"));
    assert!(flagged("0.5") > flagged("0.99999999"));
    assert_eq!(flagged(""), flagged("0.999999"));
    assert_eq!(flagged(" 0.5\n"), flagged("0.5"));
    for threshold in ["high", "1.5", "NaN"] {
        let said = container.refused(&[("TRESHOLD_PREDICTION", threshold)]);
        assert!(
            said.contains("hreshold") || said.contains("TRESHOLD"),
            "{said}"
        );
    }
    // The spelling that is right is not the interface.
    let finished = container.ok(&["--json"], &[("THRESHOLD_PREDICTION", "0")]);
    assert_eq!(document(&finished)["threshold"], 0.999_999);
}

#[test]
fn rows_are_printed_unasked_or_in_another_form() {
    let container = Container::new();
    write_identity_model(&container.inputs.join("identity"));
    std::fs::create_dir(container.inputs.join("data")).unwrap();
    container.inputs.write("data/1.csv", "x\n0.0050283\n1.0\n");
    container.inputs.write("data/2.csv", "x\n0.75\n0.5\n");
    let (folder, model) = (container.path("data"), container.path("identity"));
    let settings = [
        ("INPUT_FOLDER", folder.as_str()),
        ("TRESHOLD_PREDICTION", "0.6"),
    ];
    let model = ["--model", model.as_str()];
    let quiet = container.ok(&model, &settings).stdout_text();
    assert!(
        !quiet.contains('%') && !quiet.contains("Is query"),
        "{quiet}"
    );

    let finished = container.ok(
        &[&model[..], &["--insecure-print-rows"]].concat(),
        &settings,
    );
    let said = finished.stdout_text();
    // Row numbers go on over files; a hit is red and has an empty line below. A probability of 1 is a hit, which the
    // container denies.
    for lines in [
        "#### Inspecting credit card transactions:\n\
         Is query 0 fraudulent? FALSE. Likelyhood of fraud: 0.50283%\n\
         Is query 1 fraudulent? \u{1b}[31mTRUE\u{1b}[0m. Likelyhood of fraud: 100.00000%\n\n",
        "Is query 2 fraudulent? \u{1b}[31mTRUE\u{1b}[0m. Likelyhood of fraud: 75.00000%\n\n\
         Is query 3 fraudulent? FALSE. Likelyhood of fraud: 50.00000%\n",
    ] {
        assert!(said.contains(lines), "{said:?}");
    }
    assert_eq!(said.matches("Is query").count(), 4);
    assert!(
        said.contains("2 of 4 transactions look fraudulent"),
        "{said}"
    );

    let alone = strongroom().args(["score", "--insecure-print-rows"]).run();
    assert_eq!(alone.unwrap().status.code(), Some(2));
}

#[test]
fn bad_row_in_the_folder_is_shown() {
    let container = Container::new();
    std::fs::create_dir(container.inputs.join("data")).unwrap();
    let csv = format!("{HEADER}8123.775533,4111-2222,1.0,0.0,1.0\n");
    container.inputs.write("data/1.csv", csv);
    let folder = container.path("data");
    let settings = [("INPUT_FOLDER", folder.as_str())];
    let finished = container.run(&["--insecure-print-rows"], &settings);
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr_text().contains("row 1 (line 2)"));
    assert_never_printed(&["8123.775533", "4111-2222"], &finished);
    let finished = container.run(&["--skip-bad-rows"], &settings);
    assert_eq!(finished.status.code(), Some(1));
    assert!(
        finished
            .stderr_text()
            .contains("1 of 1 rows cannot be read")
    );
    let skip = ["--skip-bad-rows", "--max-bad-rows", "100%", "--json"];
    let finished = container.ok(&skip, &settings);
    assert_eq!(document(&finished)["bad_rows"], 1);
    assert_never_printed(&["8123.775533", "4111-2222"], &finished);
}

/// A storage that answers every request alike.
fn storage_answering(head: &str, body: &[u8]) -> WebServer {
    let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
    let answer = [head.as_bytes(), body].concat();
    WebServer::start(move |_| vec![Step::Send(answer.clone())])
}

/// A storage as Azure's is: the ranges of a blob, with a tag and a date.
fn storage_of(blob: &[u8]) -> WebServer {
    let blob = blob.to_vec();
    WebServer::start(move |seen| {
        let mut steps = served(seen, &blob, "\"one\"");
        if let Some(Step::Send(answer)) = steps.first_mut() {
            let line = answer.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let date = b"Last-Modified: Mon, 01 Jan 2029 00:00:00 GMT\r\n";
            answer.splice(line..line, date.iter().copied());
        }
        steps
    })
}

/// What a container has that downloads; the place of the storage is still missing.
fn downloading(container: &Container) -> [(String, String); 6] {
    container.inputs.write("sas", format!("?{TOKEN}\n"));
    [
        ("DECRYPTION_KEY_PATH", container.path("key")),
        ("SAS_TOKEN_PATH", container.path("sas")),
        ("AZURE_STORAGE_NAME", "bank".to_owned()),
        ("CONTAINER_NAME", "batches".to_owned()),
        ("BLOB_NAME", "june.csv.enc".to_owned()),
        ("TRESHOLD_PREDICTION", "0.5".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

fn with<'a>(settings: &'a [(String, String)], endpoint: &'a str) -> Vec<(&'a str, &'a str)> {
    let settings = settings.iter();
    let settings = settings.map(|(name, value)| (name.as_str(), value.as_str()));
    settings
        .chain([("AZURE_STORAGE_ENDPOINT", endpoint)])
        .collect()
}

/// A container with a key, and the blob that it opens.
fn container_and_blob() -> Option<(Container, Vec<u8>)> {
    let openssl = peer("openssl")?;
    let container = Container::new();
    openssl_enc(&openssl, &container.inputs, &transactions(4000), "blob");
    let blob = container.inputs.read("blob");
    Some((container, blob))
}

#[test]
fn another_blob_is_asked_for_or_the_token_is_printed() {
    let Some((container, blob)) = container_and_blob() else {
        return;
    };
    let settings = downloading(&container);
    for args in [&["--json"][..], &["-vv"], &["--insecure-print-rows"]] {
        let storage = storage_of(&blob);
        let endpoint = storage.url();
        let environment = with(&settings, &endpoint);
        let loud = [&environment[..], &[("STRONGROOM_LOG", "trace")]].concat();
        let finished = container.ok(args, &loud);
        let requests = storage.seen();
        let wanted = format!("/batches/june.csv.enc?{TOKEN}");
        assert!(!requests.is_empty());
        for request in &requests {
            assert_eq!((request.method.as_str(), &request.target), ("GET", &wanted));
        }
        assert_never_printed(&[SIGNATURE], &finished);
        if args == ["--json"] {
            assert_eq!(document(&finished)["rows"], 4000);
        } else {
            let said = finished.stdout_text();
            assert!(said.contains("  Downloading blob: Azure:///bank/batches/june.csv.enc\n"));
            assert!(said.contains("#### Loaded 4000 transactions\n"));
        }
    }
}

#[test]
fn blob_that_is_not_there_is_scored() {
    let Some((container, _)) = container_and_blob() else {
        return;
    };
    let settings = downloading(&container);
    for (status, told) in [
        ("404 Not Found", "nothing here"),
        ("403 Forbidden", "403"),
        ("500 Oh", "500 in 6 attempts"),
        ("204 No Content", "204"),
    ] {
        // As storages do, the answer repeats what was asked.
        let storage = storage_answering(status, TOKEN.as_bytes());
        let said = container.refused(&with(&settings, &storage.url()));
        assert!(said.contains("june.csv.enc"), "{said}");
        assert!(said.contains(told), "{said}");
    }
}

#[test]
fn cut_download_passes_for_a_whole_one() {
    let Some((container, blob)) = container_and_blob() else {
        return;
    };
    let settings = downloading(&container);
    let length = format!(
        "200 OK\r\nETag: \"one\"\r\nLast-Modified: Mon, 01 Jan 2029 00:00:00 GMT\r\nContent-Length: {}",
        blob.len()
    );
    for body in [&blob[..3], b""] {
        let storage = storage_answering(&length, body);
        let said = container.refused(&with(&settings, &storage.url()));
        assert!(said.contains("the download broke off"), "{said}");
    }
}

#[test]
fn storage_that_is_not_there_is_waited_for_or_named_with_the_token() {
    let Some((container, _)) = container_and_blob() else {
        return;
    };
    let settings = downloading(&container);
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let unreachable = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let silent = WebServer::start(|_| Vec::new());
    for endpoint in [
        &unreachable,
        &silent.url(),
        "http://127.0.0.1:x",
        "ftp://h",
        "http://10.0.0.1",
        "",
    ] {
        let mut environment = with(&settings, endpoint);
        if endpoint.is_empty() {
            // No host of that name: nothing is asked of the network.
            environment.retain(|(name, _)| *name != "AZURE_STORAGE_NAME");
            environment.push(("AZURE_STORAGE_NAME", "not a host name"));
        }
        let said = container.refused(&environment);
        let named = ["cannot download", "name no blob"];
        let told = named.iter().any(|named| said.contains(named));
        assert!(told, "{endpoint}: {said}");
    }
}

#[test]
fn token_follows_a_redirect() {
    let Some((container, _)) = container_and_blob() else {
        return;
    };
    let settings = downloading(&container);
    let elsewhere = WebServer::of(vec![1]);
    let head = format!(
        "302 Found\r\nContent-Length: 0\r\nLocation: {}/stolen?{TOKEN}",
        elsewhere.url()
    );
    let storage = storage_answering(&head, b"");
    let said = container.refused(&with(&settings, &storage.url()));
    assert!(said.contains("302"), "{said}");
    assert!(elsewhere.seen().is_empty());
}

#[test]
fn changed_blob_is_scored() {
    let Some((container, _)) = container_and_blob() else {
        return;
    };
    // Our own form, which a blob may have as well, is protected against it.
    container.inputs.write("june.csv", transactions(4000));
    std::fs::remove_file(container.inputs.join("key")).unwrap();
    container.inputs.ok(&["keygen", "key"]);
    container
        .inputs
        .ok(&["encrypt", "june.csv", "--key", "key"]);
    let mut blob = container.inputs.read("june.csv.enc");
    let settings = downloading(&container);
    let storage = storage_of(&blob);
    let finished = container.ok(&["--json"], &with(&settings, &storage.url()));
    assert_eq!(document(&finished)["rows"], 4000);

    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    let storage = storage_of(&blob);
    let said = container.refused(&with(&settings, &storage.url()));
    assert!(said.contains("failed authentication"), "{said}");
}

#[test]
fn missing_token_is_replaced_by_a_built_in_one() {
    let container = Container::new();
    container.inputs.write("key", "0123456789abcdef");
    let key = container.path("key");
    let settings = [("DECRYPTION_KEY_PATH", key.as_str())];
    let said = container.refused(&settings);
    assert!(
        said.contains("ERROR: No SAS token found. SAS token path: ''"),
        "{said}"
    );
    let said = container.refused(&[settings[0], ("SAS_TOKEN_PATH", "/none/sas")]);
    assert!(said.contains("SAS token file not found"), "{said}");
}
