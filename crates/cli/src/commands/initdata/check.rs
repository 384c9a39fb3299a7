//! `strongroom initdata check`: what would keep a guest from starting, or from its secrets, found before it is launched.

use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::json;
use strongroom_guest::agent_policy::AgentPolicy;
use strongroom_guest::config::{AaConfig, CdhConfig, Document};
use strongroom_wire::bounded_toml;
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::image_policy::Policy;
use strongroom_wire::initdata::{self as wire, Initdata, InitdataError};
use strongroom_wire::resource::ResourceUri;

use super::MAX_FILE;
use super::agent_policy;
use super::certificate::{Certificate, PRIVATE_KEY};
use crate::files;
use crate::outcome::{self, Outcome};

/// Find what would not work, with the cause and the command that mends it
///
/// Reads a document, a pod's annotation, a pod's manifest or a ConfigMap that holds one (YAML), or an image of its disk,
/// and checks the form, the broker's URL and certificate, the image policy and the agent's policy. Nothing is sent
/// anywhere. Ends with 1 when something was found.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The document, a pod's annotation, or a manifest with one.
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let bytes = files::read_limited(&args.file, MAX_FILE)?;
    let found = findings(&bytes);
    let mut text = match found.len() {
        0 => "No problem found.".to_owned(),
        1 => "1 problem found.".to_owned(),
        many => format!("{many} problems found."),
    };
    for finding in &found {
        text.push_str(&format!("\n\n{}", finding.told()));
    }
    let code = u8::from(!found.is_empty());
    let outcome =
        Outcome::new(text, json!({ "good": found.is_empty(), "findings": found })).code(code);
    Ok(match code {
        0 => outcome.next(format!(
            "strongroom initdata digest {}   # what the platforms will hold",
            args.file.display()
        )),
        _ => outcome,
    })
}

/// Something that would not work.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub(crate) struct Finding {
    /// A name for programs.
    pub(crate) code: &'static str,
    /// Where it is, and what is there.
    pub(crate) problem: String,
    /// What comes of it, or why it is so.
    pub(crate) cause: String,
    /// What to do.
    pub(crate) mend: String,
}

impl Finding {
    fn told(&self) -> String {
        format!(
            "- {} [{}]\n  cause: {}\n  mend:  {}",
            outcome::shown(&self.problem),
            self.code,
            outcome::shown(&self.cause),
            self.mend
        )
    }
}

/// What would not work in the bytes of a file.
pub(crate) fn findings(bytes: &[u8]) -> Vec<Finding> {
    Checked::of(bytes, unix_now()).findings
}

/// A document under examination.
#[derive(Default)]
struct Checked {
    findings: Vec<Finding>,
    now: u64,
}

/// What of a document is looked at even when its head is wrong.
#[derive(Deserialize)]
struct Loose {
    #[serde(default)]
    data: std::collections::BTreeMap<String, String>,
}

impl Checked {
    fn of(bytes: &[u8], now: u64) -> Self {
        let mut checked = Self {
            findings: Vec::new(),
            now,
        };
        let text = String::from_utf8_lossy(bytes);
        let carried = annotations(&text);
        if carried.is_empty() {
            checked.form(bytes);
        }
        for annotation in carried {
            checked.form(annotation.as_bytes());
        }
        checked
    }

    fn add(
        &mut self,
        code: &'static str,
        problem: impl Into<String>,
        cause: &str,
        mend: impl Into<String>,
    ) {
        self.findings.push(Finding {
            code,
            problem: problem.into(),
            cause: cause.to_owned(),
            mend: mend.into(),
        });
    }

    /// The form that carries the document.
    fn form(&mut self, bytes: &[u8]) {
        if bytes.trim_ascii().is_empty() {
            return self.add(
                "empty",
                "the init-data is empty",
                "a guest without init-data knows no broker: its pods are not created (\"404\"), as when the operator was \
                 installed before INITDATA was set",
                "strongroom initdata new initdata.toml --broker URL --broker-cert PEM, and then set INITDATA or the annotation",
            );
        }
        let text = match wire::text_of_file(bytes) {
            Ok(text) => text,
            Err(error) => match self.mended_base64(bytes) {
                Some(text) => text,
                None => return self.broken(&error),
            },
        };
        // What has no line with a value is no document; perhaps it is base64 that no gzip is in.
        let text = match text.contains('=') && text.contains(['"', '\'']) {
            true => text,
            false => self.mended_base64(text.as_bytes()).unwrap_or(text),
        };
        self.document(&text);
    }

    /// Unpacks base64 that is almost what the annotation must hold, and says what is wrong with it.
    fn mended_base64(&mut self, bytes: &[u8]) -> Option<String> {
        let written = std::str::from_utf8(bytes).ok()?.trim();
        let packed: String = written.split_whitespace().collect();
        let lenient = GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true);
        let url_safe = packed.contains(['-', '_']);
        let alphabet = if url_safe { &URL_SAFE } else { &STANDARD };
        let decoded = GeneralPurpose::new(alphabet, lenient)
            .decode(&packed)
            .ok()?;
        let mend = "strongroom initdata show DOCUMENT --json (\"annotation\"), or: gzip -c initdata.toml | base64 -w0";
        let cause = "Kata's runtime takes standard base64 of gzip, on one line and with its padding, and refuses anything else";
        let text = match decoded.starts_with(&[0x1f, 0x8b]) {
            true => wire::text_of_file(&decoded).ok()?,
            false => String::from_utf8(decoded).ok()?,
        };
        if url_safe {
            self.add(
                "base64",
                "the annotation is written in the alphabet for URLs (- and _)",
                cause,
                mend,
            );
        } else if packed.len() != written.len() {
            self.add(
                "base64",
                "the annotation has line breaks or spaces in its base64",
                cause,
                mend,
            );
        } else if !packed.len().is_multiple_of(4) {
            self.add(
                "base64",
                "the annotation's base64 lacks its padding (= at the end)",
                cause,
                mend,
            );
        }
        if !packed.starts_with("H4sI") {
            self.add(
                "gzip",
                "the annotation is base64 of something that is not gzip",
                cause,
                mend,
            );
        }
        Some(text)
    }

    fn broken(&mut self, error: &InitdataError) {
        let (code, cause) = match error {
            InitdataError::Base64(_) => (
                "base64",
                "a character is missing, cut off or changed in what was copied",
            ),
            InitdataError::Gzip(_) => (
                "gzip",
                "the base64 was cut, or what is in it was not packed by gzip",
            ),
            InitdataError::TooLong { .. } => (
                "size",
                "Kubernetes allows 256 KiB for all of a pod's annotations together",
            ),
            _ => (
                "form",
                "this is no document, annotation, manifest or disk of init-data",
            ),
        };
        self.add(
            code,
            error.to_string(),
            cause,
            "take the annotation that `strongroom initdata show DOCUMENT --json` prints",
        );
    }

    fn document(&mut self, text: &str) {
        let algorithm = match Initdata::parse(text) {
            Ok(document) => Some(document.algorithm()),
            Err(error @ InitdataError::Algorithm(_)) => {
                self.add("algorithm", error.to_string(),
                    "names are written small and without a hyphen, whatever the IANA registry says; Kata's runtime refuses others",
                    "write algorithm = \"sha256\", which fits every platform");
                None
            }
            Err(error @ InitdataError::Version(_)) => {
                self.add(
                    "version",
                    error.to_string(),
                    "there is one version of the form so far",
                    "write version = \"0.1.0\"",
                );
                None
            }
            Err(error) => {
                return self.add("toml", error.to_string(),
                    "the document cannot be read, so no guest starts with it; often ''' is missing at the end of a file, or stands within one",
                    "mend the line, or write it anew: strongroom initdata new initdata.toml --broker URL --broker-cert PEM");
            }
        };
        if let Some(algorithm) = algorithm.filter(|algorithm| *algorithm != HashAlgorithm::Sha256) {
            self.add("algorithm", format!("the algorithm is {}", algorithm.as_str()),
                "its digest does not fit the 32 bytes of SNP's HOST_DATA nor PCR 8 of a vTPM (Azure): it is cut there, and brokers find no match",
                "write algorithm = \"sha256\", and register the digest again (strongroom initdata digest)");
        }
        let Ok(Loose { data }) = bounded_toml::from_str::<Loose>(text) else {
            return;
        };
        let agent = self.file::<AaConfig>("aa.toml", data.get("aa.toml"));
        let hub = self.file::<CdhConfig>("cdh.toml", data.get("cdh.toml"));
        let agent = agent.map(|agent| agent.token_configs.kbs.map(|kbs| (kbs.url, kbs.cert)));
        let kbc = hub
            .as_ref()
            .map(|hub| hub.kbc.clone().map(|kbc| (kbc.url, kbc.kbs_cert)));
        for (place, section) in [
            ("aa.toml [token_configs.kbs]", &agent),
            ("cdh.toml [kbc]", &kbc),
        ] {
            match section {
                None => {}
                Some(None) => self.add(
                    "url",
                    format!("{place} is missing"),
                    "the guest does not know its broker, and its pods wait forever",
                    MEND_URL,
                ),
                Some(Some((url, cert))) => self.broker(place, url, cert.as_deref()),
            }
        }
        if let (Some(Some((agent, _))), Some(Some((hub, _)))) = (&agent, &kbc)
            && agent.trim_end_matches('/') != hub.trim_end_matches('/')
            && !agent.is_empty()
            && !hub.is_empty()
        {
            self.add("url", format!("aa.toml names the broker {agent:?}, and cdh.toml {hub:?}"),
                "the guest attests to the one and asks the other for secrets, which does not know its token", MEND_URL);
        }
        if let Some(hub) = &hub {
            self.images(hub);
        }
        self.policy(data.get("policy.rego").map(String::as_str));
        for name in data.keys().filter(|name| !KNOWN.contains(&name.as_str())) {
            self.add(
                "name",
                format!("nobody reads the file {name:?} of the document"),
                "the names are aa.toml, cdh.toml and policy.rego, written exactly so",
                "correct its name, or remove it",
            );
        }
    }

    /// One of the two configuration files.
    fn file<T: Document>(&mut self, name: &str, text: Option<&String>) -> Option<T> {
        let Some(text) = text else {
            self.add(
                "missing",
                format!("{name} is missing"),
                "the guest does not know its broker",
                MEND_URL,
            );
            return None;
        };
        match T::parse(text) {
            Ok(read) => {
                for key in read.unknown {
                    self.add("key", format!("{name}: nobody reads the key {key}"),
                        "it is misspelt, or in the wrong section: what it should set is not in force", "correct the name, or remove it");
                }
                Some(read.config)
            }
            Err(reason) => {
                self.add(
                    "toml",
                    format!("{name} cannot be read: {reason}"),
                    "the guest's agent stops at its start, and the pod is stuck",
                    MEND_URL,
                );
                None
            }
        }
    }

    fn broker(&mut self, place: &str, url: &str, cert: Option<&str>) {
        if url.trim().is_empty() {
            return self.add(
                "url",
                format!("{place}: the url is empty"),
                "the guest does not know its broker, and its pods wait forever",
                MEND_URL,
            );
        }
        let parsed = url.parse::<reqwest::Url>().ok();
        let Some(parsed) = parsed
            .filter(|parsed| parsed.has_host() && matches!(parsed.scheme(), "http" | "https"))
        else {
            return self.add(
                "url",
                format!("{place}: {url:?} is no URL of a broker"),
                "a broker's URL is https://host:port",
                MEND_URL,
            );
        };
        if parsed.path().contains("/kbs/v0") {
            self.add("url", format!("{place}: the url ends in {:?}", parsed.path()),
                "guests append /kbs/v0 themselves: the broker is asked for a path twice as long, and answers 404",
                "write the url as https://host:port");
        }
        if parsed.scheme() == "http" {
            return self.add("http", format!("{place}: {url} is not protected by TLS"),
                "whoever sits between, as the host of the guest does, may answer in the broker's place",
                "give the broker a certificate (strongroom broker init makes one) and write https://");
        }
        let Some(cert) = cert else {
            return self.add("certificate", format!("{place} names no certificate"),
                "the guest trusts every authority of its image: any of them can issue one to somebody between",
                MEND_URL);
        };
        self.certificate(place, cert, parsed.host_str().unwrap_or_default());
    }

    fn certificate(&mut self, place: &str, pem: &str, host: &str) {
        let certificates = match Certificate::read_all(pem) {
            Ok(certificates) => certificates,
            Err(reason) => {
                let cause = match reason == PRIVATE_KEY {
                    true => {
                        "init-data is public: with the key anybody can answer in the broker's place"
                    }
                    false => {
                        "TLS cannot be set up with it: the broker's log shows no request at all"
                    }
                };
                let mend = match reason == PRIVATE_KEY {
                    true => {
                        "make a new key and certificate, and put the certificate alone into the document"
                    }
                    false => {
                        "put the broker's certificate there, with its BEGIN and END lines: broker/tls.crt of strongroom broker init"
                    }
                };
                return self.add(
                    "certificate",
                    format!("{place}: the certificate cannot be used: {reason}"),
                    cause,
                    mend,
                );
            }
        };
        for certificate in &certificates {
            let (from, until) = certificate.validity;
            if until < self.now {
                self.add(
                    "expired",
                    format!(
                        "{place}: the certificate {} ended at {}",
                        certificate.subject,
                        time(until)
                    ),
                    "TLS refuses it: the broker's log shows no request at all",
                    MEND_CERTIFICATE,
                );
            } else if from > self.now {
                self.add(
                    "expired",
                    format!(
                        "{place}: the certificate {} begins at {}",
                        certificate.subject,
                        time(from)
                    ),
                    "TLS refuses it until then, by the guest's clock",
                    MEND_CERTIFICATE,
                );
            }
        }
        if certificates
            .iter()
            .any(|one| one.is_authority || one.is_for(host))
        {
            return;
        }
        let names: Vec<&str> = certificates
            .iter()
            .flat_map(|one| &one.names)
            .map(String::as_str)
            .collect();
        match names.is_empty() {
            true => self.add("san", format!("{place}: the certificate has no subject alternative name"),
                "a common name has not counted in TLS for years: the broker's log shows no request at all", MEND_CERTIFICATE),
            false => self.add("host", format!("{place}: the certificate is for {}, and the url names {host}", names.join(", ")),
                "TLS refuses it: the broker's log shows no request at all (often the route was made anew)", MEND_CERTIFICATE),
        }
    }

    fn images(&mut self, hub: &CdhConfig) {
        let image = &hub.image;
        for (key, uri) in [
            (
                "image_security_policy_uri",
                &image.image_security_policy_uri,
            ),
            ("sigstore_config_uri", &image.sigstore_config_uri),
            (
                "authenticated_registry_credentials_uri",
                &image.authenticated_registry_credentials_uri,
            ),
            (
                "registry_configuration_uri",
                &image.registry_configuration_uri,
            ),
        ] {
            let Some(uri) = uri else { continue };
            let path = uri
                .parse::<ResourceUri>()
                .map_err(|error| error.to_string());
            if let Err(reason) =
                path.and_then(|uri| uri.to_resource_path().map_err(|error| error.to_string()))
            {
                self.add("image-policy", format!("cdh.toml [image]: {key} = {uri:?} names no resource: {reason}"),
                    "nothing can be fetched from there, and no image is pulled",
                    "write kbs:///repository/type/tag with three slashes, as `strongroom resource list` shows it");
            }
        }
        if let Some(text) = &image.image_security_policy
            && let Err(error) = Policy::parse(text.as_bytes())
        {
            self.add(
                "image-policy",
                format!("cdh.toml [image]: image_security_policy: {error}"),
                "no image is pulled: \"Image policy rejected\"",
                "correct the policy (containers-policy.json, man 5)",
            );
        }
        for pem in &image.extra_root_certificates {
            if let Err(reason) = Certificate::read_all(pem) {
                self.add(
                    "certificate",
                    format!("cdh.toml [image]: extra_root_certificates: {reason}"),
                    "registries that it is for cannot be reached",
                    "put a certificate there, with its BEGIN and END lines",
                );
            }
        }
    }

    fn policy(&mut self, rego: Option<&str>) {
        let mend = "strongroom initdata new initdata.toml --broker URL --broker-cert PEM [--allow-logs] [--allow-exec COMMAND]";
        match rego.map(str::trim) {
            None => self.add("policy", "policy.rego is missing",
                "the policy of the guest's image decides what the host may do: in common images, everything, also `kubectl exec`", mend),
            Some("") => self.add("policy", "policy.rego is empty",
                "Kata's agent cannot load it, and the pod does not start", mend),
            Some(rego) => match AgentPolicy::load(rego) {
                Err(error) => self.add(
                    "policy",
                    format!("policy.rego cannot be loaded: {error}"),
                    "Kata's agent cannot load it either, and the pod does not start",
                    mend,
                ),
                Ok(policy) if policy.allows_failing() => self.add(
                    "policy",
                    "policy.rego has AllowRequestsFailingPolicy := true",
                    "whatever its rules refuse is allowed all the same, as upstream has it for debugging",
                    "default AllowRequestsFailingPolicy := false",
                ),
                Ok(policy) => self.open_to_the_host(&policy),
            },
        }
    }

    /// Requests that no policy has a reason to allow whatever is in them, asked as a hostile host would.
    fn open_to_the_host(&mut self, policy: &AgentPolicy) {
        for (request, input, means) in agent_policy::hostile() {
            let allowed = policy.clone().ask(request, &input);
            if allowed.is_ok_and(|verdict| verdict.allowed) {
                self.add(
                    "policy-open",
                    format!("policy.rego allows {request} with {means}"),
                    "the host decides what runs in the guest or leaves it, and so reads every secret that the guest is given",
                    "strongroom initdata new initdata.toml --broker URL --broker-cert PEM --container COMMAND, or a policy by Kata's genpolicy (--policy)",
                );
            }
        }
    }
}

/// The annotations in a manifest (YAML or JSON), and a ConfigMap's INITDATA: one scalar each, which may be folded.
fn annotations(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let entry = line.trim_start().trim_start_matches("- ");
        let entry = entry.trim_start_matches(['"', '\'']);
        let Some(value) = KEYS.iter().find_map(|key| entry.strip_prefix(key)) else {
            continue;
        };
        let Some(value) = value
            .trim_start_matches(['"', '\''])
            .trim_start()
            .strip_prefix(':')
        else {
            continue;
        };
        let value = value.trim();
        let mut scalar = match value.starts_with(['|', '>']) {
            true => String::new(),
            false => value.to_owned(),
        };
        let deeper =
            |line: &&str| line.trim().is_empty() || line.len() - line.trim_start().len() > indent;
        if value.starts_with(['|', '>']) || value.is_empty() {
            let folded = value.starts_with('>') || value.is_empty();
            while let Some(line) = lines.next_if(deeper) {
                // A folded scalar's lines are joined by spaces, a literal one's stay lines.
                if !scalar.is_empty() {
                    scalar.push(if folded { ' ' } else { '\n' });
                }
                scalar.push_str(line.trim());
            }
        }
        found.push(scalar.trim().trim_matches(['"', '\'', ',']).to_owned());
    }
    found
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    let form = &time::format_description::well_known::Rfc3339;
    time.and_then(|time| time.format(form).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

const KNOWN: [&str; 3] = ["aa.toml", "cdh.toml", "policy.rego"];
const KEYS: [&str; 2] = [wire::ANNOTATION, "INITDATA"];
const MEND_URL: &str = "write it anew: strongroom initdata new initdata.toml --broker https://HOST:PORT --broker-cert broker/tls.crt; register the new digest with the broker (strongroom policy allow ... --initdata), and start the pod again";
const MEND_CERTIFICATE: &str = "make one that names the host as the url does: strongroom broker init NEWDIR --name HOST; then write the init-data anew with its tls.crt";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::new;
    use super::*;

    fn pem(names: &[&str], years: std::ops::Range<i32>) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    /// A document in which nothing is wrong.
    fn document() -> String {
        written(&pem(&["broker.example", "10.0.0.7"], 2024..2044))
    }

    fn written(cert: &str) -> String {
        let document = new::compose_with(
            HashAlgorithm::Sha256,
            "https://broker.example:8080",
            Some(cert),
            Some(new::ImagePolicyFrom::Broker(
                "kbs:///default/policy/image".to_owned(),
            )),
            Some(
                agent_policy::write(&agent_policy::Host {
                    exec: vec!["uname -r".to_owned()],
                    logs: true,
                    ..Default::default()
                })
                .unwrap(),
            ),
        );
        document.unwrap().as_str().to_owned()
    }

    fn found(bytes: impl AsRef<[u8]>) -> Vec<Finding> {
        let found = Checked::of(bytes.as_ref(), NOW).findings;
        for finding in &found {
            assert!(!finding.cause.is_empty() && !finding.mend.is_empty());
        }
        found
    }

    /// Changes one thing in the good document; everything found must have this code, and say these words.
    #[track_caller]
    fn changed(from: &str, to: &str, code: &str, words: &str) {
        let good = document();
        assert!(good.contains(from), "{good}");
        only(good.replace(from, to), code, words);
    }

    #[track_caller]
    fn only(bytes: impl AsRef<[u8]>, code: &str, words: &str) {
        let found = found(bytes);
        assert!(!found.is_empty(), "nothing found");
        for finding in &found {
            assert_eq!(finding.code, code, "{found:?}");
            assert!(finding.problem.contains(words), "{found:?}");
        }
    }

    #[test]
    fn nothing_is_found_in_a_good_document_in_any_form() {
        let document = document();
        let parsed = Initdata::parse(&document).unwrap();
        let annotation = parsed.to_annotation();
        let pod = format!(
            "metadata:\n  annotations:\n    {}: \"{annotation}\"\nspec: {{}}\n",
            wire::ANNOTATION
        );
        let map = format!("data:\n  INITDATA: >-\n    {annotation}\n  OTHER: x\n");
        for form in [
            document.as_bytes(),
            annotation.as_bytes(),
            pod.as_bytes(),
            map.as_bytes(),
            &parsed.to_disk(),
        ] {
            assert_eq!(found(form), Vec::new());
        }
    }

    #[test]
    fn url_that_leads_nowhere() {
        let url = "url = \"https://broker.example:8080\"";
        changed(url, "url = \"\"", "url", "the url is empty");
        changed(url, "url = \"broker:8080\"", "url", "no URL of a broker");
        changed(
            url,
            "url = \"http://broker.example:8080\"",
            "http",
            "not protected",
        );
        changed(
            url,
            "url = \"https://broker.example:8080/kbs/v0\"",
            "url",
            "/kbs/v0",
        );
        let one = document().replacen(url, "url = \"https://10.0.0.7:8080\"", 1);
        only(one, "url", "aa.toml names the broker");
        changed("[image]", "[imagee]", "key", "imagee");
    }

    #[test]
    fn certificate_that_tls_refuses() {
        only(
            written(&pem(&[], 2024..2044)),
            "san",
            "no subject alternative name",
        );
        only(
            written(&pem(&["other.example"], 2024..2044)),
            "host",
            "for other.example",
        );
        only(
            written(&pem(&["broker.example"], 2019..2020)),
            "expired",
            "ended at 2020-01-01",
        );
        only(
            written(&pem(&["broker.example"], 2040..2044)),
            "expired",
            "begins at 2040-01-01",
        );
        only(written("nonsense"), "certificate", "no PEM block");
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        only(written(&key), "certificate", "private key");
        assert!(!format!("{:?}", found(written(&key))).contains(&key[40..60]));
    }

    #[test]
    fn policy_for_images_that_is_no_resource() {
        for wrong in [
            "",
            "kbs://default/policy/image",
            "kbs:///default/image",
            "https://x/y",
        ] {
            changed(
                "kbs:///default/policy/image",
                wrong,
                "image-policy",
                "names no resource",
            );
        }
    }

    #[test]
    fn document_that_cannot_be_read() {
        changed(
            "algorithm = \"sha256\"",
            "algorithm = \"sha-256\"",
            "algorithm",
            "sha-256",
        );
        changed(
            "algorithm = \"sha256\"",
            "algorithm = \"sha384\"",
            "algorithm",
            "sha384",
        );
        changed("version = \"0.1.0\"", "version = \"1\"", "version", "0.1.0");
        changed("[data]", "[data", "toml", "");
        changed(
            "[token_configs.kbs]",
            "[token_configs.kbs",
            "toml",
            "aa.toml",
        );
        only("  \n", "empty", "empty");
    }

    #[test]
    fn agent_without_a_policy_of_its_own() {
        let good = document();
        let (before, _) = good.split_once("\"policy.rego\"").unwrap();
        only(before, "policy", "missing");
        only(format!("{before}\"policy.rego\" = ''"), "policy", "empty");
        let package = good.replace("package agent_policy", "package policy");
        only(package, "policy", "cannot be loaded");
        let failing = good.replace(
            "AllowRequestsFailingPolicy := false",
            "AllowRequestsFailingPolicy := true",
        );
        only(failing, "policy", "AllowRequestsFailingPolicy");
    }

    #[test]
    fn policy_that_lets_the_host_run_write_or_swap_anything() {
        for request in [
            "CreateContainerRequest",
            "CopyFileRequest",
            "AddSwapRequest",
            "UpdateEphemeralMountsRequest",
            "CreateSandboxRequest",
            "ExecProcessRequest",
            "SetPolicyRequest",
        ] {
            changed(
                &format!("default {request} := false"),
                &format!("default {request} := true"),
                "policy-open",
                request,
            );
        }
        // By name of the request's fields, and all the same without a bound.
        changed(
            "not steps_up(input.path)",
            "true",
            "policy-open",
            "CopyFileRequest",
        );
    }

    #[test]
    fn upstreams_policies_are_open_where_they_say_true() {
        let open = |name: &str| {
            let path = strongroom_testkit::fixtures::fixture(&format!("guest/initdata/{name}"))?;
            let found = found(std::fs::read(path).unwrap());
            let problems = found.iter().filter(|one| one.code == "policy-open");
            Some(problems.map(|one| one.problem.clone()).collect::<Vec<_>>())
        };
        let Some(all) = open("kata-doc-agent-policy.toml") else {
            return;
        };
        for request in ["CreateContainer", "CopyFile", "AddSwap"] {
            assert!(
                all.iter().any(|problem| problem.contains(request)),
                "{all:?}"
            );
        }
        for genpolicy in [
            "genpolicy-pod-one-container.toml",
            "genpolicy-gpu-vfio-cdi.toml",
        ] {
            assert_eq!(open(genpolicy), Some(Vec::new()));
        }
    }

    #[test]
    fn annotation_that_was_not_copied_whole() {
        let mut document = document();
        // The length decides the padding.
        let annotation = loop {
            let annotation = Initdata::parse(&document).unwrap().to_annotation();
            if annotation.ends_with('=') {
                break annotation;
            }
            document.push('#');
        };
        only(annotation.trim_end_matches('='), "base64", "padding");
        let wrapped = format!("{}\n{}", &annotation[..76], &annotation[76..]);
        only(wrapped, "base64", "line breaks");
        let url_safe = annotation.replace('+', "-").replace('/', "_");
        only(url_safe, "base64", "alphabet for URLs");
        let plain = base64::engine::general_purpose::STANDARD.encode(&document);
        only(plain, "gzip", "not gzip");
        only(&annotation[..400], "gzip", "");
        let pod = format!("annotations:\n  {}: ''\n", wire::ANNOTATION);
        only(pod, "empty", "empty");
    }

    #[test]
    fn upstreams_annotation_without_its_padding_is_understood() {
        let path = "guest/initdata/caa-doc-initdata.annotation";
        let Some(path) = strongroom_testkit::fixtures::fixture(path) else {
            return;
        };
        let found = found(std::fs::read(path).unwrap());
        let codes: Vec<&str> = found.iter().map(|finding| finding.code).collect();
        for code in ["base64", "algorithm", "http"] {
            assert!(codes.contains(&code), "{found:?}");
        }
    }

    const NOW: u64 = 1_800_000_000;
}
