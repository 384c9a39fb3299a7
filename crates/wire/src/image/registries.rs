//! Where images are fetched from (containers-registries.conf(5), version 2): the part that a guest follows.
//!
//! `[[registry]]` with `prefix`, `location`, `blocked`, `insecure`, and its `[[registry.mirror]]` with `location` and
//! `insecure`. A prefix covers whole components of a name. [`Registries::ignored`] names the members that are not
//! followed, so that who reads a configuration can say so; a name without a registry is always one of docker.io.

use serde::Deserialize;

use super::reference::{Repository, normal_domain};
use super::{FormatError, bounded_json};
use crate::bounded_toml;

/// Where images are fetched from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Registries {
    #[serde(default, rename = "registry")]
    registries: Vec<Registry>,
    #[serde(flatten)]
    others: toml::Table,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Registry {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    insecure: bool,
    #[serde(default, rename = "mirror")]
    mirrors: Vec<Mirror>,
    #[serde(flatten)]
    others: toml::Table,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(flatten)]
    others: toml::Table,
}

/// A place to fetch an image from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The repository there.
    pub repository: Repository,
    /// Whether it may be spoken to without TLS.
    pub insecure: bool,
}

impl Registries {
    /// Parses a configuration: TOML, or the same as JSON, as a data hub's own configuration may have it.
    ///
    /// # Errors
    /// [`FormatError`] when it is another document, or a `[[registry]]` has neither prefix nor location.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        if text.len() > MAX_TEXT {
            return Err(FormatError::TooLong {
                what: WHAT,
                limit: MAX_TEXT,
            });
        }
        let mut parsed: Self = match text.trim_start().starts_with('{') {
            true => bounded_json(WHAT, text.as_bytes(), MAX_TEXT)?,
            false => bounded_toml::from_str(text)
                .map_err(|error| FormatError::invalid(WHAT, error.to_string()))?,
        };
        if parsed
            .registries
            .iter()
            .any(|registry| registry.key().is_empty())
        {
            return Err(FormatError::invalid(
                WHAT,
                "a [[registry]] has neither prefix nor location",
            ));
        }
        for registry in &mut parsed.registries {
            registry.prefix = Some(normal_key(registry.key()));
        }
        Ok(parsed)
    }

    /// The members that are not followed here, of any table.
    pub fn ignored(&self) -> Vec<String> {
        let registries = self.registries.iter();
        let tables = std::iter::once(&self.others).chain(registries.flat_map(|registry| {
            std::iter::once(&registry.others)
                .chain(registry.mirrors.iter().map(|mirror| &mirror.others))
        }));
        let mut names: Vec<String> = tables
            .flat_map(|table| table.keys())
            .filter(|name| !HARMLESS.contains(&name.as_str()))
            .map(|name| name.chars().take(100).collect())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// The places to fetch from, in the order to try them: mirrors first, the image's own place last.
    ///
    /// # Errors
    /// [`FormatError`] when the registry is blocked, or a location is no registry.
    pub fn places(&self, repository: &Repository) -> Result<Vec<Place>, FormatError> {
        let name = repository.to_string();
        let Some(registry) = self
            .registries
            .iter()
            .filter(|registry| registry.covers(repository))
            .max_by_key(|registry| registry.key().len())
        else {
            return Ok(vec![Place {
                repository: repository.clone(),
                insecure: false,
            }]);
        };
        if registry.blocked {
            return Err(FormatError::invalid(
                WHAT,
                format!("registry {} is blocked there", registry.key()),
            ));
        }
        let place = |location: &str, insecure: bool| {
            let repository = match registry.key().strip_prefix("*.") {
                Some(_) if location.is_empty() => repository.clone(),
                _ => {
                    let rest = name.get(registry.key().len()..).unwrap_or_default();
                    let place = match registry.key().starts_with("*.") {
                        // A wildcard covers the host; what it is replaced by is the location.
                        true => format!("{location}/{}", repository.path()),
                        false => format!("{location}{rest}"),
                    };
                    place.parse().map_err(|error| {
                        FormatError::invalid(
                            WHAT,
                            format!("the location {location:?} is no registry: {error}"),
                        )
                    })?
                }
            };
            Ok(Place {
                repository,
                insecure,
            })
        };
        let own = registry.location.as_deref().unwrap_or_else(|| {
            match registry.key().starts_with("*.") {
                true => "",
                false => registry.key(),
            }
        });
        registry
            .mirrors
            .iter()
            .map(|mirror| place(&mirror.location, mirror.insecure))
            .chain([place(own, registry.insecure)])
            .collect()
    }
}

/// A prefix as the names that it covers are spelt.
fn normal_key(key: &str) -> String {
    match key.split_once('/') {
        _ if key.starts_with("*.") => key.to_ascii_lowercase(),
        Some((domain, path)) => format!("{}/{path}", normal_domain(domain)),
        None => normal_domain(key),
    }
}

impl Registry {
    fn key(&self) -> &str {
        self.prefix
            .as_deref()
            .filter(|prefix| !prefix.is_empty())
            .or(self.location.as_deref())
            .unwrap_or_default()
    }

    fn covers(&self, repository: &Repository) -> bool {
        let key = self.key();
        if let Some(parent) = key.strip_prefix("*.") {
            return repository
                .host()
                .strip_suffix(parent)
                .is_some_and(|sub| sub.ends_with('.'));
        }
        let name = repository.to_string();
        name.strip_prefix(key)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

const WHAT: &str = "configuration of registries";
/// How names without a registry are looked up, which they never are here.
const HARMLESS: [&str; 2] = ["unqualified-search-registries", "short-name-mode"];
const MAX_TEXT: usize = 256 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn places(text: &str, image: &str) -> Result<Vec<(String, bool)>, FormatError> {
        let places = Registries::parse(text)?.places(&image.parse().unwrap())?;
        Ok(places
            .into_iter()
            .map(|place| (place.repository.to_string(), place.insecure))
            .collect())
    }

    #[test]
    fn upstream_configuration_is_followed() {
        let Some(bytes) = crate::fixtures::read(
            "guest/guest-components/image-rs/test_data/registry-configuration.toml",
        ) else {
            return;
        };
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            places(&text, "example.com/banned/x")
                .unwrap_err()
                .to_string()
                .contains("blocked")
        );
        assert_eq!(
            places(&text, "mirror-test.com/a/b").unwrap(),
            [
                ("127.0.0.1:5000/a/b".into(), true),
                ("mirror-test.com/a/b".into(), false)
            ]
        );
        assert_eq!(
            places(&text, "remapping-test.com/a").unwrap(),
            [("127.0.0.1:5000/a".into(), true)]
        );
        assert_eq!(
            places(&text, "127.0.0.1:5000/a").unwrap(),
            [("127.0.0.1:5000/a".into(), true)]
        );
        assert_eq!(
            places(&text, "busybox").unwrap(),
            [("docker.io/library/busybox".into(), false)]
        );
    }

    #[test]
    fn prefix_covers_no_namesake_and_no_substring() {
        let text = "[[registry]]\nprefix = \"example.com/ban\"\nblocked = true\n";
        assert!(places(text, "example.com/ban/x").is_err());
        // Another spelling is no way around it, neither of the image nor of the prefix.
        for same in ["EXAMPLE.com/ban/x", "example.com:443/ban/x"] {
            assert!(places(text, same).is_err(), "{same}");
        }
        for prefix in ["Example.com/ban", "example.com:443/ban", "*.Com"] {
            let text = text.replace("example.com/ban", prefix);
            assert!(places(&text, "example.com/ban/x").is_err(), "{prefix}");
        }
        for other in [
            "example.com/banned",
            "x.example.com/ban",
            "example.com:5000/ban",
            "y/example.com/ban",
        ] {
            assert!(places(text, other).is_ok(), "{other}");
        }
    }

    #[test]
    fn narrowest_prefix_counts() {
        let text = "[[registry]]\nlocation = \"a.b\"\nblocked = true\n[[registry]]\nprefix = \"a.b/c\"\nlocation = \"d.e/f\"\n[[registry]]\nprefix = \"*.g.h\"\nlocation = \"i.j\"\n";
        assert_eq!(
            places(text, "a.b/c/x").unwrap(),
            [("d.e/f/x".into(), false)]
        );
        assert!(places(text, "a.b/x").is_err());
        assert_eq!(
            places(text, "k.g.h/x/y").unwrap(),
            [("i.j/x/y".into(), false)]
        );
        assert_eq!(places(text, "g.h/x").unwrap(), [("g.h/x".into(), false)]);
    }

    #[test]
    fn member_that_is_not_followed_is_named() {
        let ignored = |text: &str| Registries::parse(text).unwrap().ignored();
        let text = "short-name-mode = \"x\"\n[[registry]]\nlocation = \"a.b\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"c.d\"\npull-from-mirror = \"all\"\n";
        assert_eq!(ignored(text), ["mirror-by-digest-only", "pull-from-mirror"]);
        assert_eq!(
            ignored("[registries.search]\nregistries = []\n"),
            ["registries"]
        );
        assert!(Registries::parse("[[registry]]\nblocked = true\n").is_err());
    }

    #[test]
    fn configuration_as_json_is_the_same() {
        let json = r#"{"registry":[{"prefix":"a.b","blocked":true}]}"#;
        let toml = "[[registry]]\nprefix = \"a.b\"\nblocked = true\n";
        assert_eq!(
            Registries::parse(json).unwrap(),
            Registries::parse(toml).unwrap()
        );
    }
}
