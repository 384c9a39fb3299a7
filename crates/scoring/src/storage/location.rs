//! Where data lies: `az://`, `s3://`, `gs://`, `https://`, `file://` or a path.
//!
//! A location never holds a credential, so it may be printed, logged and written into a manifest. What arrives with one
//! in it (a SAS behind a question mark, a password before an @) is refused without being repeated.

use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::Url;

use super::pattern;

/// A place in a storage or on this machine.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Location(pub(super) Place);

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Place {
    Azure {
        account: String,
        container: String,
        key: String,
    },
    S3 {
        bucket: String,
        key: String,
    },
    Gcs {
        bucket: String,
        key: String,
    },
    Http(Url),
    File(PathBuf),
}

/// What is wrong with the text of a location. It does not repeat the text, which may hold a credential.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct LocationError(String);

impl Location {
    /// Reads a location. With `azure_account`, the first part of `az://` is the container, unless it is that account.
    ///
    /// # Errors
    /// [`LocationError`], which says what to write instead.
    pub fn parse(text: &str, azure_account: Option<&str>) -> Result<Self, LocationError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.is_empty() {
                Err(LocationError("a location is empty".to_owned()))
            } else {
                Ok(Self(Place::File(PathBuf::from(text))))
            };
        };
        let place = match scheme {
            "az" | "azure" => azure(rest, azure_account)?,
            "s3" => {
                let (bucket, key) = bucket_and_key(rest, "s3")?;
                Place::S3 { bucket, key }
            }
            "gs" => {
                let (bucket, key) = bucket_and_key(rest, "gs")?;
                Place::Gcs { bucket, key }
            }
            "https" | "http" => Place::Http(http(text)?),
            "file" => Place::File(file(text)?),
            _ => {
                return Err(LocationError(format!(
                    "\"{}://\" is not known here: write az://, s3://, gs://, https://, file:// or a path",
                    crate::shown(scheme)
                )));
            }
        };
        Ok(Self(place))
    }

    /// The path, when it lies on this machine.
    pub fn as_path(&self) -> Option<&Path> {
        match &self.0 {
            Place::File(path) => Some(path),
            _ => None,
        }
    }

    /// The last part of the name: what an encrypted file is bound to, but for its `.enc`.
    pub fn file_name(&self) -> Option<String> {
        let name = match &self.0 {
            Place::File(path) => path.file_name()?.to_string_lossy().into_owned(),
            Place::Http(url) => url.path_segments()?.next_back()?.to_owned(),
            Place::Azure { key, .. } | Place::S3 { key, .. } | Place::Gcs { key, .. } => {
                key.rsplit('/').next()?.to_owned()
            }
        };
        (!name.is_empty()).then_some(name)
    }

    /// Whether it may stand for more than one object: a pattern, or a folder's name with its slash.
    pub fn is_many(&self) -> bool {
        match &self.0 {
            Place::File(path) => {
                let text = path.to_string_lossy();
                path.is_dir()
                    || text.ends_with('/')
                    || (pattern::is_pattern(&text) && !path.exists())
            }
            Place::Http(_) => false,
            Place::Azure { key, .. } | Place::S3 { key, .. } | Place::Gcs { key, .. } => {
                is_folder(key) || pattern::is_pattern(key)
            }
        }
    }

    /// The same storage, another object.
    pub(super) fn with_key(&self, key: &str) -> Self {
        let mut place = self.0.clone();
        if let Place::Azure { key: own, .. }
        | Place::S3 { key: own, .. }
        | Place::Gcs { key: own, .. } = &mut place
        {
            key.clone_into(own);
        }
        Self(place)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Azure {
                account,
                container,
                key,
            } => write!(f, "az://{account}/{container}/{key}"),
            Place::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Place::Gcs { bucket, key } => write!(f, "gs://{bucket}/{key}"),
            Place::Http(url) => url.as_str().fmt(f),
            Place::File(path) => path.display().fmt(f),
        }
    }
}

pub(super) fn is_folder(key: &str) -> bool {
    key.is_empty() || key.ends_with('/')
}

fn azure(rest: &str, account: Option<&str>) -> Result<Place, LocationError> {
    no_credential(rest, "az")?;
    let (first, below) = rest.split_once('/').unwrap_or((rest, ""));
    let (account, rest) = match account {
        Some(account) if account != first => (account, rest),
        _ => (first, below),
    };
    let (container, key) = rest.split_once('/').unwrap_or((rest, ""));
    // An account becomes part of a host's name.
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if account.is_empty() || account.len() > 63 || !account.chars().all(plain) {
        return Err(LocationError(
            "the storage account of an az:// location has lower-case letters and digits: write az://ACCOUNT/CONTAINER/PATH"
                .to_owned(),
        ));
    }
    if container.is_empty() {
        return Err(LocationError(
            "an az:// location names account, container and path: write az://ACCOUNT/CONTAINER/PATH, or az://CONTAINER/PATH with --azure-account"
                .to_owned(),
        ));
    }
    let container_char = |c: char| plain(c) || c == '$';
    if container.len() > 63 || !container.chars().all(container_char) {
        return Err(LocationError(
            "the container of an az:// location has lower-case letters, digits and hyphens"
                .to_owned(),
        ));
    }
    Ok(Place::Azure {
        account: account.to_owned(),
        container: container.to_owned(),
        key: checked_key(key)?,
    })
}

fn bucket_and_key(rest: &str, scheme: &str) -> Result<(String, String), LocationError> {
    no_credential(rest, scheme)?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if bucket.is_empty()
        || bucket.len() > 222
        || !bucket.chars().all(plain)
        || bucket.contains("..")
    {
        return Err(LocationError(format!(
            "a bucket has letters, digits, hyphens and dots: write {scheme}://BUCKET/PATH"
        )));
    }
    Ok((bucket.to_owned(), checked_key(key)?))
}

pub(super) fn checked_key(key: &str) -> Result<String, LocationError> {
    let bad = key.len() > 1024
        || key.chars().any(char::is_control)
        || key
            .strip_suffix('/')
            .unwrap_or(key)
            .split('/')
            .any(|part| matches!(part, "." | "..") || (part.is_empty() && !key.is_empty()));
    if bad {
        return Err(LocationError(
            "the path of a location has parts that are empty, . or .., or characters that do not print".to_owned(),
        ));
    }
    Ok(key.to_owned())
}

/// A question mark may be part of a pattern; with an equals sign behind it, it begins a query.
fn no_credential(rest: &str, scheme: &str) -> Result<(), LocationError> {
    let query = rest
        .split_once('?')
        .is_some_and(|(_, query)| query.contains('='));
    if query
        || rest.contains('@')
            && rest
                .split('/')
                .next()
                .is_some_and(|host| host.contains('@'))
    {
        let option = match scheme {
            "az" => "a SAS goes into a file or a secret, named by --azure-sas FILE|kbs:///…",
            _ => {
                "keys go into files or secrets, named by --s3-secret-key, --gcs-credentials and their kin"
            }
        };
        return Err(LocationError(format!(
            "this {scheme}:// location carries a query or a user name; whoever lists the processes of this machine reads arguments: {option}"
        )));
    }
    Ok(())
}

fn http(text: &str) -> Result<Url, LocationError> {
    let url = Url::parse(text).map_err(|_| {
        LocationError(
            "an https:// location is https://host/path, with everything else percent-encoded"
                .to_owned(),
        )
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(LocationError(
            "this https:// location carries a user name or a password; whoever lists the processes of this machine reads arguments"
                .to_owned(),
        ));
    }
    if url.query().is_some() {
        let azure = url
            .host_str()
            .is_some_and(|host| host.contains(".blob.") || host.contains(".dfs."));
        let instead = if azure {
            "write az://ACCOUNT/CONTAINER/PATH, and put the SAS into a file or a secret, named by --azure-sas FILE|kbs:///…"
        } else {
            "put what follows the question mark into a file or a secret, named by --https-query FILE|kbs:///…"
        };
        return Err(LocationError(format!(
            "this https:// location carries a query, which may be a credential; whoever lists the processes of this machine reads arguments: {instead}"
        )));
    }
    if url.fragment().is_some() || url.host_str().is_none() {
        return Err(LocationError(
            "an https:// location has a host and a path, and no fragment".to_owned(),
        ));
    }
    Ok(url)
}

fn file(text: &str) -> Result<PathBuf, LocationError> {
    let url = Url::parse(text).ok();
    url.filter(|url| url.query().is_none() && url.fragment().is_none())
        .and_then(|url| url.to_file_path().ok())
        .ok_or_else(|| {
            LocationError("a file:// location is file:///absolute/path, percent-encoded".to_owned())
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Location {
        Location::parse(text, None).unwrap()
    }

    #[test]
    fn location_reads_back_as_another() {
        for text in [
            "az://bank/batches/2026/june.csv.enc",
            "s3://bucket.name/a b/ü.csv",
            "s3://bucket/folder/",
            "gs://bucket/x/*.csv",
            "https://host:8443/a%20b/c.csv",
            "relative/path.csv",
            "/absolute/path.csv",
        ] {
            assert_eq!(parsed(text).to_string(), text);
            assert_eq!(parsed(&parsed(text).to_string()), parsed(text));
        }
        assert_eq!(
            parsed("file:///data/a%20b.csv").as_path(),
            Some(Path::new("/data/a b.csv"))
        );
    }

    #[test]
    fn account_of_the_environment_is_forgotten() {
        let short = Location::parse("az://batches/june.csv", Some("bank")).unwrap();
        assert_eq!(short.to_string(), "az://bank/batches/june.csv");
        let long = Location::parse("az://bank/batches/june.csv", Some("bank")).unwrap();
        assert_eq!(long, short);
        assert_eq!(parsed("az://bank/batches/june.csv"), short);
        assert!(Location::parse("az://batches", None).is_err());
    }

    #[test]
    fn credential_in_a_location_is_taken_or_repeated() {
        for text in [
            "az://bank/batches/june.csv?sv=2024&sig=HUNTER2",
            "https://bank.blob.core.windows.net/c/b?sig=HUNTER2",
            "https://host/x?X-Amz-Signature=HUNTER2",
            "https://host/x?token",
            "https://user:HUNTER2@host/x",
            "https://HUNTER2@host/x",
            "s3://ID:HUNTER2@bucket/x",
            "gs://bucket/x?token=HUNTER2",
        ] {
            let error = Location::parse(text, None).unwrap_err().to_string();
            assert!(!error.contains("HUNTER2"), "{error}");
            assert!(!error.contains("bank"), "{error}");
        }
        let error = Location::parse("https://a.blob.core.windows.net/c/b?sig=x", None).unwrap_err();
        assert!(error.to_string().contains("--azure-sas"), "{error}");
        let error = Location::parse("https://host/b?x=y", None).unwrap_err();
        assert!(error.to_string().contains("--https-query"), "{error}");
    }

    #[test]
    fn name_reaches_into_another_host_or_folder() {
        for text in [
            "az://evil.example/c/k",
            "az://bank/../k",
            "az://Bank/c/k",
            "az://bank//k",
            "s3://b/../k",
            "s3://b/a//k",
            "s3://b/./k",
            "s3:///k",
            "s3://a..b/k",
            "s3://b#x/k",
            "gs://b/a\nb",
            "https://",
            "https://host/x#y",
            "file://elsewhere/x",
            "ftp://host/x",
            "",
        ] {
            assert!(Location::parse(text, None).is_err(), "{text}");
        }
        assert!(Location::parse(&format!("s3://b/{}", "k".repeat(1025)), None).is_err());
    }

    #[test]
    fn many_are_taken_for_one() {
        for text in ["s3://b/*.csv", "s3://b/x/", "s3://b", "az://a/c/**/x?", "/"] {
            assert!(parsed(text).is_many(), "{text}");
        }
        for text in ["s3://b/x", "https://h/x/", "/none/such"] {
            assert!(!parsed(text).is_many(), "{text}");
        }
        assert_eq!(
            parsed("s3://b/x/y.csv").file_name().as_deref(),
            Some("y.csv")
        );
        assert_eq!(parsed("s3://b/x/").file_name(), None);
        assert_eq!(
            parsed("https://h/x/y.csv").file_name().as_deref(),
            Some("y.csv")
        );
    }
}
