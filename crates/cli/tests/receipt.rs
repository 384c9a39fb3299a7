//! `score --receipt` and `verify receipt`: a real broker, a real guest on the development platform, and receipts with one
//! thing changed each.

#![allow(clippy::unwrap_used)]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use strongroom_client::GuestApi;
use strongroom_scoring::receipt::{
    Attestation, KeyFrom, Protection, Receipt, ReceiptKey, Statement, UnverifiedReceipt,
};
use strongroom_scoring::results::Manifest;
use strongroom_testkit::fixtures::{peer, workspace_root};
use strongroom_testkit::process::{Program, Running};
use strongroom_wire::canonical::HashAlgorithm;

use support::{Place, SERVERS, document, printed, transactions};

const DATASET_KEY: &str = "kbs:///default/fraud-dataset/key";
const OWNER_KEY: &str = "kbs:///default/fraud-results/owner";

/// A broker and a guest that attests to it with a development SNP report.
struct House {
    place: Place,
    broker: Running,
    url: String,
    guest: Running,
    socket: String,
}

impl House {
    fn new() -> Self {
        let place = Place::new();
        place.ok(&["broker", "init", "broker"]);
        let broker = place.program(&["broker", "run", "--json", "--listen", "127.0.0.1:0"]);
        let broker = broker.args(["--development-root", "root"]);
        // A root is made by the first who names its folder and attests.
        place.ok(&[
            "attest",
            "--explain",
            "--platform",
            "development",
            "--development-root",
            "root",
        ]);
        let broker = broker.start().unwrap();
        let ready = broker.wait_for_line("\"ready\"").unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap();
        let url = ready["url"].as_str().unwrap().to_owned();
        let cert = ["--broker", &url, "--broker-cert", "broker/tls.crt"];
        place.ok(&[&["initdata", "new", "initdata.toml"], &cert[..]].concat());
        place.ok(&["keygen", "data.key"]);
        place.ok(&["keygen", "owner.pem", "--kind", "recipient"]);
        place.write("data.csv", transactions(2_000));
        place.ok(&["encrypt", "data.csv", "--key", "data.key"]);
        let at = ["--broker", &url];
        for (uri, file) in [(DATASET_KEY, "data.key"), (OWNER_KEY, "owner.pem.pub.json")] {
            let path = uri.strip_prefix("kbs:///").unwrap();
            place.ok(&[&["resource", "put", path, file], &at[..]].concat());
        }
        let allow = [
            "policy",
            "allow",
            "default/fraud-*",
            "--assurance",
            "development",
        ];
        place.ok(&[&allow[..], &["--initdata", "initdata.toml"], &at].concat());
        let (guest, socket) = start_guest(&place, "initdata.toml", "guest.sock");
        let house = Self {
            place,
            broker,
            url,
            guest,
            socket,
        };
        house.register_reference_values();
        house
    }

    /// What the machine measures is what is expected of it.
    fn register_reference_values(&self) {
        let api = GuestApi::new(&self.socket).unwrap();
        let evidence = block_on(api.evidence("AAAA")).unwrap();
        self.place.write("good.json", evidence);
        let args = [
            "--json",
            "verify",
            "evidence",
            "good.json",
            "--development-root",
            "root",
        ];
        let claims = document(&self.place.run(&args))["claims"][0]["snp"].clone();
        let mut values = vec!["accept_development_assurance=true".to_owned()];
        for (name, claim) in [
            ("snp_launch_measurement", "measurement"),
            ("snp_bootloader", "reported_tcb_bootloader"),
            ("snp_microcode", "reported_tcb_microcode"),
            ("snp_snp_svn", "reported_tcb_snp"),
            ("snp_tee_svn", "reported_tcb_tee"),
        ] {
            assert!(!claims[claim].is_null(), "{claims}");
            values.push(format!("{name}=[{}]", claims[claim]));
        }
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let set = ["reference-value", "set", "--broker", &self.url];
        self.place.ok(&[&set[..], &values].concat());
    }

    fn score(&self, more: &[&str]) -> Vec<String> {
        let args = [
            "score",
            "data.csv.enc",
            "--key",
            DATASET_KEY,
            "--results",
            "results.jsonl.enc",
            "--results-to",
            OWNER_KEY,
            "--receipt",
            "receipt.json",
            "--guest",
            &self.socket,
        ];
        let args = [&args[..], more].concat();
        args.into_iter().map(str::to_owned).collect()
    }

    fn scored(&self) {
        let args = self.score(&["--json"]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let finished = self.place.ok(&args);
        assert_eq!(document(&finished)["receipt"], "receipt.json");
        let at = ["--broker", &self.url];
        self.place
            .ok(&[&["audit", "export", "record"], &at[..]].concat());
    }

    /// The whole command, with other options in place of some.
    fn verify(&self, receipt: &str, instead: &[(&str, &str)]) -> Value {
        let digest = self.model_digest();
        let mut options = vec![
            ("--result", "results.jsonl.enc"),
            ("--model", digest.as_str()),
            ("--input", "data.csv.enc"),
            ("--initdata", "initdata.toml"),
            ("--broker-key", "broker/token.crt"),
            ("--audit", "record"),
            ("--audit-key", "broker/audit.pub"),
            ("--development-root", "root"),
        ];
        for (name, value) in instead {
            match options.iter_mut().find(|(known, _)| known == name) {
                Some(option) => option.1 = value,
                None => options.push((name, value)),
            }
        }
        let mut args = vec!["--json", "verify", "receipt", receipt];
        for (name, value) in &options {
            match (*name, *value) {
                ("--no-initdata" | "--require-authenticated" | "--require-broker-keys", _) => {
                    args.push(name);
                }
                // Without a value it is left out.
                (_, "") => {}
                _ => args.extend([name, value]),
            }
        }
        let finished = self.place.run(&args);
        let json = document(&finished);
        let code = i32::from(json["verdict"] != "verified");
        assert_eq!(finished.status.code(), Some(code), "{}", printed(&finished));
        json
    }

    fn model_digest(&self) -> String {
        let shown = document(&self.place.ok(&["--json", "model", "show"]));
        shown["digest"].as_str().unwrap().to_owned()
    }

    fn read(&self, receipt: &str) -> Receipt {
        let bytes = self.place.read(receipt);
        UnverifiedReceipt::parse(&bytes).unwrap().verify().unwrap()
    }

    /// Another job's receipt in the same machine, which says something else.
    fn signed_otherwise(&self, change: impl FnOnce(&mut Statement)) {
        let Receipt {
            mut statement,
            attestation,
            ..
        } = self.read("receipt.json");
        change(&mut statement);
        let key = ReceiptKey::generate().unwrap();
        let evidence = self.evidence_over(&key.report_data());
        let attestation = Attestation {
            evidence,
            ..attestation
        };
        self.place
            .write("forged.json", key.sign(&statement, attestation).unwrap());
    }

    /// Real evidence of the running guest.
    fn evidence_over(&self, report_data: &[u8]) -> Box<serde_json::value::RawValue> {
        let api = GuestApi::new(&self.socket).unwrap();
        let evidence = block_on(api.evidence(&URL_SAFE_NO_PAD.encode(report_data))).unwrap();
        serde_json::from_slice(&evidence).unwrap()
    }

    fn stop(self) {
        self.guest.terminate().unwrap();
        self.broker.terminate().unwrap();
    }
}

fn start_guest(place: &Place, initdata: &str, socket: &str) -> (Running, String) {
    let socket = format!("unix:{}", place.join(socket).display());
    let guest = place
        .program(&["guest", "run", "--json", "--platform", "development"])
        .args(["--development-root", "root", "--initdata", initdata])
        .args(["--listen", &socket, "--features", "all"])
        .start()
        .unwrap();
    guest.wait_for_line("\"ready\"").unwrap();
    (guest, socket)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work)
}

/// The one step that fails, with what it says.
#[track_caller]
fn failing(verdict: &Value) -> (String, String) {
    assert_eq!(verdict["verdict"], "refused", "{verdict}");
    let steps = verdict["steps"].as_array().unwrap();
    let failed: Vec<&Value> = steps
        .iter()
        .filter(|step| step["outcome"] == "FAIL")
        .collect();
    assert_eq!(failed.len(), 1, "{verdict}");
    // Nothing is made after it.
    assert_eq!(steps.last(), Some(failed[0]));
    let text = |name: &str| failed[0][name].as_str().unwrap_or_default().to_owned();
    (text("check"), text("detail"))
}

#[test]
fn changed_receipt_or_file_is_verified() {
    let house = House::new();
    house.scored();
    honest(&house);
    changed_envelope(&house);
    changed_files(&house);
    changed_statement(&house);
    several_files(&house);
    weaker_inputs(&house);
    what_was_launched(&house);
    table_and_its_manifest(&house);
    machine_of_somebody_else(&house);
    house.stop();
}

/// What holds before anything is changed, and what a skip is worth.
fn honest(house: &House) {
    let verdict = house.verify("receipt.json", &[]);
    assert_eq!(verdict["verdict"], "verified", "{verdict}");
    assert_eq!(verdict["assurance"], "development");
    let steps = verdict["steps"].as_array().unwrap();
    assert!(
        steps.iter().all(|step| step["outcome"] == "PASS"),
        "{verdict}"
    );
    let predicate = &verdict["statement"]["predicate"];
    assert_eq!(predicate["counts"]["rows"], 2_000);
    assert_eq!(predicate["inputs"][0]["name"], "data.csv.enc");
    let size = house.place.read("data.csv.enc").len();
    assert_eq!(predicate["inputs"][0]["bytes"], json!(size));
    let mut released: Vec<&str> = predicate["releases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|release| release["resource"].as_str().unwrap())
        .collect();
    released.sort_unstable();
    assert_eq!(released, [DATASET_KEY, OWNER_KEY]);
    assert_eq!(predicate["inputs"][0]["protection"], "authenticated");
    assert_eq!(predicate["inputs"][0]["keys"], json!(["broker"]));
    assert_eq!(
        predicate["options"],
        json!({"results": "flagged", "results_format": "jsonl", "results_for": "recipient",
            "results_key": "broker", "skip_bad_rows": false, "header_row": "present",
            "ignore_unknown_columns": false, "insecure_plain_columns": false, "aad_prefix": false})
    );
    assert_eq!(verdict["token_status"], json!({"cpu0": "affirming"}));
    assert_eq!(verdict["warnings"], json!([]));
    // No row, no score.
    let said = verdict["statement"].to_string();
    for word in ["probability", "histogram", "mean", "max"] {
        assert!(!said.contains(word), "{word}: {said}");
    }

    for (option, check) in [
        ("--result", "Result"),
        ("--model", "Model"),
        ("--input", "Inputs"),
        ("--initdata", "Configuration"),
        ("--broker-key", "TokenSignature"),
    ] {
        let verdict = house.verify("receipt.json", &[(option, "")]);
        assert_eq!(verdict["verdict"], "incomplete", "{option}");
        let skipped = verdict["steps"].as_array().unwrap().iter();
        let mut skipped = skipped.filter(|step| step["outcome"] == "SKIPPED");
        assert_eq!(skipped.next().unwrap()["check"], check, "{verdict}");
    }
    // To whose key it was released is in a token that was verified, or not known.
    let verdict = house.verify("receipt.json", &[("--broker-key", "")]);
    let releases = verdict["steps"].as_array().unwrap().iter();
    let mut releases = releases.filter(|step| step["check"] == "Releases");
    assert_eq!(releases.next().unwrap()["outcome"], "SKIPPED", "{verdict}");
    let less = [("--audit", ""), ("--audit-key", "")];
    assert_eq!(house.verify("receipt.json", &less)["verdict"], "incomplete");
    let allowed = [&less[..], &[("--allow-skipped", "Releases")]].concat();
    assert_eq!(
        house.verify("receipt.json", &allowed)["verdict"],
        "verified"
    );
    // For people.
    let said = house.place.run(&[
        "verify",
        "receipt",
        "receipt.json",
        "--development-root",
        "root",
    ]);
    let said = said.stdout_text();
    assert!(
        said.starts_with("Receipt of results.jsonl.enc: 2000 rows, "),
        "{said}"
    );
    assert!(
        said.contains("PASS     the evidence binds the receipt's key"),
        "{said}"
    );
    let last = said.trim_end().lines().last().unwrap();
    assert!(
        last.starts_with("NOT VERIFIED: skipped Configuration (--initdata FILE"),
        "{last}"
    );
    for text in [
        "protection: authenticated, key from broker",
        "results   flagged rows as JSON lines, sealed to a recipient, key from broker",
        "launched  measurement ",
    ] {
        assert!(said.contains(text), "{text} is not in {said}");
    }
    // Without the root's name, the machine is nobody's.
    let stranger = house.verify("receipt.json", &[("--development-root", "")]);
    assert_eq!(failing(&stranger).0, "SnpChain");
    let said = house.place.run(&["verify", "receipt", "receipt.json"]);
    let said = said.stdout_text();
    assert!(said.contains("with --development-root DIR"), "{said}");
    assert!(!said.contains("collateral fetch"), "{said}");
    openssl_agrees(house);
}

/// The signature is what `openssl dgst -verify` takes over DSSE's encoding.
fn openssl_agrees(house: &House) {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let receipt: Value = serde_json::from_slice(&house.place.read("receipt.json")).unwrap();
    let payload = STANDARD
        .decode(receipt["payload"].as_str().unwrap())
        .unwrap();
    let head = format!("DSSEv1 28 application/vnd.in-toto+json {} ", payload.len());
    house
        .place
        .write("signed", [head.as_bytes(), &payload].concat());
    let signature = &receipt["signatures"][0];
    let bytes = STANDARD.decode(signature["sig"].as_str().unwrap()).unwrap();
    house.place.write("signature", bytes);
    let key = &signature["extension"]["ext"]["key"];
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    // SubjectPublicKeyInfo of a P-256 key, up to its point (RFC 5480, 2).
    let head = "3059301306072a8648ce3d020106082a8648ce3d03010703420004";
    let der = [hex::decode(head).unwrap(), coordinate("x"), coordinate("y")].concat();
    house.place.write("key.der", der);
    let checked = Program::new(openssl)
        .folder(house.place.path())
        .args(["dgst", "-sha256", "-keyform", "DER", "-verify", "key.der"])
        .args(["-signature", "signature", "signed"])
        .run()
        .unwrap();
    assert!(
        checked.stdout_text().contains("Verified OK"),
        "{}",
        printed(&checked)
    );
}

fn changed_envelope(house: &House) {
    house.signed_otherwise(|_| {});
    assert_eq!(house.verify("forged.json", &[])["verdict"], "verified");
    let receipt: Value = serde_json::from_slice(&house.place.read("receipt.json")).unwrap();
    let other: Value = serde_json::from_slice(&house.place.read("forged.json")).unwrap();
    let with = |pointers: &[&str]| {
        let mut changed = receipt.clone();
        for pointer in pointers {
            *changed.pointer_mut(pointer).unwrap() = other.pointer(pointer).unwrap().clone();
        }
        house.place.write("changed.json", changed.to_string());
        failing(&house.verify("changed.json", &[])).0
    };
    let ext = "/signatures/0/extension/ext";
    let (key, evidence) = (format!("{ext}/key"), format!("{ext}/evidence"));
    assert_eq!(with(&["/signatures/0/sig"]), "ReceiptSignature");
    assert_eq!(with(&[&key]), "Receipt");
    assert_eq!(with(&[&key, "/signatures/0/keyid"]), "ReceiptSignature");
    assert_eq!(with(&[&evidence]), "ReportData");
    // One's own signature under somebody else's evidence.
    assert_eq!(
        with(&[&key, "/signatures/0/keyid", "/signatures/0/sig", "/payload"]),
        "ReportData"
    );
    // Evidence that the same machine made over the same key for another purpose.
    let Receipt {
        statement,
        attestation,
        ..
    } = house.read("receipt.json");
    let own = ReceiptKey::generate().unwrap();
    let signed = own.sign(&statement, attestation.clone()).unwrap();
    let signed: Value = serde_json::from_slice(&signed).unwrap();
    let thumbprint = signed["signatures"][0]["keyid"].as_str().unwrap();
    for report_data in [
        HashAlgorithm::Sha384.digest(thumbprint.as_bytes()),
        HashAlgorithm::Sha256.digest(thumbprint.as_bytes()),
        URL_SAFE_NO_PAD.decode(thumbprint).unwrap(),
        own.report_data()[..32].to_vec(),
    ] {
        let attestation = Attestation {
            evidence: house.evidence_over(&report_data),
            ..attestation.clone()
        };
        let signed = own.sign(&statement, attestation).unwrap();
        house.place.write("changed.json", signed);
        let check = failing(&house.verify("changed.json", &[])).0;
        assert_eq!(check, "ReportData", "{}", hex::encode(report_data));
    }
}

fn changed_files(house: &House) {
    for (option, file, check) in [
        ("--result", "results.jsonl.enc", "Result"),
        ("--input", "data.csv.enc", "Inputs"),
    ] {
        let mut bytes = house.place.read(file);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        house.place.write("other", bytes);
        let named = format!("{file}=other");
        let other = if option == "--input" { &named } else { "other" };
        let (failed, why) = failing(&house.verify("receipt.json", &[(option, other)]));
        assert_eq!(failed, check, "{why}");
    }
    let other = format!("sha256:{}", "0".repeat(64));
    assert_eq!(
        failing(&house.verify("receipt.json", &[("--model", &other)])).0,
        "Model"
    );
    let folder = workspace_root().join("models/fraud");
    let model = folder.to_str().unwrap();
    assert_eq!(
        house.verify("receipt.json", &[("--model", model)])["verdict"],
        "verified"
    );
    // What the receipt does not name is no input of it.
    house.place.write("more.csv", "x");
    let args = [
        "verify",
        "receipt",
        "receipt.json",
        "--development-root",
        "root",
    ];
    let said = house
        .place
        .refused(&[&args[..], &["--input", "more.csv"]].concat());
    assert!(said.contains("names no input more.csv"), "{said}");
}

fn changed_statement(house: &House) {
    let failing_with = |change: &dyn Fn(&mut Statement)| {
        house.signed_otherwise(|statement| change(statement));
        failing(&house.verify("forged.json", &[]))
    };
    let events = |statement: &Statement| {
        let releases = statement.predicate.releases.iter();
        let events: Vec<String> = releases.map(|it| it.event.clone().unwrap()).collect();
        events
    };
    let (check, why) = failing_with(&|statement| {
        let last = statement.predicate.releases.last_mut().unwrap();
        last.event = Some("0".repeat(24));
    });
    assert_eq!(check, "Releases");
    assert!(why.contains("the record has no event 000000"), "{why}");
    // An event of the record, of another release.
    let (check, why) = failing_with(&|statement| {
        let events = events(statement);
        statement.predicate.releases[0].event = Some(events[1].clone());
    });
    assert_eq!(check, "Releases");
    assert!(why.contains("says resource default/fraud-"), "{why}");
    let (check, why) = failing_with(&|statement| {
        statement.predicate.releases[0].event = None;
    });
    assert_eq!(
        (check.as_str(), why.contains("names no event")),
        ("Releases", true)
    );
    let (check, _) = failing_with(&|statement| {
        statement.predicate.releases[0].token = Some("another".to_owned());
    });
    assert_eq!(check, "Releases");
    // A job that ran when the token was not yet issued, or over.
    for times in [(1_000, 2_000), (4_000_000_000, 4_000_000_001)] {
        let (check, _) = failing_with(&|statement| {
            (statement.predicate.started, statement.predicate.finished) = times;
        });
        assert_eq!(check, "TokenTime");
    }
    let (check, _) = failing_with(&|statement| {
        statement.predicate.model.digest = format!("sha256:{}", "0".repeat(64));
    });
    assert_eq!(check, "Model");
}

/// Files of several forms in one job, of more segments than one: each has its digest.
fn several_files(house: &House) {
    let place = &house.place;
    place.write("many.csv", transactions(60_000));
    place.ok(&["encrypt", "many.csv", "--key", "data.key"]);
    let args = [
        "score",
        "data.csv.enc",
        "many.csv.enc",
        "--key",
        DATASET_KEY,
    ];
    let to = ["--results", "both.enc", "--results-to", OWNER_KEY];
    let receipt = ["--receipt", "both.json", "--guest", &house.socket];
    place.ok(&[&args[..], &to, &receipt].concat());
    let predicate = house.read("both.json").statement.predicate;
    // One key of both: it is released once.
    assert_eq!(predicate.releases.len(), 2);
    let inputs = predicate.inputs;
    let names: Vec<&str> = inputs.iter().map(|input| &*input.name).collect();
    assert_eq!(names, ["data.csv.enc", "many.csv.enc"]);
    let size = place.read("many.csv.enc").len() as u64;
    assert_eq!(inputs[1].bytes, size);
    assert!(size > 2 << 20, "{size}");
    let verify = |inputs: &[&str]| {
        let base = [
            "--json",
            "verify",
            "receipt",
            "both.json",
            "--development-root",
            "root",
        ];
        let rest = [
            "--result",
            "both.enc",
            "--initdata",
            "initdata.toml",
            "--broker-key",
            "broker/token.crt",
        ];
        let less = ["--allow-skipped", "Model,Releases"];
        let inputs: Vec<&str> = inputs.iter().flat_map(|input| ["--input", input]).collect();
        document(&place.run(&[&base[..], &rest, &less, &inputs].concat()))
    };
    assert_eq!(
        verify(&["data.csv.enc", "many.csv.enc"])["verdict"],
        "verified"
    );
    assert_eq!(verify(&["many.csv.enc"])["verdict"], "incomplete");
    let swapped = verify(&["data.csv.enc=many.csv.enc", "many.csv.enc=data.csv.enc"]);
    assert_eq!(failing(&swapped).0, "Inputs");
}

/// A plain file, one of `openssl enc`, and keys from files have receipts that say so, and that fail where it is required.
fn weaker_inputs(house: &House) {
    let place = &house.place;
    let check = |name: &str, protection: &str, keys: Value, why: &str| {
        let verdict = house.verify(name, WEAK);
        assert_eq!(verdict["verdict"], "verified", "{verdict}");
        let input = &verdict["statement"]["predicate"]["inputs"][0];
        assert_eq!(
            (&input["protection"], &input["keys"]),
            (&json!(protection), &keys)
        );
        let warned = verdict["warnings"][0].as_str().unwrap_or_default();
        assert!(warned.contains(why), "{verdict}");
        let required = [WEAK, &[("--require-authenticated", "")]].concat();
        let (check, said) = failing(&house.verify(name, &required));
        assert_eq!(check, "Protection");
        assert!(said.contains(why), "{said}");
    };
    let score = |input: &[&str], receipt: &str| {
        let to = [
            "--results",
            "weak.enc",
            "--results-to",
            OWNER_KEY,
            "--force",
        ];
        let receipt = ["--receipt", receipt, "--guest", &house.socket];
        place.ok(&[&["score"], input, &to, &receipt].concat())
    };
    score(&["data.csv"], "plain.json");
    check(
        "plain.json",
        "none",
        Value::Null,
        "data.csv was not encrypted",
    );
    if let Some(openssl) = peer("openssl") {
        let passphrase = place.read("data.key");
        place.write("pass.txt", hex::encode(passphrase));
        let enc = "enc -aes-256-cfb -pbkdf2 -kfile pass.txt -in data.csv -out data.openssl";
        let made = Program::new(openssl).folder(place.path());
        let made = made.args(enc.split(' ').collect::<Vec<_>>().as_slice());
        let made = made.run().unwrap();
        assert!(made.status.success(), "{}", printed(&made));
        let how = ["--key", "pass.txt", "--openssl-cipher", "cfb"];
        score(&[&["data.openssl"], &how[..]].concat(), "openssl.json");
        check(
            "openssl.json",
            "unauthenticated",
            json!(["file"]),
            "`openssl enc`",
        );
    }
    // Authenticated, under a key that lay on the machine.
    score(&["data.csv.enc", "--key", "data.key"], "file.json");
    let verdict = house.verify("file.json", WEAK);
    assert_eq!(verdict["verdict"], "verified", "{verdict}");
    let warned = verdict["warnings"][0].as_str().unwrap();
    assert!(warned.contains("a key from a file"), "{warned}");
    let required = [
        ("--require-authenticated", ""),
        ("--require-broker-keys", ""),
    ];
    let (check, why) = failing(&house.verify("file.json", &[WEAK, &required].concat()));
    assert_eq!(check, "Keys");
    assert!(
        why.contains("data.csv.enc was opened with a key from a file"),
        "{why}"
    );
    let verdict = house.verify("receipt.json", &required);
    assert_eq!(verdict["verdict"], "verified", "{verdict}");
    // One member of one input decides.
    house.signed_otherwise(|statement| {
        statement.predicate.inputs[0].protection = Protection::PlainColumns;
    });
    assert_eq!(
        failing(&house.verify("forged.json", &required)).0,
        "Protection"
    );
    house.signed_otherwise(|statement| statement.predicate.options.results_key = KeyFrom::File);
    let (check, why) = failing(&house.verify("forged.json", &required));
    assert_eq!(check, "Keys");
    assert!(why.contains("the results are under"), "{why}");
}

/// What is compared of a receipt whose files and releases are others.
const WEAK: &[(&str, &str)] = &[
    ("--result", ""),
    ("--input", ""),
    ("--audit", ""),
    ("--audit-key", ""),
    ("--allow-skipped", "Result,Inputs,Releases"),
];

fn what_was_launched(house: &House) {
    let good = house.verify("receipt.json", &[]);
    let measured = good["measurements"]["measurement"].as_str().unwrap();
    let with = |value: &str| house.verify("receipt.json", &[("--measurement", value)]);
    assert_eq!(with(measured)["verdict"], "verified");
    assert_eq!(
        with(&format!("measurement={measured}"))["verdict"],
        "verified"
    );
    let (check, why) = failing(&with(&"00".repeat(48)));
    assert_eq!(check, "Measurement");
    assert!(why.contains(measured), "{why}");
    let (check, why) = failing(&with(&format!("rtmr_1={measured}")));
    assert_eq!(check, "Measurement");
    assert!(why.contains("no claim rtmr_1"), "{why}");
    // Nobody who vouches for what was launched: a skip, and not a pass.
    let alone = house.verify("receipt.json", &[("--broker-key", "")]);
    let skipped = |step: &&Value| step["check"] == "Measurement" && step["outcome"] == "SKIPPED";
    let steps = alone["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| skipped(&step)), "{alone}");
    // The policy behind each release, by the record.
    let policies = good["policies"].as_object().unwrap();
    assert_eq!(policies.len(), 2, "{good}");
    let policy = policies.values().next().unwrap().as_str().unwrap();
    let with = |digest: &str| {
        let named = format!("sha256:{digest}");
        house.verify("receipt.json", &[("--release-policy", &named)])
    };
    assert_eq!(with(policy)["verdict"], "verified");
    let (check, why) = failing(&with(&"0".repeat(64)));
    assert_eq!(check, "ReleasePolicy");
    assert!(why.contains(policy), "{why}");
}

/// A table's manifest says what is in the table, so the receipt is for both.
fn table_and_its_manifest(house: &House) {
    let place = &house.place;
    let args = ["score", "data.csv.enc", "--key", DATASET_KEY];
    let to = ["--results", "table.csv.enc", "--results-to", OWNER_KEY];
    let how = ["--results-format", "csv", "--results-kind", "all"];
    let receipt = ["--receipt", "table.json", "--guest", &house.socket];
    let said = place.ok(&[&args[..], &to, &how, &receipt].concat());
    let said = said.stdout_text();
    const BOTH: &str = "--result table.csv.enc --result table.csv.manifest.json.enc";
    assert!(said.contains(BOTH), "{said}");
    let verify = |results: &[&str]| {
        let base = ["--json", "verify", "receipt", "table.json"];
        let more = ["--development-root", "root", "--initdata", "initdata.toml"];
        let broker = ["--broker-key", "broker/token.crt"];
        let less = ["--allow-skipped", "Model,Inputs,Releases"];
        let results: Vec<&str> = results.iter().flat_map(|it| ["--result", it]).collect();
        document(&place.run(&[&base[..], &more, &broker, &less, &results].concat()))
    };
    let manifest = "table.csv.manifest.json.enc";
    assert_eq!(verify(&["table.csv.enc", manifest])["verdict"], "verified");
    for (given, missing) in [("table.csv.enc", manifest), (manifest, "table.csv.enc")] {
        let verdict = verify(&[given]);
        assert_eq!(verdict["verdict"], "incomplete", "{verdict}");
        let steps = verdict["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["check"] == "Result").unwrap();
        assert_eq!(step["detail"], format!("not given: {missing}"));
    }
    let mut bytes = place.read(manifest);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    place.write("other", bytes);
    let other = format!("{manifest}=other");
    let (check, why) = failing(&verify(&["table.csv.enc", &other]));
    assert_eq!(check, "Result");
    assert!(why.starts_with("other has the SHA-256"), "{why}");
    // It names what the receipt names, and the receipt.
    let open = ["decrypt", manifest, "--identity", "owner.pem", "-o", "-"];
    let manifest = Manifest::parse(&place.ok(&open).stdout).unwrap();
    assert_eq!(manifest.receipt.as_deref(), Some("table.json"));
    let statement = house.read("table.json").statement;
    assert_eq!(manifest.sources, statement.predicate.inputs);
    assert_eq!(manifest.sources.len(), 1);
}

fn machine_of_somebody_else(house: &House) {
    let text = String::from_utf8(house.place.read("initdata.toml")).unwrap();
    house
        .place
        .write("other.toml", format!("{text}\n# another\n"));
    let verdict = house.verify("receipt.json", &[("--initdata", "other.toml")]);
    assert_eq!(failing(&verdict).0, "InitData");
    let none = [("--initdata", ""), ("--no-initdata", "")];
    assert_eq!(failing(&house.verify("receipt.json", &none)).0, "InitData");
    // A guest of the same make, launched otherwise, has a token of the same broker.
    let (guest, socket) = start_guest(&house.place, "other.toml", "other.sock");
    let api = GuestApi::new(&socket).unwrap();
    let token = block_on(api.attestation_token()).unwrap();
    guest.terminate().unwrap();
    house.signed_otherwise(|statement| statement.predicate.token = Some(token.clone()));
    let (check, why) = failing(&house.verify("forged.json", &[]));
    assert_eq!(check, "TokenMachine");
    assert!(why.contains("init-data"), "{why}");
    // A machine that the broker knows, and does not affirm.
    let expect = |value: &str| {
        let value = format!("snp_launch_measurement=[\"{value}\"]");
        let set = ["reference-value", "set", "--broker", &house.url];
        house.place.ok(&[&set[..], &[value.as_str()]].concat());
    };
    expect(&"00".repeat(48));
    let (guest, socket) = start_guest(&house.place, "initdata.toml", "unknown.sock");
    let api = GuestApi::new(&socket).unwrap();
    let unknown = block_on(api.attestation_token()).unwrap();
    guest.terminate().unwrap();
    let good = house.verify("receipt.json", &[]);
    expect(good["measurements"]["measurement"].as_str().unwrap());
    house.signed_otherwise(|statement| statement.predicate.token = Some(unknown));
    let (check, why) = failing(&house.verify("forged.json", &[]));
    assert_eq!(check, "TokenStatus");
    assert!(why.contains("ear.status of cpu0 is "), "{why}");
    // The token of another broker.
    house.place.ok(&["broker", "init", "stranger"]);
    let verdict = house.verify("receipt.json", &[("--broker-key", "stranger/token.crt")]);
    assert_eq!(failing(&verdict).0, "TokenSignature");
    token_alone(house, &token);
}

fn token_alone(house: &House, token: &str) {
    house.place.write("token", token);
    let base = ["--json", "verify", "token", "token", "--broker-key"];
    let verify = |more: &[&str]| document(&house.place.run(&[&base[..], more].concat()));
    let good = verify(&["broker/token.crt"]);
    assert_eq!(good["verdict"], "verified", "{good}");
    assert!(good["claims"]["submods"]["cpu0"].is_object());
    let (check, _) = failing(&verify(&["stranger/token.crt"]));
    assert_eq!(check, "TokenSignature");
    let late = verify(&["broker/token.crt", "--at", "2100-01-01T00:00:00Z"]);
    assert_eq!(
        (failing(&late).0.as_str(), &late["claims"]),
        ("TokenTime", &Value::Null)
    );
    let (body, _) = token.rsplit_once('.').unwrap();
    house
        .place
        .write("token", format!("{body}.{}", "A".repeat(86)));
    assert_eq!(failing(&verify(&["broker/token.crt"])).0, "TokenSignature");
}

#[test]
fn job_that_fails_leaves_a_receipt() {
    let house = House::new();
    let refused = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        house.place.refused(&args)
    };
    let run = |more: &[&str]| refused(&house.score(more));
    // Nobody there to vouch for it: before any work.
    let mut alone = house.score(&["--threshold", "7"]);
    let guest = alone.iter().position(|arg| *arg == house.socket).unwrap();
    alone[guest] = "unix:/nowhere/guest.sock".to_owned();
    let said = refused(&alone);
    assert!(
        said.contains("a receipt needs a guest that attests"),
        "{said}"
    );
    // One that serves secrets alone, as guests do unless told otherwise.
    let url = format!("unix:{}", house.place.join("secrets.sock").display());
    let args = ["guest", "run", "--json", "--platform", "development"];
    let secrets = house
        .place
        .program(&args)
        .args(["--development-root", "root", "--initdata", "initdata.toml"])
        .args(["--listen", &url])
        .start()
        .unwrap();
    secrets.wait_for_line("\"ready\"").unwrap();
    alone[guest] = url;
    let said = refused(&alone);
    assert!(said.contains("--features all"), "{said}");
    assert!(said.contains("\"attestation\" is not enabled"), "{said}");
    secrets.terminate().unwrap();
    // What no receipt can name, before a row is read: the second input is not even there.
    let mut twice = house.score(&[]);
    twice.insert(2, "data.csv.enc".to_owned());
    twice.insert(3, "missing.csv.enc".to_owned());
    let said = refused(&twice);
    assert!(
        said.contains("two inputs are called \"data.csv.enc\""),
        "{said}"
    );
    assert!(said.contains("nothing was scored"), "{said}");
    // The results would be written, and are not good.
    let said = run(&["--threshold", "7"]);
    assert!(said.contains("threshold"), "{said}");
    house.scored();
    let said = run(&[]);
    assert!(said.contains("receipt.json exists already"), "{said}");
    let args = ["score", "--receipt", "another.json"];
    assert_eq!(house.place.run(&args).status.code(), Some(2));
    house.stop();
}

/// What stands for the reader's hands before the first command.
const PRELUDE: &str = r#"
strongroom broker init broker --insecure-accept-sample-evidence
server broker.log strongroom broker run --listen 127.0.0.1:0
url=$(grep -o 'https://127.0.0.1:[0-9]*' broker.log | head -n 1)
export STRONGROOM_BROKER=$url
strongroom initdata new initdata.toml --broker "$url" --broker-cert broker/tls.crt
strongroom keygen data.key
strongroom keygen owner.pem --kind recipient
strongroom generate --rows 500 --output transactions.csv
strongroom encrypt transactions.csv --key data.key
strongroom resource put default/fraud-dataset/key data.key
strongroom resource put default/fraud-results/owner owner.pem.pub.json
strongroom reference-value set launch_digest='"abcde"' svn='"1"' major_version=1 minimum_minor_version=4 \
  accept_development_assurance=true
strongroom policy allow 'default/fraud-*' --initdata initdata.toml --assurance development
export STRONGROOM_GUEST=unix:$PWD/guest.sock
server guest.log strongroom guest run --platform sample --initdata initdata.toml --listen "$STRONGROOM_GUEST" --features all
"#;

#[test]
fn command_of_the_page_does_not_work_as_written() {
    let blocks = support::shell_blocks("docs/receipts.md");
    assert!(blocks.len() >= 4, "{}", blocks.len());
    let place = Place::new();
    let script = [
        SERVERS,
        PRELUDE,
        &blocks.join("\n"),
        "\necho the page holds",
    ];
    let finished = place.script(&script.concat()).run().unwrap();
    let said = printed(&finished);
    assert!(
        finished.status.success() && said.contains("the page holds"),
        "{said}"
    );
    assert!(said.contains("VERIFIED (DEVELOPMENT)"), "{said}");
}
