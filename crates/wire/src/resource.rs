//! Names of resources: the three-part path that a broker stores under, and the `kbs:` URI that guests use.
//!
//! Trustee accepts exactly `repo/type/tag`, each part `[A-Za-z0-9_-][A-Za-z0-9_.-]*`; so no part can be `.`
//! or `..`, empty, or percent-encoded.

use std::cmp::{Ordering, Reverse};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const MAX_PART: usize = 128;
const MAX_URI: usize = 2048;

/// The path of a resource: repository, type and tag.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourcePath {
    repo: String,
    r#type: String,
    tag: String,
}

impl ResourcePath {
    /// Checks the three parts.
    ///
    /// # Errors
    /// [`ResourceError`] naming the part that is empty, too long or holds a forbidden character.
    pub fn new(repo: &str, r#type: &str, tag: &str) -> Result<Self, ResourceError> {
        for (name, part) in [("repository", repo), ("type", r#type), ("tag", tag)] {
            check_part(name, part)?;
        }
        Ok(Self {
            repo: repo.to_owned(),
            r#type: r#type.to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// The repository.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The type.
    pub fn r#type(&self) -> &str {
        &self.r#type
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The URI a guest asks for.
    pub fn to_uri(&self) -> String {
        format!("kbs:///{self}")
    }
}

impl fmt::Display for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.repo, self.r#type, self.tag)
    }
}

impl FromStr for ResourcePath {
    type Err = ResourceError;

    fn from_str(path: &str) -> Result<Self, ResourceError> {
        let mut parts = path.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(repo), Some(r#type), Some(tag), None) => Self::new(repo, r#type, tag),
            _ => Err(ResourceError::Parts(path.split('/').count())),
        }
    }
}

impl TryFrom<String> for ResourcePath {
    type Error = ResourceError;

    fn try_from(path: String) -> Result<Self, ResourceError> {
        path.parse()
    }
}

impl From<ResourcePath> for String {
    fn from(path: ResourcePath) -> Self {
        path.to_string()
    }
}

/// Which resources a rule is for: one path, or every path that begins as the pattern does, as `default/fraud-*`.
///
/// A `*` covers everything behind it, so only `/*` may follow it: `default/fraud-*/*` is `default/fraud-*`, and `*` is
/// every resource. Patterns have an order: the narrower before the wider.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourcePattern {
    stem: String,
    open: bool,
}

impl ResourcePattern {
    /// Whether the path is one of those.
    pub fn covers(&self, path: &ResourcePath) -> bool {
        let path = path.to_string();
        match self.open {
            true => path.starts_with(&self.stem),
            false => path == self.stem,
        }
    }

    /// What every path begins with; the whole path, when the pattern is one.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// Whether anything may follow the stem.
    pub fn is_open(&self) -> bool {
        self.open
    }
}

impl Ord for ResourcePattern {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |pattern: &Self| (pattern.open, Reverse(pattern.stem.len()));
        rank(self)
            .cmp(&rank(other))
            .then_with(|| self.stem.cmp(&other.stem))
    }
}

impl PartialOrd for ResourcePattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for ResourcePattern {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let Some((stem, rest)) = text.split_once('*') else {
            let path: ResourcePath = text.parse()?;
            return Ok(Self {
                stem: path.to_string(),
                open: false,
            });
        };
        let parts = stem.split('/').count() + rest.matches('/').count();
        if parts > 3 {
            return Err(ResourceError::Parts(parts));
        }
        if !rest.split('/').skip(1).all(|part| part == "*")
            || !(rest.is_empty() || rest.starts_with('/'))
        {
            return Err(ResourceError::Star);
        }
        let names = ["repository", "type", "tag"];
        let (whole, last) = stem
            .rsplit_once('/')
            .map_or((None, stem), |(whole, last)| (Some(whole), last));
        let mut names = names.into_iter();
        for (part, name) in whole
            .into_iter()
            .flat_map(|whole| whole.split('/'))
            .zip(&mut names)
        {
            check_part(name, part)?;
        }
        if !last.is_empty() {
            check_part(names.next().unwrap_or("tag"), last)?;
        }
        Ok(Self {
            stem: stem.to_owned(),
            open: true,
        })
    }
}

impl fmt::Display for ResourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stem, if self.open { "*" } else { "" })
    }
}

impl TryFrom<String> for ResourcePattern {
    type Error = ResourceError;

    fn try_from(text: String) -> Result<Self, ResourceError> {
        text.parse()
    }
}

impl From<ResourcePattern> for String {
    fn from(pattern: ResourcePattern) -> Self {
        pattern.to_string()
    }
}

fn check_part(name: &'static str, part: &str) -> Result<(), ResourceError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match part.as_bytes() {
        [] => Err(ResourceError::Empty(name)),
        bytes if bytes.len() > MAX_PART => Err(ResourceError::Long {
            part: name,
            length: bytes.len(),
        }),
        [first, rest @ ..] if allowed(*first) && rest.iter().all(|b| allowed(*b) || *b == b'.') => {
            Ok(())
        }
        _ => Err(ResourceError::Character(name)),
    }
}

/// A guest's reference to a resource: `kbs[+plugin]://[host]/seg/seg/…[?query]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResourceUri {
    plugin: String,
    host: String,
    segments: Vec<String>,
    query: Option<String>,
}

impl ResourceUri {
    /// The plugin: `resource` unless the scheme names another.
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// The broker the URI names, or `""`. Guests of this release have one broker and refuse another host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path, part by part.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// What follows the question mark.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The resource this URI names.
    ///
    /// # Errors
    /// [`ResourceError`] when the plugin is not `resource` or the path has not three parts.
    pub fn to_resource_path(&self) -> Result<ResourcePath, ResourceError> {
        if self.plugin != "resource" {
            return Err(ResourceError::Plugin(self.plugin.clone()));
        }
        match self.segments.as_slice() {
            [repo, r#type, tag] => ResourcePath::new(repo, r#type, tag),
            other => Err(ResourceError::Parts(other.len())),
        }
    }
}

impl FromStr for ResourceUri {
    type Err = ResourceError;

    fn from_str(uri: &str) -> Result<Self, ResourceError> {
        if uri.len() > MAX_URI {
            return Err(ResourceError::Long {
                part: "URI",
                length: uri.len(),
            });
        }
        let (scheme, rest) = uri.split_once("://").ok_or(ResourceError::Scheme)?;
        let plugin = match scheme.split_once('+') {
            None if scheme == "kbs" => "resource",
            Some(("kbs", "")) => return Err(ResourceError::NoPlugin),
            Some(("kbs", plugin)) => plugin,
            _ => return Err(ResourceError::Scheme),
        };
        check_part("plugin", plugin)?;
        let (before_query, query) = match rest.split_once('?') {
            None => (rest, None),
            Some((path, query)) => (path, Some(query.to_owned())),
        };
        let (host, path) = before_query
            .split_once('/')
            .ok_or(ResourceError::Empty("path"))?;
        if !host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.:[]_".contains(&b))
        {
            return Err(ResourceError::Character("host"));
        }
        let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        segments
            .iter()
            .try_for_each(|segment| check_part("path segment", segment))?;
        if query
            .as_deref()
            .is_some_and(|q| q.bytes().any(|b| !b.is_ascii_graphic() || b == b'#'))
        {
            return Err(ResourceError::Character("query"));
        }
        Ok(Self {
            plugin: plugin.to_owned(),
            host: host.to_owned(),
            segments,
            query,
        })
    }
}

impl fmt::Display for ResourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("kbs")?;
        if self.plugin != "resource" {
            write!(f, "+{}", self.plugin)?;
        }
        write!(f, "://{}/{}", self.host, self.segments.join("/"))?;
        match &self.query {
            None => Ok(()),
            Some(query) => write!(f, "?{query}"),
        }
    }
}

impl From<ResourcePath> for ResourceUri {
    fn from(path: ResourcePath) -> Self {
        Self {
            plugin: "resource".to_owned(),
            host: String::new(),
            segments: vec![path.repo, path.r#type, path.tag],
            query: None,
        }
    }
}

/// Why a name is not one of a resource.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// A part holds a character that is not allowed there.
    #[error("the {0} may hold letters, digits, '_' and '-', and '.' except at its start")]
    Character(&'static str),
    /// A part is empty.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// A part is too long.
    #[error("the {part} has {length} characters, more than a name may have")]
    Long {
        /// Which part.
        part: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// The scheme ends in `+`.
    #[error("the scheme kbs+ requires a plugin name, as in kbs+pkcs11:///...")]
    NoPlugin,
    /// Not three parts.
    #[error("a resource is named by three parts, repository/type/tag, but this name has {0}")]
    Parts(usize),
    /// The URI is for another plugin.
    #[error("plugin {0:?} is not served: only kbs:///repository/type/tag is")]
    Plugin(String),
    /// Something follows the `*` of a pattern.
    #[error("a * covers everything behind it, so only /* may follow it, as in default/fraud-*/*")]
    Star,
    /// Another scheme.
    #[error("the scheme must be kbs, as in kbs:///repository/type/tag")]
    Scheme,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pattern_covers_what_begins_as_it_does() {
        let pattern = |text: &str| text.parse::<ResourcePattern>().unwrap();
        for (text, shown, covered, other) in [
            ("*", "*", "a/b/c", None),
            ("*/*/*", "*", "a/b/c", None),
            (
                "default/*",
                "default/*",
                "default/a/b",
                Some("defaults/a/b"),
            ),
            ("default/*/*", "default/*", "default/a/b", Some("other/a/b")),
            (
                "default/fraud-*",
                "default/fraud-*",
                "default/fraud-model/x",
                Some("default/fraud/x"),
            ),
            (
                "default/fraud-*/*",
                "default/fraud-*",
                "default/fraud-x/y",
                Some("default/frau/y"),
            ),
            (
                "default/fraud/*",
                "default/fraud/*",
                "default/fraud/y",
                Some("default/fraud-x/y"),
            ),
            (
                "default/fraud/key-*",
                "default/fraud/key-*",
                "default/fraud/key-1",
                Some("default/fraud/key"),
            ),
            (
                "default/fraud/key",
                "default/fraud/key",
                "default/fraud/key",
                Some("default/fraud/key2"),
            ),
        ] {
            let pattern = pattern(text);
            assert_eq!(pattern.to_string(), shown);
            assert!(pattern.covers(&covered.parse().unwrap()), "{text}");
            if let Some(other) = other {
                assert!(!pattern.covers(&other.parse().unwrap()), "{text}");
            }
        }
    }

    #[test]
    fn narrower_pattern_comes_first() {
        let mut patterns: Vec<ResourcePattern> = ["*", "a/b*", "a/*", "a/b/c", "a/b/*"]
            .into_iter()
            .map(|text| text.parse().unwrap())
            .collect();
        patterns.sort();
        let shown: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a/b/c", "a/b/*", "a/b*", "a/*", "*"]);
    }

    #[test]
    fn pattern_with_anything_behind_its_star_is_refused() {
        for text in [
            "", "a", "a/b", "a/b/c/d", "a/*/c", "a/*b", "**", "a/**", "*/b/c", "a/b/c/*",
            "a/*/*/*", "../*", "/*", "a//*", ".a*", "a/.b*", "a b/*", "a/b/c?",
        ] {
            assert!(text.parse::<ResourcePattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn upstream_uri_vectors() {
        let Some(vectors) = crate::fixtures::json("guest/vectors/resource-uri.json") else {
            return;
        };
        for case in vectors["valid"].as_array().unwrap() {
            let text = case["uri"].as_str().unwrap();
            let uri: ResourceUri = text.parse().unwrap();
            assert_eq!(uri.plugin(), case["plugin"]);
            assert_eq!(uri.host(), case["kbs_address"]);
            assert_eq!(serde_json::to_value(uri.segments()).unwrap(), case["path"]);
            assert_eq!(uri.query(), case["query"].as_str());
            assert_eq!(uri.to_string(), text);
        }
        for pair in vectors["equivalent"].as_array().unwrap() {
            let parse = |i: usize| pair[i].as_str().unwrap().parse::<ResourceUri>().unwrap();
            assert_eq!(parse(0), parse(1));
        }
        for (text, canonical) in vectors["canonical"].as_object().unwrap() {
            assert_eq!(
                text.parse::<ResourceUri>().unwrap().to_string(),
                canonical.as_str().unwrap()
            );
        }
        for case in vectors["invalid"].as_array().unwrap() {
            let error = case["uri"]
                .as_str()
                .unwrap()
                .parse::<ResourceUri>()
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(case["error_contains"].as_str().unwrap()),
                "{error}"
            );
        }
    }

    #[test]
    fn path_round_trips_to_uri() {
        let path: ResourcePath = "default/fraud-dataset/dataset_key".parse().unwrap();
        assert_eq!(path.to_uri(), "kbs:///default/fraud-dataset/dataset_key");
        assert_eq!(
            path.to_uri()
                .parse::<ResourceUri>()
                .unwrap()
                .to_resource_path()
                .unwrap(),
            path
        );
    }

    #[test]
    fn traversal_and_encoded_names_are_refused() {
        for bad in [
            "a/../c",
            "a/./c",
            "a//c",
            "a/b",
            "a/b/c/d",
            "a/b/%2e%2e",
            "a/b/.c",
            "/b/c",
            "a/b/c ",
            "a/b/c\n",
            "a/b/é",
            "a/b/c\\d",
            "",
        ] {
            assert!(bad.parse::<ResourcePath>().is_err(), "{bad:?}");
            assert!(
                format!("kbs:///{bad}")
                    .parse::<ResourceUri>()
                    .and_then(|u| u.to_resource_path())
                    .is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn overlong_part_is_refused() {
        assert!(matches!(
            format!("a/b/{}", "c".repeat(129)).parse::<ResourcePath>(),
            Err(ResourceError::Long {
                part: "tag",
                length: 129
            })
        ));
    }

    #[test]
    fn other_plugin_is_no_resource() {
        let uri: ResourceUri = "kbs+pkcs11:///a/b/c".parse().unwrap();
        assert_eq!(
            uri.to_resource_path(),
            Err(ResourceError::Plugin("pkcs11".to_owned()))
        );
    }
}
