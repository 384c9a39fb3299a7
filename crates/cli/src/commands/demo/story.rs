//! The demo's steps, in order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use console::style;
use serde_json::{Value, json};
use strongroom_attester::Attester;
use strongroom_cipherfile::FileKey;
use strongroom_cipherfile::sealed::Opener;
use strongroom_cipherfile::tink_stream::Encryptor;
use strongroom_client::ClientError;
use strongroom_client::admin::AdminClient;
use strongroom_client::guest_api::GuestApi;
use strongroom_scoring::generate::{Columns, Generator};
use strongroom_scoring::model::Bundle;
use strongroom_scoring::results::{self, Top};
use strongroom_verifier::release_policy::{Requirement, requiring};
use strongroom_verifier::{Assurance, Collateral, Evidence, Expected, TrustAnchors, examine};
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::ear::Tier;
use strongroom_wire::initdata::Initdata;
use strongroom_wire::jwe::{DecryptionKey, KeyAlgorithm};
use strongroom_wire::resource::ResourcePath;

use super::Args;
use super::attacker::{self, Needles};
use super::child::{self, Server};
use super::telling::{Proof, Telling};
use crate::commands::audit::reason_line;
use crate::commands::initdata;
use crate::connect::{AdminArgs, block_on, read_pem};
use crate::progress::thousands;

const DATASET_KEY: &str = "default/fraud-dataset/dataset_key";
const MODEL_KEY: &str = "default/fraud-model/model_key";
const RECIPIENT: &str = "default/fraud-results/recipient";

/// The measured configuration forbids commands from outside; the tampered one allows them.
const AGENT_POLICY: &str = "package agent_policy\n\ndefault ExecProcessRequest := false\ndefault ReadStreamRequest := false\n";

pub(crate) fn tell(args: &Args, folder: &Path, telling: &mut Telling) -> anyhow::Result<()> {
    telling.say(&format!(
        "{}  Data stays encrypted until the machine that will read it has proved what it is.",
        style("Strongroom").bold()
    ));
    telling.say("Everything below happens now, on this machine, in real processes over real TLS. The one thing missing is hardware:");
    telling.say("SNP reports in AMD's format are signed under a root made a moment ago, and the broker was started with that root by name.");
    let places = Places::make(folder)?;
    let owner = Owner::new()?;

    telling.step("encrypt", "The owner encrypts transactions and model, and uploads them to a bucket that anybody may read.", || {
        owner.upload(args, &places)
    })?;
    let (broker, admin) = telling.step(
        "broker",
        "The owner starts a key broker. Only it will ever hand out the keys.",
        || start_broker(&places),
    )?;
    let measured = telling.step("policy", "The owner stores the keys and says who may have them: machines that measured this very configuration.", || {
        owner.instruct(&admin, &broker.url()?, &places)
    })?;
    let guest = telling.step(
        "attest",
        "In the cloud, a guest starts, attests to the broker, and gets a key.",
        || start_guest("guest", &places, &measured, &admin),
    )?;
    telling.step(
        "score",
        &format!(
            "The scorer asks the guest for keys, decrypts in memory and scores {} transactions.",
            thousands(args.rows)
        ),
        || score(&places, &guest.url()?, args.rows),
    )?;
    let top = telling.step(
        "results",
        "The owner downloads the results and opens them with a key that never left home.",
        || owner.read_results(&places, args.rows),
    )?;
    show_results(telling, &top);
    telling.step("receipt", "An auditor verifies the job's receipt, offline: which model scored which bytes into which result, in which machine.", || {
        owner.verify_receipt(&places, &measured, &broker.url()?)
    })?;
    telling.step("attacker", "Somebody who controls the cloud reads the bucket, every log, and the broker's database too.", || {
        let found = owner.search(args, &places)?;
        telling_head(&places, found)
    })?;
    telling.say(&format!(
        "     {}",
        style(attacker::head(&places.dataset())?).dim()
    ));
    let reasons = telling.step("denial", "A cloud admin starts the same guest with a changed configuration, to run commands inside it.", || {
        tampered_guest(&places, &measured, &admin)
    })?;
    for reason in &reasons {
        telling.say(&format!("     {}", style(reason_line(reason)).yellow()));
    }
    telling.say("     The guest learned none of this, only an event id; the owner reads it in the broker's record.");
    Ok(())
}

/// The demo's folders: what is trusted and what is not.
struct Places {
    bucket: PathBuf,
    logs: PathBuf,
    broker: PathBuf,
    cloud: PathBuf,
    /// The root that stands for a chip maker's.
    root: PathBuf,
}

impl Places {
    fn make(folder: &Path) -> anyhow::Result<Self> {
        let places = Self {
            bucket: folder.join("bucket"),
            logs: folder.join("logs"),
            broker: folder.join("broker"),
            cloud: folder.join("cloud"),
            root: folder.join("development-root"),
        };
        for path in [&places.bucket, &places.logs, &places.cloud] {
            std::fs::create_dir(path)?;
        }
        Ok(places)
    }

    fn dataset(&self) -> PathBuf {
        self.bucket.join("transactions.csv.enc")
    }

    fn model(&self) -> PathBuf {
        self.bucket.join("fraud-model.tar.enc")
    }

    fn results(&self) -> PathBuf {
        self.bucket.join("results.jsonl.enc")
    }

    fn receipt(&self) -> PathBuf {
        self.bucket.join("receipt.json")
    }
}

/// What the owner holds, in memory only.
struct Owner {
    dataset_key: FileKey,
    model_key: FileKey,
    identity: DecryptionKey,
    model: Bundle,
}

impl Owner {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            dataset_key: FileKey::generate()?,
            model_key: FileKey::generate()?,
            identity: DecryptionKey::generate(KeyAlgorithm::EcdhP256)?,
            model: Bundle::built_in(),
        })
    }

    fn upload(&self, args: &Args, places: &Places) -> anyhow::Result<((), Proof)> {
        let generator = Generator {
            rows: args.rows,
            seed: args.seed,
            label: false,
            columns: Columns::Model,
        };
        let mut dataset = Encryptor::new(
            File::create_new(places.dataset())?,
            &self.dataset_key,
            b"transactions.csv",
        )?;
        generator.write_to(&mut dataset)?;
        let bytes = dataset.finish()?.metadata()?.len();
        let mut model = Encryptor::new(
            File::create_new(places.model())?,
            &self.model_key,
            b"fraud-model.tar",
        )?;
        model.write_all(&self.model.to_tar())?;
        model.finish()?;
        let line = format!(
            "{} transactions ({:.1} MB) and the model are ciphertext; no plaintext was ever a file",
            thousands(args.rows),
            megabytes(bytes)
        );
        Ok((
            (),
            Proof::new(
                line,
                json!({ "rows": args.rows, "bytes": bytes, "model_digest": self.model.digest() }),
            ),
        ))
    }

    /// Stores keys, reference values and the release policy; returns the configuration that the policy demands.
    fn instruct(
        &self,
        admin: &AdminClient,
        broker_url: &str,
        places: &Places,
    ) -> anyhow::Result<(Initdata, Proof)> {
        let certificate = read_pem(&places.broker.join("tls.crt"))?;
        let measured = initdata::compose(
            HashAlgorithm::Sha256,
            broker_url,
            Some(&certificate),
            Some(AGENT_POLICY.to_owned()),
        )?;
        let rule = Requirement::for_resources("default/fraud-*")?
            .tier(Tier::Affirming)
            .assurance(Assurance::Development)
            .initdata_digest(&measured.digest());
        let recipient = serde_json::to_vec(self.identity.public())?;
        block_on(async {
            admin
                .put_resource(&DATASET_KEY.parse()?, self.dataset_key.expose_bytes())
                .await?;
            admin
                .put_resource(&MODEL_KEY.parse()?, self.model_key.expose_bytes())
                .await?;
            admin.put_resource(&RECIPIENT.parse()?, &recipient).await?;
            admin
                .put_reference_values(&reference_values(&places.root)?)
                .await?;
            let policy = "resource-policy/default/fraud-*";
            admin.set_policy(policy, &requiring(&[rule])).await?;
            anyhow::Ok(())
        })??;
        let digest = hex::encode(measured.digest());
        let line = format!(
            "3 secrets stored, encrypted; released only to init-data {}…",
            &digest[..16]
        );
        Ok((
            measured,
            Proof::new(
                line,
                json!({ "initdata": digest, "resources": [DATASET_KEY, MODEL_KEY, RECIPIENT] }),
            ),
        ))
    }

    fn read_results(&self, places: &Places, rows: u64) -> anyhow::Result<(Top, Proof)> {
        let opened = Opener::new(
            File::open(places.results())?,
            &self.identity,
            b"results.jsonl",
        )?;
        let top = results::top(opened, 5)?;
        ensure!(
            top.summary.rows == rows,
            "the results speak of {} rows, not {rows}",
            top.summary.rows
        );
        ensure!(
            top.summary.model_digest == self.model.digest(),
            "the results come from another model"
        );
        let line = format!(
            "{} of {} transactions are above {}; result and model digest check out",
            thousands(top.summary.flagged),
            thousands(top.summary.rows),
            top.summary.threshold
        );
        let details = json!({ "flagged": top.summary.flagged, "rows": top.summary.rows, "threshold": top.summary.threshold, "histogram": top.summary.histogram });
        Ok((top, Proof::new(line, details)))
    }

    /// Holds the receipt against everything that the owner has: the files, the model, the configuration, the record.
    fn verify_receipt(
        &self,
        places: &Places,
        measured: &Initdata,
        broker_url: &str,
    ) -> anyhow::Result<((), Proof)> {
        let broker = |name: &str| text(places.broker.join(name));
        let (dir, record, initdata) = (broker("")?, broker("record")?, broker("initdata.toml")?);
        std::fs::write(&initdata, measured.as_str())?;
        child::run(
            "audit-export",
            &[
                "audit", "export", &record, "--dir", &dir, "--broker", broker_url,
            ],
            &places.logs,
        )?;
        let document = child::run(
            "verify-receipt",
            &[
                "verify",
                "receipt",
                &text(places.receipt())?,
                "--result",
                &text(places.results())?,
                "--input",
                &text(places.dataset())?,
                "--model",
                self.model.digest(),
                "--initdata",
                &initdata,
                "--broker-key",
                &broker("token.crt")?,
                "--audit",
                &record,
                "--audit-key",
                &broker("audit.pub")?,
                "--development-root",
                &text(places.root.clone())?,
            ],
            &places.logs,
        )?;
        ensure!(
            document["verdict"] == "verified",
            "the receipt is not verified: {}",
            document["steps"]
        );
        let steps = document["steps"].as_array().map_or(0, Vec::len);
        let line = format!(
            "{steps} of {steps} checks hold: signature, evidence, configuration, token, result, model, input, and 3 releases in the record"
        );
        let details = json!({ "verdict": document["verdict"], "assurance": document["assurance"], "checks": steps });
        Ok(((), Proof::new(line, details)))
    }

    fn search(&self, args: &Args, places: &Places) -> anyhow::Result<(usize, attacker::Findings)> {
        let pem = self.identity.to_pkcs8_pem()?;
        let keys: [&[u8]; 3] = [
            self.dataset_key.expose_bytes(),
            self.model_key.expose_bytes(),
            pem.as_bytes(),
        ];
        let needles = Needles::new(args.seed, args.rows, &keys, &self.model)?;
        let findings =
            needles.search(&[&places.bucket, &places.logs, &places.cloud, &places.broker])?;
        ensure!(
            findings.hits.is_empty(),
            "plaintext was found: {}",
            findings.hits.join(", ")
        );
        Ok((needles.count(), findings))
    }
}

fn telling_head(
    places: &Places,
    (needles, findings): (usize, attacker::Findings),
) -> anyhow::Result<((), Proof)> {
    let line = format!(
        "{} files, {:.1} MB searched for {needles} rows, keys and weights: 0 hits. The data set begins:",
        findings.files,
        megabytes(findings.bytes)
    );
    let details = json!({ "files": findings.files, "bytes": findings.bytes, "needles": needles, "hits": 0, "head": attacker::head(&places.dataset())? });
    Ok(((), Proof::new(line, details)))
}

/// Measures a good machine: what its evidence claims is what the owner expects of every other. That it rests on a
/// development root only is accepted by name.
fn reference_values(root: &Path) -> anyhow::Result<BTreeMap<String, Value>> {
    let attester = Attester::named_with_root("development", Some(root))?;
    let evidence = Evidence::parse(attester.tee(), attester.evidence(&[])?.get().as_bytes())?;
    let anchors =
        TrustAnchors::vendors().with_development_root(&read_pem(&root.join("root.pem"))?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let examined = examine(
        evidence,
        &Collateral::none(),
        &anchors,
        &Expected::default(),
        now,
    );
    if let Some(error) = examined.error {
        return Err(error.into());
    }
    let (_, claims) = examined.claims.first().context("evidence without claims")?;
    let mut values: BTreeMap<String, Value> = [
        ("snp_launch_measurement", "measurement"),
        ("snp_bootloader", "reported_tcb_bootloader"),
        ("snp_microcode", "reported_tcb_microcode"),
        ("snp_snp_svn", "reported_tcb_snp"),
        ("snp_tee_svn", "reported_tcb_tee"),
    ]
    .into_iter()
    .map(|(name, claim)| {
        let value = claims
            .get(claim)
            .with_context(|| format!("no claim {claim}"))?;
        Ok((name.to_owned(), json!([value])))
    })
    .collect::<anyhow::Result<_>>()?;
    values.insert("accept_development_assurance".to_owned(), json!(true));
    Ok(values)
}

fn start_broker(places: &Places) -> anyhow::Result<((Server, AdminClient), Proof)> {
    let dir = places
        .broker
        .to_str()
        .context("the folder's name is not UTF-8")?;
    child::run("broker-init", &["broker", "init", dir], &places.logs)?;
    Attester::named_with_root("development", Some(&places.root))?;
    let root = places
        .root
        .to_str()
        .context("the folder's name is not UTF-8")?;
    let broker = Server::start(
        "broker",
        &[
            "broker",
            "run",
            dir,
            "--listen",
            "127.0.0.1:0",
            "--development-root",
            root,
        ],
        &places.logs,
    )?;
    let url = broker.url()?;
    let args = AdminArgs {
        dir: places.broker.clone(),
        broker: Some(url.clone()),
        broker_cert: None,
        admin_key: None,
        admin: "admin".to_owned(),
        admin_role: "admin".to_owned(),
    };
    let admin = args.client()?;
    // Closed by default: who has no admin's key may not even list names.
    let certificate =
        reqwest::Certificate::from_pem(read_pem(&places.broker.join("tls.crt"))?.as_bytes())?;
    let stranger = reqwest::Client::builder()
        .tls_certs_only([certificate])
        .no_proxy()
        .build()?;
    let status = block_on(
        stranger
            .delete(format!("{url}/kbs/v0/resource/{DATASET_KEY}"))
            .send(),
    )??
    .status();
    ensure!(
        status == reqwest::StatusCode::UNAUTHORIZED,
        "a stranger's admin request was answered with {status}"
    );
    let line = format!(
        "{url} answers under its own certificate; a stranger's admin request is refused ({status})"
    );
    Ok((
        (broker, admin),
        Proof::new(line, json!({ "url": url, "stranger": status.as_u16() })),
    ))
}

fn start_guest(
    name: &'static str,
    places: &Places,
    initdata: &Initdata,
    admin: &AdminClient,
) -> anyhow::Result<(Server, Proof)> {
    let guest = launch(name, places, initdata)?;
    let api = GuestApi::new(&guest.url()?)?;
    let key = block_on(api.resource(&DATASET_KEY.parse()?))??;
    ensure!(key.len() == 32, "the key has {} bytes, not 32", key.len());
    let entries = block_on(admin.audit(20))??;
    let attested = entries
        .iter()
        .rev()
        .find(|entry| entry["kind"] == "attestation")
        .context("the attestation is not in the broker's record")?;
    let event = attested["event"].as_str().unwrap_or("-").to_owned();
    ensure!(
        attested["tee"] == "snp",
        "the broker's record speaks of another platform: {}",
        attested["tee"]
    );
    let line = "signature, chain, TCB, nonce, guest's key and init-data hold in an SNP report; verdict: VERIFIED (DEVELOPMENT), affirming";
    Ok((
        guest,
        Proof::new(line, json!({ "event": event, "assurance": "development" })),
    ))
}

fn launch(name: &'static str, places: &Places, initdata: &Initdata) -> anyhow::Result<Server> {
    let path = places.cloud.join(format!("{name}-initdata.toml"));
    std::fs::write(&path, initdata.as_str())?;
    let path = path.to_str().context("the folder's name is not UTF-8")?;
    let root = places
        .root
        .to_str()
        .context("the folder's name is not UTF-8")?;
    // A socket keeps keys off the network, loopback included.
    let socket = format!(
        "unix:{}",
        places.cloud.join(format!("{name}.sock")).display()
    );
    Server::start(
        name,
        &[
            "guest",
            "run",
            "--platform",
            "development",
            "--development-root",
            root,
            "--initdata",
            path,
            "--listen",
            &socket,
            // A receipt needs evidence as well as secrets.
            "--features",
            "all",
        ],
        &places.logs,
    )
}

fn score(places: &Places, guest: &str, rows: u64) -> anyhow::Result<((), Proof)> {
    let uri = |path: &str| format!("kbs:///{path}");
    let (dataset, model, results) = (
        text(places.dataset())?,
        text(places.model())?,
        text(places.results())?,
    );
    let receipt = text(places.receipt())?;
    let (key, model_key, to) = (uri(DATASET_KEY), uri(MODEL_KEY), uri(RECIPIENT));
    let document = child::run(
        "score",
        &[
            "score",
            &dataset,
            "--key",
            &key,
            "--model",
            &model,
            "--model-key",
            &model_key,
            "--results",
            &results,
            "--results-to",
            &to,
            "--receipt",
            &receipt,
            "--guest",
            guest,
        ],
        &places.logs,
    )?;
    ensure!(
        document["rows"] == rows,
        "the scorer read {} rows, not {rows}",
        document["rows"]
    );
    let line = format!(
        "{} rows/s; its log has counts only ({} flagged), its results are sealed to the owner, its receipt is signed by an attested key",
        thousands(document["rows_per_second"].as_u64().unwrap_or(0)),
        thousands(document["flagged"].as_u64().unwrap_or(0))
    );
    Ok(((), Proof::new(line, document)))
}

fn show_results(telling: &Telling, top: &Top) {
    telling.say("\n   Scores, as the owner sees them (probability of fraud, logarithmic bars):");
    telling.histogram(&top.summary.histogram);
    let many = top.summary.flagged;
    telling.say(&match top.rows.first() {
        None => "\n   No transaction is above the threshold.".to_owned(),
        Some(_) => format!(
            "\n   {} of the {} that were flagged, the first with the highest score:",
            top.rows.len(),
            thousands(many)
        ),
    });
    for row in &top.rows {
        let features: Vec<String> = top
            .header
            .columns
            .iter()
            .zip(&row.features)
            .map(|(name, value)| format!("{name}={value:.2}"))
            .collect();
        telling.say(&format!(
            "     row {:<8} {:>9.5}%  {}",
            row.row,
            row.probability * 100.0,
            features.join(" ")
        ));
    }
}

fn tampered_guest(
    places: &Places,
    measured: &Initdata,
    admin: &AdminClient,
) -> anyhow::Result<(Vec<Value>, Proof)> {
    let changed = measured
        .as_str()
        .replace("ExecProcessRequest := false", "ExecProcessRequest := true");
    let changed = Initdata::parse(&changed)?;
    ensure!(
        changed.digest() != measured.digest(),
        "the configuration was not changed"
    );
    let guest = launch("tampered-guest", places, &changed)?;
    let path: ResourcePath = DATASET_KEY.parse()?;
    let detail = match block_on(GuestApi::new(&guest.url()?)?.resource(&path))? {
        Err(ClientError::Denied { detail, .. }) => detail,
        Err(other) => return Err(other).context("the tampered guest failed for another reason"),
        Ok(_) => bail!("the tampered guest got the key"),
    };
    let entries = block_on(admin.audit(50))??;
    let denial = entries
        .iter()
        .find(|entry| {
            entry["event"]
                .as_str()
                .is_some_and(|event| detail.contains(event))
        })
        .context("the denial is not in the broker's record")?;
    let reasons: Vec<Value> = denial["reasons"].as_array().cloned().unwrap_or_default();
    let expected = hex::encode(measured.digest());
    ensure!(
        reasons
            .iter()
            .any(|reason| reason["expected"] == expected.as_str()
                && reason["actual"] == hex::encode(changed.digest())),
        "the record does not say which init-data was expected and which was found"
    );
    let event = denial["event"].as_str().unwrap_or("-");
    Ok((
        reasons.clone(),
        Proof::new(
            format!("403, denied; the broker's owner reads why in event {event}:"),
            json!({ "event": event, "reasons": reasons }),
        ),
    ))
}

fn text(path: PathBuf) -> anyhow::Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.context("the folder's name is not UTF-8")
}

fn megabytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes = bytes as f64;
    bytes / 1e6
}
