//! Names of resources: the three-part path that a broker stores under, and the `kbs:` URI that guests use.
//!
//! Trustee accepts exactly `repo/type/tag`, each part `[A-Za-z0-9_-][A-Za-z0-9_.-]*`; so no part can be `.`
//! or `..`, empty, or percent-encoded.

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
    /// Another scheme.
    #[error("the scheme must be kbs, as in kbs:///repository/type/tag")]
    Scheme,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
