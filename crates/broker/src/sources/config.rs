//! `[sources]`: where secrets come from besides the API.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::outgoing::is_loopback;

/// `[sources]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SourcesConfig {
    /// One folder, or a list, in the layout of mounted Kubernetes Secrets: `<folder>/<secret>/<key>` is the resource
    /// `default/<secret>/<key>`.
    pub folder: Folders,
    /// A HashiCorp Vault, or an OpenBao.
    pub vault: Option<VaultConfig>,
}

/// The folders of `[sources] folder`, in the order in which they are asked.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "OneOrMany")]
pub struct Folders(pub Vec<PathBuf>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl From<OneOrMany> for Folders {
    fn from(folders: OneOrMany) -> Self {
        match folders {
            OneOrMany::One(folder) => Self(vec![folder]),
            OneOrMany::Many(folders) => Self(folders),
        }
    }
}

/// `[sources.vault]`: a KV version 2 secrets engine. The resource `repository/type/tag` is the key `tag` of the secret
/// `<prefix>/repository/type`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct VaultConfig {
    /// Its address, such as `https://vault.example:8200`.
    pub url: String,
    /// Where the KV engine is mounted.
    #[serde(default = "default_mount")]
    pub mount: String,
    /// The folder in the engine under which the repositories lie; by default its root.
    #[serde(default)]
    pub prefix: String,
    /// The namespace in which the engine is mounted.
    pub namespace: Option<String>,
    /// The file with the token, readable by its owner alone. By default `vault-token` in the folder that
    /// `CREDENTIALS_DIRECTORY` names, as systemd sets it. One that is replaced is taken without a restart.
    pub token_file: Option<PathBuf>,
    /// PEM of the authorities that vouch for the server, instead of this machine's own.
    pub certificate: Option<PathBuf>,
    /// Take `http://` beyond this machine. Whoever is on the wire then reads the token and every secret.
    #[serde(default)]
    pub insecure_http: bool,
    /// How long one release waits for an answer; less than `limits.request_seconds`.
    #[serde(default = "five")]
    pub timeout_seconds: u64,
    /// For how long what was read is released again without asking; 0 to ask each time.
    #[serde(default = "five")]
    pub cache_seconds: u64,
}

impl SourcesConfig {
    /// Checks what can be checked without opening anything.
    pub(crate) fn check(&self, request_seconds: u64) -> Result<(), String> {
        for (i, folder) in self.folder.0.iter().enumerate() {
            if folder.as_os_str().is_empty() {
                return Err("sources.folder names no folder".to_owned());
            }
            if self.folder.0.iter().take(i).any(|other| other == folder) {
                return Err(format!("sources.folder names {folder:?} twice"));
            }
        }
        self.vault
            .as_ref()
            .map_or(Ok(()), |vault| vault.check(request_seconds))
    }

    /// The paths that are relative to the configuration's folder.
    pub(crate) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let vault = self.vault.iter_mut();
        let files = vault.flat_map(|vault| {
            vault
                .token_file
                .iter_mut()
                .chain(vault.certificate.iter_mut())
        });
        self.folder.0.iter_mut().chain(files)
    }
}

impl VaultConfig {
    fn check(&self, request_seconds: u64) -> Result<(), String> {
        let bad = |reason: &str| Err(format!("sources.vault.url {reason}"));
        let Ok(url) = reqwest::Url::parse(&self.url) else {
            return bad("is no address: write https://host:8200");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return bad("carries a user name or password, which would end up in logs");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return bad("carries a query or a fragment");
        }
        match url.scheme() {
            "https" => {}
            "http" if self.insecure_http || is_loopback(&url) => {}
            "http" => {
                return bad(
                    "is http:// beyond this machine, where anybody on the wire reads token and secrets: write https://, \
                     or sources.vault.insecure_http = true",
                );
            }
            _ => return bad("is neither https:// nor http://"),
        }
        for (key, path, may_be_empty) in [
            ("mount", &self.mount, false),
            ("prefix", &self.prefix, true),
        ] {
            let plain = path.split('/').all(|part| {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
                !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed)
            });
            if !(plain || may_be_empty && path.is_empty()) {
                return Err(format!(
                    "sources.vault.{key} = {path:?} is no path of names from letters, digits, '-', '_' and '.', without \
                     a slash at its ends"
                ));
            }
        }
        if self
            .namespace
            .as_deref()
            .is_some_and(|name| name.is_empty() || name.bytes().any(|b| !b.is_ascii_graphic()))
        {
            return Err("sources.vault.namespace is no name".to_owned());
        }
        let wait = self.timeout_seconds;
        if wait == 0 || wait >= request_seconds {
            return Err(format!(
                "sources.vault.timeout_seconds = {wait} is not between 0 and limits.request_seconds = {request_seconds}: \
                 the guest would be sent away before its answer comes"
            ));
        }
        if self.cache_seconds > 3_600 {
            return Err(format!(
                "sources.vault.cache_seconds = {} is out of range: 0 to 3600",
                self.cache_seconds
            ));
        }
        Ok(())
    }

    /// Whether a setting lets it be read over a wire that is not private.
    pub(crate) fn is_loosened(&self) -> bool {
        self.insecure_http
    }
}

fn default_mount() -> String {
    "secret".to_owned()
}

fn five() -> u64 {
    5
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let config: Result<SourcesConfig, _> = toml::from_str(text);
        match config {
            Ok(config) => config.check(30).unwrap_err(),
            Err(error) => error.to_string(),
        }
    }

    fn vault(lines: &str) -> String {
        format!("[vault]\nurl = \"https://vault.example:8200\"\n{lines}")
    }

    #[test]
    fn one_folder_and_a_list_are_the_same_setting() {
        let one: SourcesConfig = toml::from_str("folder = \"a\"").unwrap();
        let many: SourcesConfig = toml::from_str("folder = [\"a\", \"b\"]").unwrap();
        assert_eq!((one.folder.0.len(), many.folder.0.len()), (1, 2));
        assert!(refusal("folder = [\"a\", \"a\"]").contains("twice"));
        assert!(refusal("folder = \"\"").contains("no folder"));
    }

    #[test]
    fn misspelt_setting_is_refused() {
        assert!(refusal("folders = \"a\"").contains("unknown field"));
        assert!(refusal(&vault("verify_ssl = false")).contains("unknown field"));
    }

    #[test]
    fn vault_over_plain_http_is_taken_silently() {
        let with = |url: &str, more: &str| {
            toml::from_str::<SourcesConfig>(&format!("[vault]\nurl = \"{url}\"\n{more}"))
                .unwrap()
                .check(30)
        };
        assert!(with("http://127.0.0.1:8200", "").is_ok());
        assert!(with("http://[::1]:8200", "").is_ok());
        assert!(with("http://vault.example", "insecure_http = true").is_ok());
        for url in [
            "http://vault.example",
            "http://127.0.0.1.example",
            "ftp://vault.example",
            "vault.example:8200",
            "https://user:hunter2@vault.example",
            "https://vault.example/?a=b",
        ] {
            let said = with(url, "").unwrap_err();
            assert!(said.contains("sources.vault.url"), "{said}");
            assert!(!said.contains("hunter2"));
        }
    }

    #[test]
    fn mount_that_leads_elsewhere_is_refused() {
        for mount in ["", "..", "a/../sys", "/kv", "kv/", "a//b", "a?b", "a%2fb"] {
            assert!(refusal(&vault(&format!("mount = {mount:?}"))).contains("sources.vault.mount"));
        }
        assert!(refusal(&vault("prefix = \"../x\"")).contains("sources.vault.prefix"));
        assert!(refusal(&vault("namespace = \"a b\"")).contains("sources.vault.namespace"));
    }

    #[test]
    fn release_that_outlasts_its_request_is_configured() {
        for seconds in ["0", "30"] {
            let said = refusal(&vault(&format!("timeout_seconds = {seconds}")));
            assert!(said.contains("limits.request_seconds = 30"), "{said}");
        }
        assert!(refusal(&vault("cache_seconds = 86400")).contains("cache_seconds"));
    }
}
