//! The guest's configuration, in the files that Confidential Containers' components read: `aa.toml` of the attestation
//! agent and `cdh.toml` of the data hub, as TOML or as JSON.
//!
//! Upstream passes over keys that it does not know. So are they here, because one document configures several versions,
//! but each is named: a misspelt key must not be a setting that silently is not in force.

mod aa;
mod cdh;
mod surroundings;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use strongroom_wire::bounded_toml;
use strongroom_wire::resource::ResourceUri;

use crate::error::GuestError;

pub use aa::{AaConfig, CocoAs, EventlogConfig, Kbs, TokenConfigs};
pub use cdh::{
    AaSocket, CdhConfig, Credential, ImageConfig, ImagePullProxy, Kbc, KbcName, MaxDownloads,
};
pub use surroundings::Surroundings;

/// A configuration, and what its document says beyond it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Read<T> {
    /// The settings in force.
    pub config: T,
    /// The keys that are not known, by their path.
    pub unknown: Vec<String>,
}

/// The level of the log, which both files have.
#[derive(Clone, Debug, Default, serde::Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Log {
    /// How much is logged; warnings and errors where it is not said.
    pub level: Option<Level>,
}

/// How much is logged, the least first.
#[derive(Clone, Copy, Debug, serde::Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing.
    Off,
    /// What went wrong.
    Error,
    /// What may go wrong.
    Warn,
    /// What happens.
    Info,
    /// How.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// A broker that URIs name by a host: `kbs://HOST/repository/type/tag`.
#[derive(Clone, Debug, serde::Deserialize, Eq, PartialEq)]
pub struct NamedBroker {
    /// The host, with a port if URIs write one.
    pub host: String,
    /// Where it is.
    pub url: String,
    /// The certificate (PEM) that alone is trusted for it.
    #[serde(default)]
    pub cert: Option<String>,
    /// Where the same broker is as well, in the order in which they are tried when nobody answers.
    #[serde(default)]
    pub standby_urls: Vec<String>,
}

impl NamedBroker {
    fn check(brokers: &mut [Self]) -> Result<(), String> {
        let mut hosts = BTreeSet::new();
        for broker in brokers {
            broker.cert = trimmed(broker.cert.take());
            let shown: String = broker.host.chars().take(MAX_SHOWN).collect();
            let uri: Result<ResourceUri, _> = format!("kbs://{}/a/b/c", broker.host).parse();
            if !uri.is_ok_and(|uri| uri.host() == broker.host && !broker.host.is_empty()) {
                return Err(format!(
                    "brokers.host is {shown:?}: write the host of kbs://HOST/repository/type/tag, with its port if it has one"
                ));
            }
            if !hosts.insert(broker.host.as_str()) {
                return Err(format!("brokers has two entries with the host {shown:?}"));
            }
        }
        Ok(())
    }
}

/// A certificate without the white space around it; none, where there is nothing else.
fn trimmed(pem: Option<String>) -> Option<String> {
    pem.map(|pem| pem.trim().to_owned())
        .filter(|pem| !pem.is_empty())
}

/// A configuration file.
pub trait Document: DeserializeOwned + Default {
    /// Its keys: a `*` stands for each element of a list, `**` for all below.
    const KEYS: &'static [&'static str];

    /// What no type says.
    ///
    /// # Errors
    /// A sentence that names the key.
    fn checked(self) -> Result<Self, String>;

    /// Reads a document: JSON when it begins with a brace, TOML otherwise.
    ///
    /// # Errors
    /// A sentence that names what is wrong, without the document's values.
    fn parse(text: &str) -> Result<Read<Self>, String> {
        let value: Value = match text.trim_start().starts_with('{') {
            true => serde_json::from_str(text).map_err(|error| error.to_string())?,
            false => bounded_toml::from_str(text).map_err(|error| error.to_string())?,
        };
        let mut unknown = Vec::new();
        unknown_keys(&value, "", Self::KEYS, &mut unknown);
        let config: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        Ok(Read {
            config: config.checked()?,
            unknown,
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`GuestError::Config`], naming the file.
    fn load(path: &Path) -> Result<Read<Self>, GuestError> {
        let wrong = |reason: String| GuestError::Config {
            path: path.to_owned(),
            reason,
        };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
            .map_err(|error| wrong(error.to_string()))?;
        if text.len() as u64 > MAX_FILE {
            return Err(wrong(format!("it has more than {MAX_FILE} bytes")));
        }
        Self::parse(&text).map_err(wrong)
    }
}

/// What a document has that nobody reads. A document is at most as deep as its parser lets it be.
fn unknown_keys(value: &Value, path: &str, known: &[&str], unknown: &mut Vec<String>) {
    let below = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let shown: String = name.chars().take(MAX_SHOWN).collect();
                let path = below(&shown);
                match is_known(&path, known) {
                    true => unknown_keys(member, &path, known, unknown),
                    false if unknown.len() < MAX_UNKNOWN => unknown.push(path),
                    false => return,
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                unknown_keys(item, &below("*"), known, unknown);
            }
        }
        _ => {}
    }
}

/// Whether a path is a key, lies above one, or below one that takes anything.
fn is_known(path: &str, known: &[&str]) -> bool {
    known.iter().any(|key| {
        let mut key = key.split('.');
        for part in path.split('.') {
            match key.next() {
                Some("**") => return true,
                Some(wanted) if wanted == part => {}
                _ => return false,
            }
        }
        true
    })
}

const MAX_FILE: u64 = 4 * 1024 * 1024;
const MAX_UNKNOWN: usize = 32;
const MAX_SHOWN: usize = 64;

/// The broker that a kernel's command line names for both: `cc_kbc::https://broker:8080`.
///
/// # Errors
/// A sentence that says what the form is.
pub fn kbc_params(text: &str) -> Result<(KbcName, String), String> {
    let form = || {
        format!(
            "agent.aa_kbc_params is {:?}, and must be NAME::URL with one ::, such as cc_kbc::https://broker:8080",
            text.chars().take(MAX_SHOWN).collect::<String>()
        )
    };
    let (name, url) = text.split_once("::").ok_or_else(form)?;
    if url.contains("::") {
        return Err(form());
    }
    let name = serde_json::from_value(Value::String(name.to_owned())).map_err(|_| form())?;
    Ok((name, url.to_owned()))
}

/// `agent.aa_kbc_params` of a kernel's command line.
pub fn kbc_params_of_kernel(command_line: &str) -> Option<&str> {
    command_line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("agent.aa_kbc_params="))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_nobody_reads_are_named_by_their_path() {
        let text = "top = 1\n[token_configs.kbs]\nurl = 'https://b'\ncertificate = 'x'\n[log]\nlevel = 'info'\n";
        let read = AaConfig::parse(text).unwrap();
        assert_eq!(read.unknown, ["token_configs.kbs.certificate", "top"]);
        let text = "[image]\nwork_dirs = 'x'\n[image.registry_config]\naliases = { goes = 1 }\n[[credentials]]\nuri = 1\npath = '/run/confidential-containers/cdh/kbs/a'\nresource_uri = 'kbs:///a/b/c'\n";
        let read = CdhConfig::parse(text).unwrap();
        assert_eq!(read.unknown, ["credentials.*.uri", "image.work_dirs"]);
    }

    #[test]
    fn broker_under_a_host_that_no_uri_can_name_is_taken() {
        let entry = |host: &str| format!("[[brokers]]\nhost = '{host}'\nurl = 'https://b'\n");
        for bad in ["", "a/b", "a b", "a?b"] {
            let error = AaConfig::parse(&entry(bad)).unwrap_err();
            assert!(error.contains("brokers.host"), "{bad}: {error}");
        }
        let twice = [entry("models:8080"), entry("models:8080")].concat();
        assert!(
            CdhConfig::parse(&twice)
                .unwrap_err()
                .contains("two entries")
        );
        let read = AaConfig::parse(&entry("models:8080")).unwrap();
        assert_eq!(read.unknown, Vec::<String>::new());
        assert_eq!(read.config.brokers.len(), 1);
    }

    #[test]
    fn dotted_key_is_not_taken_for_a_known_path() {
        let read = AaConfig::parse("\"log.level\" = 'x'\n").unwrap();
        assert_eq!(read.config, AaConfig::default());
    }

    #[test]
    fn file_without_an_end_is_read_to_it() {
        let error = AaConfig::load(Path::new("/dev/zero"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("more than"), "{error}");
    }

    #[test]
    fn flood_of_unknown_keys_is_cut() {
        let text: String = (0..1000).map(|n| format!("k{n} = 1\n")).collect();
        assert_eq!(AaConfig::parse(&text).unwrap().unknown.len(), MAX_UNKNOWN);
    }

    #[test]
    fn kernels_parameters_have_exactly_two_parts() {
        let line = "console=hvc0 agent.aa_kbc_params=cc_kbc::http://10.0.0.1:8080 quiet";
        let params = kbc_params_of_kernel(line).unwrap();
        assert_eq!(
            kbc_params(params),
            Ok((KbcName::CcKbc, "http://10.0.0.1:8080".to_owned()))
        );
        for wrong in ["", "cc_kbc", "cc_kbc::a::b", "sample_kbc::x"] {
            assert!(
                kbc_params(wrong).unwrap_err().contains("NAME::URL"),
                "{wrong}"
            );
        }
        assert_eq!(kbc_params_of_kernel("quiet"), None);
    }

    #[test]
    fn value_of_another_type_is_refused_without_showing_it() {
        let error = AaConfig::parse("[token_configs.kbs]\nurl = ['hunter2']\n").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
