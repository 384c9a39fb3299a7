//! What a machine tells the guest without a file: the kernel's command line and the environment, in the words of
//! guest-components' daemons.
//!
//! The init-data measures none of it. Where that brought `cdh.toml`, the file alone is in force; whatever is here and not
//! followed is named.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::{
    AaConfig, CdhConfig, Credential, ImageConfig, Kbs, MAX_SHOWN, kbc_params, kbc_params_of_kernel,
};
use crate::serve::Features;

/// The kernel's command line, and the variables that are read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Surroundings {
    command_line: String,
    environment: BTreeMap<String, String>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_machine() -> Self {
        let mut command_line = String::new();
        let opened = std::fs::File::open("/proc/cmdline");
        let read = opened.and_then(|file| {
            file.take(MAX_COMMAND_LINE)
                .read_to_string(&mut command_line)
        });
        if let Err(error) = read {
            tracing::debug!(%error, "the kernel's command line is not read");
        }
        let environment = VARIABLES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        Self {
            command_line,
            environment: environment.collect(),
        }
    }

    /// Those that are given.
    pub fn new<'a>(
        command_line: &str,
        environment: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            command_line: command_line.to_owned(),
            environment: environment.into_iter().map(owned).collect(),
        }
    }

    /// Which parts of the REST API Kata's configuration asks for.
    ///
    /// # Errors
    /// A sentence that names the parameter.
    pub fn rest_features(&self) -> Result<Option<Features>, String> {
        self.kernel(REST_FEATURES)
            .map(|value| {
                value
                    .parse()
                    .map_err(|error| format!("{REST_FEATURES}: {error}"))
            })
            .transpose()
    }

    /// The attestation agent's settings where there is no `aa.toml`.
    ///
    /// # Errors
    /// A sentence that names the parameter.
    pub fn aa(&self) -> Result<AaConfig, String> {
        let mut config = AaConfig::default();
        if let Some((_, params)) = self.kbc_params() {
            let (_, url) = kbc_params(params)?;
            config.token_configs.kbs = Some(url)
                .filter(|url| !url.is_empty())
                .map(|url| Kbs::new(url, None));
        }
        Ok(config)
    }

    /// What of [`Self::aa`] is passed over because there is an `aa.toml`.
    pub fn passed_over_for_aa(&self) -> Option<String> {
        let (name, _) = self.kbc_params()?;
        Some(format!(
            "{name} is passed over: aa.toml says to whom this machine attests"
        ))
    }

    /// Adds to the data hub's settings what they leave open; nothing, where they were `measured`. Returns what was not
    /// followed, with the reason.
    ///
    /// # Errors
    /// A sentence that names the parameter.
    pub fn complete(&self, cdh: &mut CdhConfig, measured: bool) -> Result<Vec<String>, String> {
        if measured {
            return Ok(self.all_of_the_hub().map(passed_over).collect());
        }
        let mut warnings = Vec::new();
        if let Some(list) = self.kernel(CREDENTIALS) {
            for entry in list.split(',').filter(|entry| !entry.is_empty()) {
                let credential = credential(entry)?;
                if !cdh.credentials.contains(&credential) {
                    cdh.credentials.push(credential);
                }
            }
        }
        let image = &mut cdh.image;
        for (name, slot) in [
            ("agent.https_proxy", &mut image.image_pull_proxy.https_proxy),
            ("agent.http_proxy", &mut image.image_pull_proxy.http_proxy),
            ("agent.no_proxy", &mut image.image_pull_proxy.no_proxy),
            (
                REGISTRY_AUTH,
                &mut image.authenticated_registry_credentials_uri,
            ),
        ] {
            if let Some(value) = self.kernel(name) {
                warnings.extend(fill(slot, name, value));
            }
        }
        // As upstream has it, the environment goes before the file.
        if let Some(uri) = self.environment.get(ENVIRONMENTS_AUTH) {
            image.authenticated_registry_credentials_uri = Some(uri.clone());
        }
        warnings.extend(self.image_policy(image));
        Ok(warnings)
    }

    /// The TPM's device, where the environment names one.
    pub fn tpm_device(&self) -> Option<&str> {
        let named = self.environment.get(TPM_DEVICE)?;
        Some(named.strip_prefix("device:").unwrap_or(named)).filter(|path| !path.is_empty())
    }

    /// The handle of the TPM's attestation key, where the environment names one.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn tpm_ak_handle(&self) -> Result<Option<u32>, String> {
        let Some(text) = self.environment.get(TPM_HANDLE) else {
            return Ok(None);
        };
        let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        parsed.map(Some).map_err(|_| {
            format!(
                "{TPM_HANDLE} is {:?}; write a persistent handle such as 0x81010002",
                text.chars().take(MAX_SHOWN).collect::<String>()
            )
        })
    }

    fn image_policy(&self, image: &mut ImageConfig) -> Option<String> {
        let verification = self.kernel(VERIFICATION);
        let Some(policy) = self.kernel(IMAGE_POLICY) else {
            return verification.filter(|word| *word != "true").map(|_| {
                format!("{VERIFICATION} is not followed: without a policy no image runs")
            });
        };
        if verification != Some("true") {
            return Some(format!(
                "{IMAGE_POLICY} is passed over: it counts beside {VERIFICATION}=true alone, and without a policy no image \
                 runs"
            ));
        }
        if image.image_security_policy.is_some() {
            return Some(passed_over_for_file(IMAGE_POLICY));
        }
        fill(&mut image.image_security_policy_uri, IMAGE_POLICY, policy)
    }

    fn kbc_params(&self) -> Option<(&'static str, &str)> {
        match self.environment.get(KBC_PARAMS) {
            Some(params) => Some((KBC_PARAMS, params)),
            None => kbc_params_of_kernel(&self.command_line)
                .map(|params| ("agent.aa_kbc_params", params)),
        }
    }

    fn all_of_the_hub(&self) -> impl Iterator<Item = &'static str> {
        let of_kernel = OF_THE_HUB.iter().filter(|name| self.kernel(name).is_some());
        let of_environment =
            Some(&ENVIRONMENTS_AUTH).filter(|name| self.environment.contains_key(**name));
        of_kernel.chain(of_environment).copied()
    }

    fn kernel(&self, name: &str) -> Option<&str> {
        self.command_line
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// `kbs:///repository/type/tag::/path`.
fn credential(entry: &str) -> Result<Credential, String> {
    let wrong = |reason: &str| {
        format!(
            "{CREDENTIALS}: {:?}: {reason}; write kbs:///repository/type/tag::/path, and a comma between several",
            entry.chars().take(2 * MAX_SHOWN).collect::<String>()
        )
    };
    let (uri, path) = entry
        .split_once("::")
        .ok_or_else(|| wrong("there is no :: in it"))?;
    let credential = Credential {
        path: path.into(),
        resource_uri: uri.to_owned(),
    };
    credential.check().map_err(|reason| wrong(&reason))?;
    Ok(credential)
}

/// Fills what is open; says so where it is taken by something else.
fn fill(slot: &mut Option<String>, name: &str, value: &str) -> Option<String> {
    match slot.as_deref().filter(|there| !there.is_empty()) {
        None => *slot = Some(value.to_owned()),
        Some(there) if there == value => {}
        Some(_) => return Some(passed_over_for_file(name)),
    }
    None
}

fn passed_over(name: &str) -> String {
    format!(
        "{name} is passed over: the measured init-data brought cdh.toml, which alone is in force"
    )
}

fn passed_over_for_file(name: &str) -> String {
    format!("{name} is passed over: cdh.toml says otherwise")
}

const REST_FEATURES: &str = "agent.guest_components_rest_api";
const CREDENTIALS: &str = "cdh.kbs_resources";
const REGISTRY_AUTH: &str = "agent.image_registry_auth";
const IMAGE_POLICY: &str = "agent.image_policy_file";
const VERIFICATION: &str = "agent.enable_signature_verification";
const KBC_PARAMS: &str = "AA_KBC_PARAMS";
const ENVIRONMENTS_AUTH: &str = "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS";
const TPM_DEVICE: &str = "AA_TPM_DEVICE";
const TPM_HANDLE: &str = "AA_TPM_AK_HANDLE";
const VARIABLES: [&str; 4] = [KBC_PARAMS, ENVIRONMENTS_AUTH, TPM_DEVICE, TPM_HANDLE];
/// The kernel's parameters for the data hub.
const OF_THE_HUB: [&str; 7] = [
    CREDENTIALS,
    "agent.https_proxy",
    "agent.http_proxy",
    "agent.no_proxy",
    REGISTRY_AUTH,
    IMAGE_POLICY,
    VERIFICATION,
];
const MAX_COMMAND_LINE: u64 = 64 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PATH: &str = "/run/confidential-containers/cdh/kbs/a";

    /// Each parameter alone, and what it changes.
    /// What surrounds a guest, what it is called, and where its value arrives.
    type Row = (Surroundings, &'static str, fn(&CdhConfig) -> Option<String>);

    fn table() -> Vec<Row> {
        let kernel = |line: &str| Surroundings::new(line, []);
        vec![
            (
                kernel(
                    "quiet cdh.kbs_resources=kbs:///a/b/c::/run/confidential-containers/cdh/kbs/a",
                ),
                CREDENTIALS,
                |cdh| Some(cdh.credentials.first()?.path.display().to_string()),
            ),
            (
                kernel("agent.https_proxy=http://proxy:1"),
                "agent.https_proxy",
                |cdh| cdh.image.image_pull_proxy.https_proxy.clone(),
            ),
            (
                kernel("agent.http_proxy=http://proxy:1"),
                "agent.http_proxy",
                |cdh| cdh.image.image_pull_proxy.http_proxy.clone(),
            ),
            (
                kernel("agent.no_proxy=10.0.0.0/8"),
                "agent.no_proxy",
                |cdh| cdh.image.image_pull_proxy.no_proxy.clone(),
            ),
            (
                kernel("agent.image_registry_auth=kbs:///a/credential/x"),
                REGISTRY_AUTH,
                |cdh| cdh.image.authenticated_registry_credentials_uri.clone(),
            ),
            (
                kernel(
                    "agent.enable_signature_verification=true agent.image_policy_file=kbs:///a/policy/x",
                ),
                IMAGE_POLICY,
                |cdh| cdh.image.image_security_policy_uri.clone(),
            ),
            (
                Surroundings::new("", [(ENVIRONMENTS_AUTH, "kbs:///a/credential/x")]),
                ENVIRONMENTS_AUTH,
                |cdh| cdh.image.authenticated_registry_credentials_uri.clone(),
            ),
        ]
    }

    #[test]
    fn parameter_is_neither_followed_nor_named() {
        for (surroundings, name, of) in table() {
            let mut cdh = CdhConfig::default();
            assert_eq!(surroundings.complete(&mut cdh, false), Ok(vec![]), "{name}");
            let value = of(&cdh).unwrap();
            let said = format!("{surroundings:?}");
            assert!(said.contains(&value), "{name}: {value}");
        }
    }

    #[test]
    fn parameter_changes_what_was_measured() {
        for (surroundings, name, _) in table() {
            let mut cdh = CdhConfig::default();
            let warnings = surroundings.complete(&mut cdh, true).unwrap();
            assert_eq!(cdh, CdhConfig::default(), "{name}");
            assert!(warnings.iter().any(|said| said.contains(name)), "{name}");
        }
    }

    #[test]
    fn file_is_overruled_by_the_kernels_command_line() {
        let line = "agent.https_proxy=http://b:1 agent.image_registry_auth=kbs:///b/b/b \
                    agent.enable_signature_verification=true agent.image_policy_file=kbs:///b/b/b";
        let mut cdh = CdhConfig::default();
        let a = || Some("kbs:///a/a/a".to_owned());
        cdh.image.image_pull_proxy.https_proxy = Some("http://a:1".to_owned());
        cdh.image.authenticated_registry_credentials_uri = a();
        cdh.image.image_security_policy_uri = a();
        let before = cdh.clone();
        let warnings = Surroundings::new(line, [])
            .complete(&mut cdh, false)
            .unwrap();
        assert_eq!(cdh, before);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
    }

    #[test]
    fn policy_counts_where_verification_is_off() {
        for line in [
            "agent.image_policy_file=kbs:///a/b/c",
            "agent.image_policy_file=kbs:///a/b/c agent.enable_signature_verification=false",
            "agent.enable_signature_verification=false",
        ] {
            let mut cdh = CdhConfig::default();
            let warnings = Surroundings::new(line, [])
                .complete(&mut cdh, false)
                .unwrap();
            assert_eq!(cdh.image.image_security_policy_uri, None);
            assert!(warnings[0].contains(VERIFICATION), "{line}: {warnings:?}");
        }
    }

    #[test]
    fn credential_that_goes_elsewhere_is_taken() {
        for entry in [
            "kbs:///a/b/c",
            "kbs:///a/b/c::/etc/passwd",
            &format!("x::{PATH}"),
        ] {
            let line = format!("cdh.kbs_resources={entry}");
            let error = Surroundings::new(&line, [])
                .complete(&mut CdhConfig::default(), false)
                .unwrap_err();
            assert!(error.contains(CREDENTIALS), "{error}");
        }
    }

    #[test]
    fn tpm_of_the_environment_is_passed_over() {
        let named = Surroundings::new("", [(TPM_DEVICE, "/dev/tpm1"), (TPM_HANDLE, "0x81010003")]);
        assert_eq!(named.tpm_device(), Some("/dev/tpm1"));
        assert_eq!(named.tpm_ak_handle(), Ok(Some(0x8101_0003)));
        let wrong = Surroundings::new("", [(TPM_HANDLE, "ak")]);
        assert!(wrong.tpm_ak_handle().unwrap_err().contains(TPM_HANDLE));
        assert_eq!(Surroundings::default().tpm_ak_handle(), Ok(None));
    }

    #[test]
    fn katas_choice_of_the_rest_api_is_passed_over() {
        let line = |value: &str| format!("quiet agent.guest_components_rest_api={value}");
        let of = |value: &str| Surroundings::new(&line(value), []).rest_features();
        assert_eq!(of("all"), Ok(Some(Features::All)));
        assert_eq!(of("attestation"), Ok(Some(Features::Attestation)));
        assert!(of("everything").unwrap_err().contains(REST_FEATURES));
        assert_eq!(Surroundings::default().rest_features(), Ok(None));
    }
}
