//! What a storage is asked with: shared access signatures, account keys, access keys, service accounts.
//!
//! They come from files, from secrets that a guest fetched, or from the environment's usual variables, never from
//! arguments. Nothing here prints. The libraries that sign copy them into memory that is not wiped; the process lets
//! nobody read its memory, and it is short-lived.

use std::fmt;

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::error::Cause;

/// A credential: no `Debug` or `Display` of what it holds.
#[derive(Clone)]
pub struct Credential(Zeroizing<String>);

impl Credential {
    /// Takes the bytes of a file or secret. Line ends and spaces around it are none of it.
    ///
    /// # Errors
    /// [`Cause::Settings`] when it is not text, or empty; `what` names it.
    pub fn from_bytes(what: &str, bytes: &[u8]) -> Result<Self, Cause> {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| Cause::Settings(format!("{what} is not text")))?
            .trim();
        if text.is_empty() {
            return Err(Cause::Settings(format!("{what} is empty")));
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// Everything that the storages may be asked with, and where they are.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Azure's storage account, for `az://container/path`.
    pub azure_account: Option<String>,
    /// Where that account is, when not at Microsoft's: Azurite, a sovereign cloud.
    pub azure_endpoint: Option<String>,
    /// Shared access signatures, each for the locations that begin with its text; without one, for all.
    pub azure_sas: Vec<(Option<String>, Credential)>,
    /// The storage account's key.
    pub azure_key: Option<Credential>,
    /// Where S3 is, when not at Amazon's: any server that speaks it.
    pub s3_endpoint: Option<String>,
    /// S3's region.
    pub s3_region: Option<String>,
    /// The name of the access key. No secret.
    pub s3_access_key_id: Option<String>,
    /// The access key.
    pub s3_secret_key: Option<Credential>,
    /// What goes with a temporary access key.
    pub s3_session_token: Option<Credential>,
    /// A service account of Google's, as its JSON file.
    pub gcs_credentials: Option<Credential>,
    /// What follows the question mark of every `https://` location: a signed address.
    pub https_query: Option<Credential>,
}

impl Credentials {
    /// Fills what is missing from the variables that the storages' own tools read.
    ///
    /// # Errors
    /// [`Cause::Settings`] when a variable holds nothing usable.
    pub fn or_environment(
        mut self,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Cause> {
        let set = |names: &[&'static str]| {
            let mut found = names
                .iter()
                .filter_map(|name| Some((*name, variable(name)?)));
            found.find(|(_, value)| !value.trim().is_empty())
        };
        let plain = |own: &mut Option<String>, names: &[&'static str]| {
            if own.is_none() {
                *own = set(names).map(|(_, value)| value.trim().to_owned());
            }
        };
        let secret = |names: &[&'static str]| -> Result<Option<Credential>, Cause> {
            set(names)
                .map(|(name, value)| {
                    let value = Zeroizing::new(value);
                    Credential::from_bytes(name, value.as_bytes())
                })
                .transpose()
        };
        plain(
            &mut self.azure_account,
            &["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"],
        );
        plain(&mut self.azure_endpoint, &["AZURE_STORAGE_ENDPOINT"]);
        if self.azure_sas.is_empty() && self.azure_key.is_none() {
            self.azure_sas = secret(&["AZURE_STORAGE_SAS_TOKEN"])?
                .map(|sas| (None, sas))
                .into_iter()
                .collect();
            self.azure_key = secret(&["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"])?;
        }
        plain(
            &mut self.s3_endpoint,
            &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
        );
        plain(&mut self.s3_region, &["AWS_REGION", "AWS_DEFAULT_REGION"]);
        // A key and its name belong together: neither is filled up from another place.
        if self.s3_access_key_id.is_none() && self.s3_secret_key.is_none() {
            plain(&mut self.s3_access_key_id, &["AWS_ACCESS_KEY_ID"]);
            self.s3_secret_key = secret(&["AWS_SECRET_ACCESS_KEY"])?;
            self.s3_session_token = match self.s3_session_token {
                None => secret(&["AWS_SESSION_TOKEN"])?,
                some => some,
            };
        }
        Ok(self)
    }

    /// The signature for a location of Azure's: that of the longest beginning that fits.
    pub(super) fn sas_for(&self, location: &str) -> Option<&Credential> {
        let fits = self.azure_sas.iter().filter(|(beginning, _)| {
            beginning.as_ref().is_none_or(|beginning| {
                let beginning = beginning.trim_end_matches('/');
                location
                    .strip_prefix(beginning)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        });
        fits.max_by_key(|(beginning, _)| beginning.as_ref().map_or(0, String::len))
            .map(|(_, sas)| sas)
    }
}

/// A shared access signature, taken apart.
pub(super) struct Sas {
    pairs: Vec<(String, Zeroizing<String>)>,
}

impl Sas {
    /// Reads `sv=…&sig=…`, with or without a question mark, a whole address with it, or a connection string.
    pub(super) fn parse(credential: &Credential) -> Result<Self, Cause> {
        let bad = |why: &str| {
            Cause::Settings(format!(
                "the shared access signature (SAS) {why}: it reads like sv=…&se=…&sr=c&sp=rl&sig=…"
            ))
        };
        let text = credential.expose();
        let text = match text.split_once("SharedAccessSignature=") {
            Some((_, sas)) => sas.split(';').next().unwrap_or(sas),
            None => text.rsplit('?').next().unwrap_or(text),
        };
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| bad("is not made of name=value"))?;
            // What a portal shows is percent-encoded; the library encodes again. A plus is a plus.
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| bad("is not percent-encoded text"))?;
            if name.is_empty() || name.len() > 16 || value.chars().any(char::is_control) {
                return Err(bad("holds what no name or value is"));
            }
            pairs.push((name.to_owned(), Zeroizing::new(value.into_owned())));
        }
        let sas = Self { pairs };
        if sas.value("sig").is_none() {
            return Err(bad("has no sig="));
        }
        Ok(sas)
    }

    /// For the library that sends it.
    pub(super) fn to_pairs(&self) -> Vec<(String, String)> {
        let pairs = self.pairs.iter();
        pairs
            .map(|(name, value)| (name.clone(), value.to_string()))
            .collect()
    }

    fn value(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// What it permits, in the storage's letters. A stored access policy may say so instead.
    pub(super) fn permissions(&self) -> Option<&str> {
        self.value("sp").filter(|_| self.value("si").is_none())
    }

    /// Its terms, which are no secret: what it permits, on what, until when.
    pub(super) fn terms(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '.');
        ["sp", "sr", "st", "se"]
            .iter()
            .filter_map(|name| Some((name, self.value(name)?)))
            .filter(|(_, value)| value.len() <= 40 && value.chars().all(plain))
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// An account's key: as it is, or within a connection string.
pub(super) fn account_key(credential: &Credential) -> &str {
    let text = credential.expose();
    match text.split_once("AccountKey=") {
        Some((_, key)) => key.split(';').next().unwrap_or(key),
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn credential(text: &str) -> Credential {
        Credential::from_bytes("it", text.as_bytes()).unwrap()
    }

    #[test]
    fn signature_arrives_changed() {
        let expected = [
            ("sp", "r"),
            ("se", "2030-01-01T00:00:00Z"),
            ("sig", "a+b/c=&d"),
        ];
        let encoded = "sp=r&se=2030-01-01T00%3A00%3A00Z&sig=a%2Bb%2Fc%3D%26d";
        let connection = format!(
            "BlobEndpoint=https://bank.blob.core.windows.net/;SharedAccessSignature={encoded};X=y"
        );
        for text in [
            encoded,
            &format!("?{encoded}"),
            &format!("{encoded}\n"),
            &format!("  ?{encoded}\r\n"),
            &format!("https://bank.blob.core.windows.net/c/b?{encoded}"),
            &connection,
            "sp=r&se=2030-01-01T00:00:00Z&sig=a+b/c=%26d",
        ] {
            let pairs = Sas::parse(&credential(text)).unwrap().to_pairs();
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            assert_eq!(pairs, expected, "{text}");
        }
    }

    #[test]
    fn text_that_is_no_signature_is_sent_or_repeated() {
        for text in [
            "HUNTER2",
            "sp=r&HUNTER2",
            "sp=r&se=HUNTER2",
            "sig=%FF%FEHUNTER2",
            "sig=HUNTER2%0a",
        ] {
            let error = Sas::parse(&credential(text)).err().unwrap().to_string();
            assert!(!error.contains("HUNTER2"), "{error}");
        }
        assert!(Credential::from_bytes("the SAS", b" \n").is_err());
        assert!(Credential::from_bytes("the SAS", &[0xff]).is_err());
        assert!(!format!("{:?}", credential("HUNTER2")).contains("HUNTER2"));
    }

    #[test]
    fn terms_show_the_signature() {
        let sas = Sas::parse(&credential(
            "sp=rl&sr=c&se=2030-01-01&sig=HUNTER2&st=%3Cscript%3E",
        ))
        .unwrap();
        assert_eq!(sas.terms(), "sp=rl sr=c se=2030-01-01");
        assert_eq!(sas.permissions(), Some("rl"));
        let stored = Sas::parse(&credential("si=policy&sp=r&sig=x")).unwrap();
        assert_eq!(stored.permissions(), None);
    }

    #[test]
    fn signature_is_used_for_another_location() {
        let credentials = Credentials {
            azure_sas: vec![
                (None, credential("all")),
                (Some("az://bank/results".to_owned()), credential("results")),
                (
                    Some("az://bank/results/june/".to_owned()),
                    credential("june"),
                ),
            ],
            ..Credentials::default()
        };
        for (location, expected) in [
            ("az://bank/batches/x", "all"),
            ("az://bank/results/x", "results"),
            ("az://bank/results2/x", "all"),
            ("az://bank/results/june/x", "june"),
        ] {
            assert_eq!(credentials.sas_for(location).unwrap().expose(), expected);
        }
        assert!(Credentials::default().sas_for("az://a/b/c").is_none());
    }

    #[test]
    fn variables_override_what_was_said() {
        let variable = |name: &str| {
            let value = match name {
                "AWS_ACCESS_KEY_ID" => "theirs",
                "AWS_SECRET_ACCESS_KEY" | "AZURE_STORAGE_SAS_TOKEN" => "from the environment\n",
                "AWS_ENDPOINT_URL" => "http://127.0.0.1:1",
                "AZURE_STORAGE_ACCOUNT" => " ",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let filled = Credentials::default().or_environment(&variable).unwrap();
        assert_eq!(filled.s3_access_key_id.as_deref(), Some("theirs"));
        assert_eq!(
            filled.s3_secret_key.unwrap().expose(),
            "from the environment"
        );
        assert_eq!(filled.s3_endpoint.as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(filled.azure_sas.len(), 1);
        assert_eq!(filled.azure_account, None);

        let own = Credentials {
            s3_access_key_id: Some("ours".to_owned()),
            azure_key: Some(credential("k")),
            ..Credentials::default()
        };
        let filled = own.or_environment(&variable).unwrap();
        assert_eq!(filled.s3_access_key_id.as_deref(), Some("ours"));
        assert!(filled.s3_secret_key.is_none() && filled.azure_sas.is_empty());
    }

    #[test]
    fn key_within_a_connection_string_is_not_found() {
        let text =
            "DefaultEndpointsProtocol=https;AccountName=bank;AccountKey=a2V5==;EndpointSuffix=x";
        assert_eq!(account_key(&credential(text)), "a2V5==");
        assert_eq!(account_key(&credential("a2V5==\n")), "a2V5==");
    }
}
