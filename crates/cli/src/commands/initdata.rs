//! `strongroom initdata`: the configuration that a confidential VM measures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::initdata::{self as wire, Initdata};

use crate::connect::read_pem;
use crate::files::{self, Existing};
use crate::outcome::Outcome;

/// Write and inspect init-data, the configuration that a confidential VM measures.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Write a document that names the broker and its certificate
    New(NewArgs),
    /// Show the digest, and the values that platforms bind
    Digest {
        /// The document, a pod's annotation, or the image of a disk for init-data.
        file: PathBuf,
    },
    /// Show what a document or annotation holds
    Show {
        /// The document, a pod's annotation, or the image of a disk for init-data.
        file: PathBuf,
    },
    /// Find what would not work
    Check {
        /// The document, a pod's annotation, or the image of a disk for init-data.
        file: PathBuf,
    },
}

#[derive(clap::Args)]
struct NewArgs {
    /// Where to write, - for standard output.
    file: PathBuf,
    /// The broker's URL, as the guest reaches it.
    #[arg(long, value_name = "URL")]
    broker: String,
    /// The broker's certificate (PEM), the only one the guest will trust.
    #[arg(long, value_name = "PEM")]
    broker_cert: Option<PathBuf>,
    /// A policy for the agent (policy.rego).
    #[arg(long, value_name = "REGO")]
    policy: Option<PathBuf>,
    /// The hash: sha256 fits every platform, also those with a vTPM
    #[arg(long, default_value = "sha256", value_parser = ["sha256", "sha384", "sha512"])]
    algorithm: String,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::New(new) => {
            let cert = new.broker_cert.as_deref().map(read_pem).transpose()?;
            let policy = new.policy.as_deref().map(read_text).transpose()?;
            let url: reqwest::Url = new
                .broker
                .parse()
                .ok()
                .filter(|url: &reqwest::Url| url.has_host())
                .with_context(|| {
                    format!(
                        "--broker {:?} is no URL: write it as https://host:port",
                        new.broker
                    )
                })?;
            if url.scheme() == "http" {
                eprintln!(
                    "warning: {url} is not protected by TLS; whoever sits between may answer in the broker's place"
                );
            } else if cert.is_none() {
                eprintln!(
                    "warning: without --broker-cert the guest trusts every certificate authority of its image"
                );
            }
            let document = compose(new.algorithm.parse()?, &new.broker, cert.as_deref(), policy)?;
            files::write(
                &new.file,
                Existing::from_force(new.force),
                0o644,
                document.as_str().as_bytes(),
            )?;
            let digest = hex::encode(document.digest());
            let shown = new.file.display();
            Ok(Outcome::new(
                format!("Wrote {shown}\n{} {digest}", document.algorithm().as_str()),
                json!({ "file": new.file, "digest": digest }),
            )
            .next(format!(
                "strongroom policy allow 'default/fraud-*/*' --initdata {shown}   # to try it out with sample evidence: --assurance development"
            ))
            .next(format!("strongroom guest run --initdata {shown}   # on a machine without a TEE, to try it out: --platform sample")))
        }
        Action::Digest { file } => {
            let document = read(file)?;
            let digest = document.digest();
            let registers = registers(&digest);
            let lines: String = registers
                .iter()
                .map(|(name, value)| format!("\n{name:<22}{value}"))
                .collect();
            let registers: BTreeMap<_, _> = registers.into_iter().collect();
            Ok(Outcome::new(
                format!(
                    "{:<22}{}{lines}",
                    document.algorithm().as_str(),
                    hex::encode(&digest)
                ),
                json!({ "algorithm": document.algorithm(), "digest": hex::encode(&digest), "registers": registers }),
            ))
        }
        Action::Show { file } => {
            let document = read(file)?;
            let document_json = json!({
                "algorithm": document.algorithm(), "digest": hex::encode(document.digest()),
                "data": document.data(), "annotation": document.to_annotation(),
            });
            Ok(Outcome::new(document.as_str(), document_json))
        }
        Action::Check { file } => {
            let findings = findings(&read(file)?);
            let text = if findings.is_empty() {
                "No problem found.".to_owned()
            } else {
                findings
                    .iter()
                    .map(|f| format!("- {f}"))
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            let code = u8::from(!findings.is_empty());
            Ok(Outcome::new(text, json!({ "findings": findings })).code(code))
        }
    }
}

/// Writes the document that a guest needs to find its broker.
pub(crate) fn compose(
    algorithm: HashAlgorithm,
    broker: &str,
    cert: Option<&str>,
    policy: Option<String>,
) -> anyhow::Result<Initdata> {
    let mut agent = toml::Table::new();
    agent.insert("url".to_owned(), broker.into());
    let mut hub = agent.clone();
    hub.insert("name".to_owned(), "cc_kbc".into());
    if let Some(cert) = cert {
        agent.insert("cert".to_owned(), cert.into());
        hub.insert("kbs_cert".to_owned(), cert.into());
    }
    let table =
        |name: &str, inner: toml::Table| toml::Table::from_iter([(name.to_owned(), inner.into())]);
    let mut files = BTreeMap::from([
        (
            "aa.toml".to_owned(),
            toml::to_string(&table("token_configs", table("kbs", agent)))?,
        ),
        ("cdh.toml".to_owned(), toml::to_string(&table("kbc", hub))?),
    ]);
    if let Some(policy) = policy {
        files.insert("policy.rego".to_owned(), policy);
    }
    Ok(wire::compose(algorithm, &files)?)
}

/// Reads a document, or a form that carries one: a pod's annotation, a disk.
pub(crate) fn read(path: &Path) -> anyhow::Result<Initdata> {
    let bytes = files::read_limited(path, MAX_FILE)?;
    Initdata::from_file(&bytes).with_context(|| format!("{} is not init-data", path.display()))
}

/// A disk for init-data holds a packed document, and may be larger than one.
const MAX_FILE: u64 = 4 * 1024 * 1024;

fn read_text(path: &Path) -> anyhow::Result<String> {
    files::read_text(path, wire::MAX_DOCUMENT as u64)
}

/// What each platform holds when it was launched with this digest.
fn registers(digest: &[u8]) -> Vec<(&'static str, String)> {
    let registers = strongroom_wire::initdata::registers(digest);
    let mut named = vec![
        ("SNP HOST_DATA", hex::encode(registers.snp_host_data)),
        ("TDX MRCONFIGID", hex::encode(registers.tdx_mrconfigid)),
    ];
    if let Some(pcr) = registers.vtpm_pcr8 {
        named.push(("vTPM PCR8 (SHA-256)", hex::encode(pcr)));
    }
    named
}

fn findings(document: &Initdata) -> Vec<String> {
    let mut findings = Vec::new();
    let table = |name: &str, findings: &mut Vec<String>| -> Option<toml::Table> {
        let text = document.data().get(name)?;
        text.parse()
            .map_err(|_| findings.push(format!("{name} is not TOML")))
            .ok()
    };
    let agent = table("aa.toml", &mut findings);
    let hub = table("cdh.toml", &mut findings);
    let agent_kbs = agent
        .as_ref()
        .and_then(|t| t.get("token_configs")?.get("kbs"));
    let hub_kbc = hub.as_ref().and_then(|t| t.get("kbc"));
    for (file, section, cert) in [
        ("aa.toml [token_configs.kbs]", agent_kbs, "cert"),
        ("cdh.toml [kbc]", hub_kbc, "kbs_cert"),
    ] {
        let Some(section) = section else {
            findings.push(format!(
                "{file} is missing: the guest does not know its broker"
            ));
            continue;
        };
        match section.get("url").and_then(toml::Value::as_str) {
            None | Some("") => findings.push(format!("{file} has no url: the guest does not know its broker")),
            Some(url) if url.starts_with("http:") => findings.push(format!("{file}: {url} is not protected by TLS; whoever sits between may answer in the broker's place")),
            Some(_) => {}
        }
        if section
            .get(cert)
            .and_then(toml::Value::as_str)
            .is_some_and(|pem| !pem.contains("BEGIN CERTIFICATE"))
        {
            findings.push(format!("{file}: {cert} is not a PEM certificate"));
        }
    }
    if document.algorithm() != HashAlgorithm::Sha256 {
        findings.push(format!("{} does not fit the 32 bytes of SNP's HOST_DATA nor a vTPM's PCR8; sha256 fits every platform", document.algorithm().as_str()));
    }
    findings
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn composed_document_names_the_broker_twice_and_passes_the_check() {
        let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let document = compose(
            HashAlgorithm::Sha256,
            "https://b:1",
            Some(pem),
            Some("package agent_policy\n".to_owned()),
        )
        .unwrap();
        assert_eq!(findings(&document), Vec::<String>::new());
    }

    #[test]
    fn plain_http_and_wide_digest_are_found() {
        let document = compose(HashAlgorithm::Sha384, "http://b:1", None, None).unwrap();
        let findings = findings(&document).join("\n");
        assert!(findings.contains("not protected by TLS") && findings.contains("sha384"));
    }

    #[test]
    fn pcr8_of_upstream_vector() {
        let digest =
            hex::decode("8505e4e25e50a27c5dc8147af88efbece627fbea55291911eff832d9ee127781")
                .unwrap();
        assert_eq!(
            registers(&digest)[2].1,
            "bddaccb9c52249e97a31baea61b7d91be8221a16e703d92148d04fb8e9c1dfdd"
        );
    }
}
