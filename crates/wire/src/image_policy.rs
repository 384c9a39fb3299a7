//! Which images may run (containers-policy.json(5)): scopes of the `docker` transport, and what is required in each.
//!
//! As containers/image reads it: unknown and repeated members are refused, and so is an empty list of requirements.
//! What cannot be verified here (keyless signing, Rekor, X.509) is refused when the policy is read, so that no image
//! is let through by a requirement that nobody checks. Stricter than that: without a policy nothing may run.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::b64;
use crate::image::FormatError;
use crate::image::reference::{Reference, Repository};

/// Which images may run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    default: Vec<Requirement>,
    docker: BTreeMap<String, Vec<Requirement>>,
}

/// What an image must meet. Each requirement in force must be met.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Requirement {
    /// Anything may run.
    InsecureAcceptAnything,
    /// Nothing may run.
    Reject,
    /// A GPG signature (simple signing) by one of these keys.
    SignedBy {
        /// Keyrings; a signature by a key of any of them counts.
        keys: Vec<KeySource>,
        /// Which names the signature may state.
        identity: SignedIdentity,
    },
    /// A signature in cosign's form by one of these keys.
    SigstoreSigned {
        /// The keys.
        keys: Vec<KeySource>,
        /// Which names the signature may state.
        identity: SignedIdentity,
    },
}

/// Where a key is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeySource {
    /// A `kbs:///` URI, or a file by path or `file://` URL.
    Path(String),
    /// The key itself.
    Data(Vec<u8>),
}

/// Which names a signature may state for the image that was asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SignedIdentity {
    /// The same name and tag or digest.
    MatchExact,
    /// The same name and tag; for an image asked for by digest, the same repository.
    MatchRepoDigestOrExact,
    /// The same repository.
    MatchRepository,
    /// This name and tag or digest, whatever was asked for.
    ExactReference(Reference),
    /// This repository, whatever was asked for.
    ExactRepository(Repository),
    /// As [`Self::MatchRepoDigestOrExact`], after a prefix of the name that was asked for is replaced.
    RemapIdentity {
        /// What the name asked for begins with.
        prefix: String,
        /// What the signed name begins with in its place.
        signed_prefix: String,
    },
    /// What holds for cosign-format signatures when the policy says nothing: as [`Self::MatchRepoDigestOrExact`], or the
    /// same repository where the signature states no tag, as cosign's never do.
    CosignDefault,
}

impl Policy {
    /// Parses a policy.
    ///
    /// # Errors
    /// [`FormatError`] when it is none, or requires what cannot be checked here; the reason names the scope.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() > MAX_POLICY {
            return Err(FormatError::TooLong {
                what: WHAT,
                limit: MAX_POLICY,
            });
        }
        // The policy is the owner's own and no secret: the parser's words may quote it.
        let raw: RawPolicy = serde_json::from_slice(bytes)
            .map_err(|error| FormatError::invalid(WHAT, error.to_string()))?;
        let default = requirements("default", raw.default)?;
        let mut docker = BTreeMap::new();
        for (transport, scopes) in raw.transports.0 {
            if !TRANSPORTS.contains(&transport.as_str()) {
                return Err(FormatError::invalid(
                    WHAT,
                    format!(
                        "transports.{transport}: there is no such transport; images of registries are those of \"docker\""
                    ),
                ));
            }
            for (scope, list) in scopes.0 {
                let place = format!("transports.{transport}.{scope:?}");
                let list = requirements(&place, list)?;
                if transport == "docker" {
                    check_scope(&scope).map_err(|reason| {
                        FormatError::invalid(WHAT, format!("{place}: {reason}"))
                    })?;
                    docker.insert(scope, list);
                }
            }
        }
        Ok(Self { default, docker })
    }

    /// What is required of an image, and the scope that says so.
    pub fn requirements_for(&self, image: &Reference) -> (Scope, &[Requirement]) {
        for scope in image.policy_scopes() {
            if let Some(list) = self.docker.get(&scope) {
                return (Scope::Docker(scope), list);
            }
        }
        match self.docker.get("") {
            Some(list) => (Scope::Docker(String::new()), list),
            None => (Scope::Default, &self.default),
        }
    }
}

/// The part of a policy that decided.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// A scope of the transport `docker`.
    Docker(String),
    /// The policy's default.
    Default,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(scope) => write!(f, "transports.docker[{scope:?}]"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl SignedIdentity {
    /// Whether a signature that states `signed` is one of the image that was asked for.
    ///
    /// # Errors
    /// [`IdentityError`] saying what differs.
    pub fn check(&self, asked: &Reference, signed: &str) -> Result<(), IdentityError> {
        let signed_name: Reference = signed.parse().map_err(|_| IdentityError::NoName)?;
        let matched = match self {
            Self::MatchExact => exact(asked, &signed_name),
            Self::MatchRepoDigestOrExact => repo_digest_or_exact(asked, &signed_name),
            Self::MatchRepository => signed_name.repository() == asked.repository(),
            Self::ExactReference(wanted) => exact(wanted, &signed_name),
            Self::ExactRepository(wanted) => signed_name.repository() == wanted,
            Self::RemapIdentity {
                prefix,
                signed_prefix,
            } => {
                let asked = remap(asked, prefix, signed_prefix)?;
                repo_digest_or_exact(&asked, &signed_name)
            }
            Self::CosignDefault => match signed_name.is_name_only() {
                true => signed_name.repository() == asked.repository(),
                false => repo_digest_or_exact(asked, &signed_name),
            },
        };
        if matched {
            return Ok(());
        }
        let wanted = match self {
            Self::ExactReference(wanted) => wanted.to_string(),
            Self::ExactRepository(wanted) => wanted.to_string(),
            _ => asked.to_string(),
        };
        Err(IdentityError::Differs {
            signed: signed_name.to_string(),
            wanted,
            rule: self.name(),
            hint: match signed_name.is_name_only() && signed_name.repository() == asked.repository()
            {
                true => {
                    "; cosign states the repository without a tag: signedIdentity {\"type\":\"matchRepository\"} accepts that"
                }
                false => "",
            },
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::MatchExact => "matchExact",
            Self::MatchRepoDigestOrExact | Self::CosignDefault => "matchRepoDigestOrExact",
            Self::MatchRepository => "matchRepository",
            Self::ExactReference(_) => "exactReference",
            Self::ExactRepository(_) => "exactRepository",
            Self::RemapIdentity { .. } => "remapIdentity",
        }
    }
}

fn exact(wanted: &Reference, signed: &Reference) -> bool {
    !wanted.is_name_only() && !signed.is_name_only() && wanted == signed
}

fn repo_digest_or_exact(asked: &Reference, signed: &Reference) -> bool {
    match (asked.tag(), asked.digest()) {
        (Some(_), _) => signed == asked,
        (None, Some(_)) => signed.repository() == asked.repository(),
        (None, None) => false,
    }
}

fn remap(asked: &Reference, prefix: &str, signed_prefix: &str) -> Result<Reference, IdentityError> {
    let name = asked.repository().to_string();
    match name.strip_prefix(prefix) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{signed_prefix}{rest}")
            .parse()
            .map(|repository| asked.in_repository(repository))
            .map_err(|_| IdentityError::NoName),
        _ => Ok(asked.clone()),
    }
}

/// Why a signature is not one of the image that was asked for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// It is of another image.
    #[error("the signature is for {signed:?}, not for {wanted:?} (signedIdentity {rule}{hint})")]
    Differs {
        /// What was signed.
        signed: String,
        /// What it should have been.
        wanted: String,
        /// How they were compared.
        rule: &'static str,
        /// What would help.
        hint: &'static str,
    },
    /// It names no image.
    #[error("the signature's docker-reference names no image")]
    NoName,
}

fn requirements(place: &str, raw: Vec<RawRequirement>) -> Result<Vec<Requirement>, FormatError> {
    if raw.is_empty() {
        return Err(FormatError::invalid(
            WHAT,
            format!(
                "{place}: the list of requirements is empty, which would let anything run: write insecureAcceptAnything or reject"
            ),
        ));
    }
    raw.into_iter()
        .map(|raw| {
            raw.into_requirement()
                .map_err(|reason| FormatError::invalid(WHAT, format!("{place}: {reason}")))
        })
        .collect()
}

/// A scope that can never be looked up is a requirement that is never checked: names are looked up in their long form.
fn check_scope(scope: &str) -> Result<(), String> {
    if scope.is_empty() {
        return Ok(());
    }
    let form = "write host[:port][/path][:tag] in small letters and in full, or *.domain";
    let Some(long) = long_form(scope) else {
        return Err(format!("it covers no image: {form}"));
    };
    match long == scope {
        true => Ok(()),
        false => Err(format!(
            "it covers no image as it is written: write {long:?}"
        )),
    }
}

/// How a scope has to be written for images to be found under it; nothing when it is none.
fn long_form(scope: &str) -> Option<String> {
    if let Some(parent) = scope.strip_prefix("*.") {
        let parent = parent.to_ascii_lowercase();
        let sub: Repository = format!("x.{parent}/y").parse().ok()?;
        return (sub.host() == sub.domain() && sub.host() == format!("x.{parent}"))
            .then(|| format!("*.{parent}"));
    }
    // A registry or a folder in it, when images in it have names that begin so.
    let within = |scope: &str| {
        let long = format!("{scope}/x/y")
            .parse::<Repository>()
            .ok()?
            .to_string();
        long.strip_suffix("/x/y").map(str::to_owned)
    };
    if scope.contains('/') && within(scope).as_deref() == Some(scope) {
        return Some(scope.to_owned());
    }
    let is_host = !scope.contains('/')
        && (scope.contains(['.', '[']) || scope == "localhost" || scope.contains(':'));
    match is_host && !scope.contains('@') {
        // A word with a colon is a host with a port, as containers-policy.json(5) has no short names.
        true => within(scope),
        false => scope
            .parse::<Reference>()
            .ok()
            .map(|image| image.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    default: Vec<RawRequirement>,
    #[serde(default)]
    transports: Unique<Unique<Vec<RawRequirement>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawRequirement {
    r#type: String,
    key_type: Option<String>,
    key_path: Option<String>,
    key_paths: Option<Vec<String>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    signed_identity: Option<RawIdentity>,
    fulcio: Option<de::IgnoredAny>,
    pki: Option<de::IgnoredAny>,
    rekor_public_key_path: Option<de::IgnoredAny>,
    rekor_public_key_paths: Option<de::IgnoredAny>,
    rekor_public_key_data: Option<de::IgnoredAny>,
    rekor_public_key_datas: Option<de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawIdentity {
    r#type: String,
    docker_reference: Option<String>,
    docker_repository: Option<String>,
    prefix: Option<String>,
    signed_prefix: Option<String>,
}

impl RawRequirement {
    fn into_requirement(self) -> Result<Requirement, String> {
        let has_key = self.key_path.is_some()
            || self.key_paths.is_some()
            || self.key_data.is_some()
            || self.key_datas.is_some();
        let has_keyless = self.fulcio.is_some() || self.pki.is_some();
        let has_rekor = self.rekor_public_key_path.is_some()
            || self.rekor_public_key_paths.is_some()
            || self.rekor_public_key_data.is_some()
            || self.rekor_public_key_datas.is_some();
        match self.r#type.as_str() {
            "insecureAcceptAnything" | "reject" => {
                if has_key
                    || has_keyless
                    || has_rekor
                    || self.key_type.is_some()
                    || self.signed_identity.is_some()
                {
                    return Err(format!("{} takes no other member", self.r#type));
                }
                Ok(match self.r#type == "reject" {
                    true => Requirement::Reject,
                    false => Requirement::InsecureAcceptAnything,
                })
            }
            "signedBy" => {
                if self.key_type.as_deref() != Some("GPGKeys") {
                    return Err("signedBy is checked by keyType GPGKeys only".to_owned());
                }
                if has_keyless || has_rekor {
                    return Err("fulcio, pki and rekor keys belong to sigstoreSigned".to_owned());
                }
                let identity =
                    identity(self.signed_identity, SignedIdentity::MatchRepoDigestOrExact)?;
                let keys = keys(
                    self.key_path,
                    self.key_paths,
                    self.key_data,
                    self.key_datas,
                    false,
                )?;
                Ok(Requirement::SignedBy { keys, identity })
            }
            "sigstoreSigned" => {
                if has_keyless {
                    return Err(
                        "keyless signatures (fulcio, pki) are not verified here: name a key"
                            .to_owned(),
                    );
                }
                if has_rekor {
                    return Err("Rekor's entries are not verified here: leave the rekor key out, the signature by the key alone decides".to_owned());
                }
                if self.key_type.is_some() {
                    return Err("keyType belongs to signedBy".to_owned());
                }
                let identity = identity(self.signed_identity, SignedIdentity::CosignDefault)?;
                let keys = keys(
                    self.key_path,
                    self.key_paths,
                    self.key_data,
                    self.key_datas,
                    true,
                )?;
                Ok(Requirement::SigstoreSigned { keys, identity })
            }
            other => Err(format!(
                "the requirement {other:?} is not known: insecureAcceptAnything, reject, signedBy and sigstoreSigned are"
            )),
        }
    }
}

fn keys(
    path: Option<String>,
    paths: Option<Vec<String>>,
    data: Option<String>,
    datas: Option<Vec<String>>,
    may_be_pem: bool,
) -> Result<Vec<KeySource>, String> {
    let given = [
        path.is_some(),
        paths.is_some(),
        data.is_some(),
        datas.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err(
            "exactly one of keyPath, keyPaths, keyData and keyDatas must be there".to_owned(),
        );
    }
    let paths = path.into_iter().chain(paths.into_iter().flatten());
    let mut keys: Vec<KeySource> = paths.map(KeySource::Path).collect();
    for data in data.into_iter().chain(datas.into_iter().flatten()) {
        let bytes = match may_be_pem && data.contains("-----BEGIN") {
            true => data.into_bytes(),
            false => b64::std_decode(data.trim()).map_err(|_| match may_be_pem {
                true => "keyData is neither PEM nor base64",
                false => "keyData is not base64",
            })?,
        };
        keys.push(KeySource::Data(bytes));
    }
    match keys.is_empty() || keys.len() > MAX_KEYS {
        true => Err(format!("between one and {MAX_KEYS} keys must be named")),
        false => Ok(keys),
    }
}

fn identity(raw: Option<RawIdentity>, default: SignedIdentity) -> Result<SignedIdentity, String> {
    let Some(raw) = raw else {
        return Ok(default);
    };
    let members = (
        raw.docker_reference,
        raw.docker_repository,
        raw.prefix,
        raw.signed_prefix,
    );
    Ok(match (raw.r#type.as_str(), members) {
        ("matchExact", (None, None, None, None)) => SignedIdentity::MatchExact,
        ("matchRepoDigestOrExact", (None, None, None, None)) => {
            SignedIdentity::MatchRepoDigestOrExact
        }
        ("matchRepository", (None, None, None, None)) => SignedIdentity::MatchRepository,
        ("exactReference", (Some(reference), None, None, None)) => {
            let reference: Reference = reference
                .parse()
                .map_err(|error| format!("dockerReference: {error}"))?;
            if reference.is_name_only() {
                return Err("dockerReference has neither tag nor digest".to_owned());
            }
            SignedIdentity::ExactReference(reference)
        }
        ("exactRepository", (None, Some(repository), None, None)) => {
            SignedIdentity::ExactRepository(
                repository
                    .parse()
                    .map_err(|error| format!("dockerRepository: {error}"))?,
            )
        }
        ("remapIdentity", (None, None, Some(prefix), Some(signed_prefix))) => {
            for prefix in [&prefix, &signed_prefix] {
                let is_host_or_name = !prefix.is_empty()
                    && format!("{prefix}/x")
                        .parse::<Repository>()
                        .is_ok_and(|r| r.to_string() == format!("{prefix}/x"));
                // containers/image takes a bare word for the host of that name, which covers no image here.
                let is_word = prefix
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                    && !prefix.is_empty();
                if !is_host_or_name && !is_word {
                    return Err("a prefix of remapIdentity is a host, or a name in its long form without tag".to_owned());
                }
            }
            SignedIdentity::RemapIdentity {
                prefix,
                signed_prefix,
            }
        }
        (
            "exactReference"
            | "exactRepository"
            | "remapIdentity"
            | "matchExact"
            | "matchRepoDigestOrExact"
            | "matchRepository",
            _,
        ) => {
            return Err(format!(
                "signedIdentity {} has a member too few or too many",
                raw.r#type
            ));
        }
        (other, _) => return Err(format!("signedIdentity {other:?} is not known")),
    })
}

/// A map that refuses a key which is there twice.
struct Unique<V>(BTreeMap<String, V>);

impl<V> Default for Unique<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(std::marker::PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Unique<V>, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = access.next_entry::<String, V>()? {
                    if map.contains_key(&key) {
                        return Err(de::Error::custom(format_args!("{key:?} is there twice")));
                    }
                    map.insert(key, value);
                }
                Ok(Unique(map))
            }
        }

        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

const WHAT: &str = "image policy (policy.json)";
const MAX_POLICY: usize = 1024 * 1024;
const MAX_KEYS: usize = 64;
/// Those that containers-policy.json(5) and containers-transports(5) name. Nothing of the others is pulled here.
const TRANSPORTS: [&str; 12] = [
    "atomic",
    "containers-storage",
    "dir",
    "docker",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "openshift",
    "ostree",
    "sif",
    "tarball",
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn image(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn parse(value: &Value) -> Result<Policy, FormatError> {
        Policy::parse(value.to_string().as_bytes())
    }

    fn requirement(value: &Value) -> Result<Requirement, FormatError> {
        let policy = parse(&json!({ "default": [value] }))?;
        let (scope, list) = policy.requirements_for(&image("a:b"));
        assert_eq!(scope, Scope::Default);
        Ok(list[0].clone())
    }

    #[test]
    fn upstream_policies_parse() {
        for path in [
            "guest/guest-components/image-rs/test_data/signature/policy.json",
            "guest/guest-components/image-rs/test_data/simple-signing-scheme/security_policy.json",
        ] {
            let Some(bytes) = crate::fixtures::read(path) else {
                return;
            };
            let policy = Policy::parse(&bytes).unwrap();
            let scope = |name: &str| policy.requirements_for(&image(name)).0.to_string();
            if path.contains("simple-signing") {
                assert_eq!(
                    scope("quay.io/kata-containers/confidential-containers:cosign-signed"),
                    "transports.docker[\"quay.io/kata-containers/confidential-containers:cosign-signed\"]"
                );
            } else {
                assert_eq!(
                    scope("example.com/hardened/x:1"),
                    "transports.docker[\"example.com/hardened\"]"
                );
                assert_eq!(
                    scope("a.b.redhat.com/x"),
                    "transports.docker[\"*.redhat.com\"]"
                );
                assert_eq!(
                    scope("registry.access.redhat.com/x"),
                    "transports.docker[\"registry.access.redhat.com\"]"
                );
                assert_eq!(scope("example.org/x"), "default");
            }
        }
    }

    #[test]
    fn scope_that_never_matches_lets_its_images_fall_to_the_default() {
        let scope = |scope: &str| {
            let lists = json!({ scope: [{ "type": "reject" }] });
            let accept = json!([{ "type": "insecureAcceptAnything" }]);
            parse(&json!({ "default": accept, "transports": { "docker": lists } }))
                .map_err(|error| error.to_string())
        };
        for (written, long) in [
            ("alpine", "docker.io/library/alpine"),
            ("library/alpine", "docker.io/library/alpine"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine"),
            ("docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("Registry.Bank.example/app", "registry.bank.example/app"),
            ("REGISTRY.bank.example", "registry.bank.example"),
            ("registry.bank.example:443/app", "registry.bank.example/app"),
            ("*.Bank.example", "*.bank.example"),
        ] {
            let error = scope(written).unwrap_err();
            assert!(error.contains(&format!("write {long:?}")), "{error}");
            scope(long).unwrap();
        }
        for wrong in [
            "https://h/x",
            "h.example/",
            "/x",
            "a b",
            "*.",
            "*.x:5",
            "h.example/App",
        ] {
            assert!(
                scope(wrong).unwrap_err().contains("covers no image"),
                "{wrong}"
            );
        }
        for good in [
            "docker.io",
            "docker.io/library",
            "localhost:5000",
            "[::1]:5000/a",
            "h.example/a/b:T",
            &format!("h.example/a@{DIGEST}"),
        ] {
            scope(good).unwrap();
        }
        let rejected = scope("registry.bank.example").unwrap();
        for name in [
            "REGISTRY.bank.example/app",
            "registry.bank.example:443/app",
            "registry.bank.example:00443/app",
        ] {
            let list = rejected.requirements_for(&image(name)).1;
            assert_eq!(list, [Requirement::Reject], "{name}");
        }
    }

    #[test]
    fn misspelt_transport_is_dropped_with_its_requirements() {
        let reject = json!([{ "type": "reject" }]);
        for transport in ["Docker", "dockr", ""] {
            let error =
                parse(&json!({ "default": reject, "transports": { transport: { "": reject } } }));
            let error = error.unwrap_err().to_string();
            assert!(error.contains("no such transport"), "{error}");
        }
    }

    #[test]
    fn narrowest_scope_decides_alone() {
        let accept = json!([{ "type": "insecureAcceptAnything" }]);
        let reject = json!([{ "type": "reject" }]);
        let policy = parse(&json!({ "default": reject, "transports": {
            "docker": { "": accept, "h:5000/a": reject, "h:5000/a/b:t": accept, "*.d.e": reject },
            "dir": { "/x": accept },
        }}))
        .unwrap();
        for (name, accepted) in [
            ("h:5000/a/b:t", true),
            ("h:5000/a/b:u", false),
            ("h:5000/a", false),
            ("h:5000/aa", true),
            ("c.d.e/x", false),
            ("d.e/x", true),
        ] {
            let list = policy.requirements_for(&image(name)).1;
            assert_eq!(
                list == [Requirement::InsecureAcceptAnything],
                accepted,
                "{name}"
            );
        }
    }

    #[test]
    fn policy_that_would_let_something_through_unchecked_is_refused() {
        let accept = json!({ "type": "insecureAcceptAnything" });
        for (bad, why) in [
            (json!({}), "default"),
            (json!({ "default": [] }), "empty"),
            (
                json!({ "default": [accept], "transports": { "docker": { "a": [] } } }),
                "empty",
            ),
            (json!({ "default": [accept], "extra": 1 }), "extra"),
            (
                json!({ "default": [accept], "transports": { "docker": { "docker://a": [accept] } } }),
                "covers no image",
            ),
            (
                json!({ "default": [accept], "transports": { "docker": { "a/*": [accept] } } }),
                "covers no image",
            ),
            (json!({ "default": [{ "type": "accept" }] }), "not known"),
            (
                json!({ "default": [{ "type": "reject", "keyPath": "x" }] }),
                "no other",
            ),
            (
                json!({ "default": [{ "type": "sigstoreSigned" }] }),
                "exactly one",
            ),
            (
                json!({ "default": [{ "type": "sigstoreSigned", "keyPath": "a", "keyData": "YQ==" }] }),
                "exactly one",
            ),
            (
                json!({ "default": [{ "type": "sigstoreSigned", "keyPath": "a", "rekorPublicKeyPath": "b" }] }),
                "Rekor",
            ),
            (
                json!({ "default": [{ "type": "sigstoreSigned", "fulcio": {} }] }),
                "keyless",
            ),
            (
                json!({ "default": [{ "type": "sigstoreSigned", "keyPath": "a", "keyType": "GPGKeys" }] }),
                "keyType",
            ),
            (
                json!({ "default": [{ "type": "signedBy", "keyPath": "a" }] }),
                "GPGKeys",
            ),
            (
                json!({ "default": [{ "type": "signedBy", "keyType": "GPGKeys", "keyData": "-----BEGIN PGP" }] }),
                "base64",
            ),
            (
                json!({ "default": [{ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "a", "signedIdentity": { "type": "matchAny" } }] }),
                "matchAny",
            ),
            (
                json!({ "default": [{ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "a", "signedIdentity": { "type": "exactReference", "dockerReference": "a/b" } }] }),
                "neither tag",
            ),
            (
                json!({ "default": [{ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "a", "signedIdentity": { "type": "matchExact", "prefix": "a" } }] }),
                "too many",
            ),
        ] {
            let error = parse(&bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
        for twice in [
            r#"{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}"#,
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"a":[{"type":"reject"}],"a":[{"type":"insecureAcceptAnything"}]}}}"#,
            r#"{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}"#,
        ] {
            assert!(Policy::parse(twice.as_bytes()).is_err(), "{twice}");
        }
    }

    #[test]
    fn key_data_is_pem_or_base64() {
        let pem = "-----BEGIN PUBLIC KEY-----\nYQ==\n-----END PUBLIC KEY-----\n";
        for data in [pem.to_owned(), b64::std_encode(pem)] {
            let read = requirement(&json!({ "type": "sigstoreSigned", "keyData": data })).unwrap();
            assert_eq!(
                read,
                Requirement::SigstoreSigned {
                    keys: vec![KeySource::Data(pem.as_bytes().to_vec())],
                    identity: SignedIdentity::CosignDefault
                }
            );
        }
    }

    /// As containers/image's own table of these comparisons has it.
    #[test]
    fn identities_match_as_containers_image_defines() {
        let by_digest = format!("h/a@{DIGEST}");
        let remap = |prefix: &str, signed: &str| SignedIdentity::RemapIdentity {
            prefix: prefix.into(),
            signed_prefix: signed.into(),
        };
        let h = "h.io/a";
        let tagged = "h.io/a:t";
        let digested = format!("h.io/a@{DIGEST}");
        use SignedIdentity as I;
        for (identity, asked, signed, good) in [
            (I::MatchExact, tagged, tagged, true),
            (I::MatchExact, tagged, "h.io/a:u", false),
            (I::MatchExact, tagged, h, false),
            (I::MatchExact, &digested, &digested, true),
            (I::MatchExact, &digested, tagged, false),
            (I::MatchRepoDigestOrExact, tagged, tagged, true),
            (I::MatchRepoDigestOrExact, tagged, h, false),
            (I::MatchRepoDigestOrExact, tagged, &digested, false),
            (I::MatchRepoDigestOrExact, &digested, tagged, true),
            (I::MatchRepoDigestOrExact, &digested, h, true),
            (I::MatchRepoDigestOrExact, &digested, "h.io/b:t", false),
            (I::MatchRepoDigestOrExact, &digested, "i.io/a:t", false),
            (I::MatchRepository, tagged, "h.io/a:u", true),
            (I::MatchRepository, tagged, h, true),
            (I::MatchRepository, tagged, "h.io/a/b:t", false),
            (I::MatchRepository, tagged, "h.io:444/a:t", false),
            // Another spelling of one registry, which containers/image tells apart.
            (I::MatchRepository, tagged, "H.io:443/a:t", true),
            (
                I::MatchRepository,
                "busybox:1",
                "docker.io/library/busybox:1",
                true,
            ),
            (I::ExactReference(image(tagged)), "x/y:z", tagged, true),
            (I::ExactReference(image(tagged)), tagged, "h.io/a:u", false),
            (
                I::ExactRepository(h.parse().unwrap()),
                "x/y:z",
                "h.io/a:u",
                true,
            ),
            (
                I::ExactRepository(h.parse().unwrap()),
                tagged,
                "h.io/b:t",
                false,
            ),
            (remap("m.io/x", "h.io"), "m.io/x/a:t", tagged, true),
            (remap("m.io/x", "h.io"), "m.io/xx/a:t", "h.io/x/a:t", false),
            (remap("m.io", "h.io"), "m.io/a:t", "m.io/a:t", false),
            (remap("m.io", "h.io"), tagged, tagged, true),
            (I::CosignDefault, tagged, h, true),
            (I::CosignDefault, tagged, tagged, true),
            (I::CosignDefault, tagged, "h.io/a:u", false),
            (I::CosignDefault, tagged, "h.io/b", false),
            (I::CosignDefault, &by_digest, "h/a", true),
            (I::MatchRepository, tagged, "", false),
            (I::MatchRepository, tagged, "h.io/A:t", false),
        ] {
            let outcome = identity.check(&image(asked), signed);
            assert_eq!(outcome.is_ok(), good, "{identity:?} {asked} {signed}");
        }
    }

    #[test]
    fn identity_without_a_tag_is_explained() {
        let error = SignedIdentity::MatchExact
            .check(&image("h.io/a:t"), "h.io/a")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("matchRepository") && error.contains("h.io/a:t"),
            "{error}"
        );
    }
}
