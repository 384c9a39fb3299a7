//! Names of images (the grammar of distribution's `reference` package): `domain/path:tag@digest`.
//!
//! A name without a domain is one of `docker.io`, and one without a folder there lies in `library`. What is parsed is
//! always in this long form; two spellings of one name are equal.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError};

/// The name of an image: its repository, and which image in it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Reference {
    repository: Repository,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The name of a repository: a registry's domain and a path in it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Repository {
    domain: String,
    path: String,
}

impl Reference {
    /// An image of a repository by its digest.
    pub fn by_digest(repository: Repository, digest: Digest) -> Self {
        Self {
            repository,
            tag: None,
            digest: Some(digest),
        }
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag, when there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when there is one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether it names a repository and no image in it.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// The same, with the tag `latest` where it names no image.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.is_name_only() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same image in another repository.
    #[must_use]
    pub fn in_repository(&self, repository: Repository) -> Self {
        Self {
            repository,
            tag: self.tag.clone(),
            digest: self.digest,
        }
    }

    /// The scopes of a policy that cover it, the narrowest first (containers-policy.json(5), "docker:").
    pub fn policy_scopes(&self) -> Vec<String> {
        let name = self.repository.to_string();
        let mut scopes = Vec::new();
        if let Some(digest) = &self.digest {
            scopes.push(format!("{name}@{digest}"));
        }
        if let Some(tag) = &self.tag {
            scopes.push(format!("{name}:{tag}"));
        }
        let mut rest = name.as_str();
        scopes.push(rest.to_owned());
        while let Some((shorter, _)) = rest.rsplit_once('/') {
            scopes.push(shorter.to_owned());
            rest = shorter;
        }
        let mut host = self.repository.host();
        while let Some((_, parent)) = host.split_once('.') {
            scopes.push(format!("*.{parent}"));
            host = parent;
        }
        scopes
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repository.fmt(f)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() > MAX_REFERENCE {
            return Err(ReferenceError::Long);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon behind the last slash begins a tag; one before it, a port.
        let tag_at = rest
            .rfind(':')
            .filter(|colon| rest.rfind('/').is_none_or(|slash| slash < *colon));
        let (name, tag) = match tag_at.and_then(|at| rest.split_at_checked(at)) {
            Some((name, tag)) => (name, tag.get(1..)),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        Ok(Self {
            repository: name.parse()?,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

impl Repository {
    /// The registry's domain, with its port if it has one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The path in the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The domain without its port.
    pub fn host(&self) -> &str {
        match self.domain.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &self.domain,
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let looks_like_a_domain = |first: &str| {
            first.contains(['.', ':', '[']) || first == "localhost" || first.to_lowercase() != first
        };
        let (domain, path) = match text.split_once('/') {
            Some((first, rest)) if looks_like_a_domain(first) => (first, rest),
            _ => (DOCKER_HUB, text),
        };
        check_domain(domain)?;
        let domain = normal_domain(domain);
        // In small letters a bare word is a folder of Docker Hub's: such a host needs its port.
        if !looks_like_a_domain(&domain) {
            return Err(ReferenceError::Domain);
        }
        let path = match domain == DOCKER_HUB && !path.contains('/') {
            true => format!("{OFFICIAL}/{path}"),
            false => path.to_owned(),
        };
        check_path(&path)?;
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::Long);
        }
        Ok(Self { domain, path })
    }
}

/// One spelling of a registry: hosts are the same in any case, and so is the port that TLS has anyway. A policy or a
/// blocked registry is looked up by it.
pub(crate) fn normal_domain(domain: &str) -> String {
    let domain = domain.to_ascii_lowercase();
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !domain.ends_with(']') => (host, port.parse::<u16>().ok()),
        _ => (domain.as_str(), None),
    };
    // Without its port, a bare word would be read as a folder.
    let needs_port = !host.contains(['.', '[']) && host != "localhost";
    let port = port.filter(|port| *port != TLS_PORT || needs_port);
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = match inner.and_then(|inner| inner.parse::<std::net::Ipv6Addr>().ok()) {
        Some(address) => format!("[{address}]"),
        None => host.to_owned(),
    };
    match (host.as_str(), port) {
        ("index.docker.io", None) => DOCKER_HUB.to_owned(),
        (_, None) => host,
        (_, Some(port)) => format!("{host}:{port}"),
    }
}

fn check_domain(domain: &str) -> Result<(), ReferenceError> {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !domain.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let port_is_good = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let host_is_good = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        }),
    };
    match port_is_good && host_is_good {
        true => Ok(()),
        false => Err(ReferenceError::Domain),
    }
}

fn check_path(path: &str) -> Result<(), ReferenceError> {
    let is_good = |part: &str| {
        // Runs of letters and digits, with one of `.`, `_`, `__` or any number of `-` between them.
        let separators_are_good = part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|between| {
                matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
            });
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        separators_are_good
            && part.as_bytes().first().is_some_and(alphanumeric)
            && part.as_bytes().last().is_some_and(alphanumeric)
    };
    match path.split('/').all(is_good) {
        true => Ok(()),
        false => Err(ReferenceError::Path),
    }
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    match good {
        true => Ok(()),
        false => Err(ReferenceError::Tag),
    }
}

/// Why a text names no image.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// The registry.
    #[error("the registry's name is no host name with an optional port")]
    Domain,
    /// The path.
    #[error(
        "the image's path may hold lower-case letters, digits and single separators (. _ __ -) between them"
    )]
    Path,
    /// The tag.
    #[error(
        "a tag has up to 128 letters, digits, '_', '.' and '-', and begins with none of the last two"
    )]
    Tag,
    /// The digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// Too many characters.
    #[error("the image's name is longer than such a name may be")]
    Long,
}

const TLS_PORT: u16 = 443;
const DOCKER_HUB: &str = "docker.io";
const OFFICIAL: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Of a repository, as distribution bounds it.
const MAX_NAME: usize = 255;
const MAX_REFERENCE: usize = 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn parse(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn short_name_is_one_of_docker_hub() {
        for (short, long) in [
            ("busybox", "docker.io/library/busybox"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("a/b", "docker.io/a/b"),
            ("docker.io/busybox", "docker.io/library/busybox"),
            ("index.docker.io/a/b:c", "docker.io/a/b:c"),
            ("localhost/a", "localhost/a"),
            ("localhost:5000/a:b", "localhost:5000/a:b"),
            ("[::1]:5000/a", "[::1]:5000/a"),
            ("[::1]/a", "[::1]/a"),
            ("QUAY.io:443/a", "quay.io/a"),
            ("LocalHost:0443/a", "localhost/a"),
            ("Index.Docker.io/a/b", "docker.io/a/b"),
            ("registry:443/a", "registry:443/a"),
            ("quay.io:80/a", "quay.io:80/a"),
            ("[0:0:0:0:0:0:0:1]:443/a", "[::1]/a"),
            ("quay.io/a/b__c/d---e.f", "quay.io/a/b__c/d---e.f"),
        ] {
            assert_eq!(parse(short).to_string(), long);
            assert_eq!(parse(long), parse(short));
        }
        let both = format!("quay.io/a/b:c@{DIGEST}");
        assert_eq!(parse(&both).to_string(), both);
        assert_eq!(parse(&both).tag(), Some("c"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            ":",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "QUAY/a",
            "a/B",
            "quay.io/",
            "a:",
            "a:-b",
            "a:.b",
            "a@",
            "a@sha256:00",
            "a:b:c",
            "a..b/c",
            "a/b..c",
            "a/b___c",
            "a/.b",
            "a/b.",
            "a/../b",
            "-a.b/c",
            "a.b:port/c",
            "a.b:123456/c",
            "[zz]/a",
            "a b",
            "a\n",
            "a/b?c",
            "a/%2e",
            "http://a.b/c",
            "é/b",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
        assert!(
            format!("a/{}", "b".repeat(260))
                .parse::<Reference>()
                .is_err()
        );
        assert!(
            format!("a:{}", "b".repeat(129))
                .parse::<Reference>()
                .is_err()
        );
    }

    #[test]
    fn missing_tag_is_latest_and_a_digest_needs_none() {
        assert_eq!(parse("a").or_latest().tag(), Some("latest"));
        let by_digest = parse(&format!("a@{DIGEST}")).or_latest();
        assert_eq!(by_digest.tag(), None);
    }

    #[test]
    fn scopes_go_from_the_image_to_the_wildcards() {
        assert_eq!(
            parse("reg.example.com:5000/a/b:c").policy_scopes(),
            [
                "reg.example.com:5000/a/b:c",
                "reg.example.com:5000/a/b",
                "reg.example.com:5000/a",
                "reg.example.com:5000",
                "*.example.com",
                "*.com",
            ]
        );
        assert_eq!(
            parse("busybox").or_latest().policy_scopes(),
            [
                "docker.io/library/busybox:latest",
                "docker.io/library/busybox",
                "docker.io/library",
                "docker.io",
                "*.io",
            ]
        );
    }
}
