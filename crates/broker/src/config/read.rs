//! Reads a configuration from its file and from the environment, and says what is wrong with it: all of it where that
//! can be known, each with its line and table.
//!
//! Which keys there are is known to serde alone: what it says of one that it does not know is what is said here.

use std::ops::Range;

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::Config;

/// Settings from the environment: `STRONGROOM_BROKER__LIMITS__BODY_BYTES=4096` is `body_bytes = 4096` in `[limits]`.
///
/// A value is TOML; what does not look like a string, a list or a table and is no TOML is taken for the string itself,
/// so that `STRONGROOM_BROKER__LISTEN=0.0.0.0:8080` needs no quotes.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<Override>);

#[derive(Clone, Debug)]
struct Override {
    variable: String,
    keys: Vec<String>,
    value: String,
}

impl Overrides {
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// Those of this process's environment.
    ///
    /// # Errors
    /// As [`Self::from_variables`].
    pub fn from_environment() -> Result<Self, String> {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            Some((name, value.to_string_lossy().into_owned()))
        });
        Self::from_variables(variables)
    }

    /// Those among these variables.
    ///
    /// # Errors
    /// What is wrong with the name of one that is meant for a broker.
    pub fn from_variables(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, String> {
        let mut overrides = Vec::new();
        for (variable, value) in variables {
            if let Some(rest) = variable.strip_prefix(PREFIX) {
                let keys: Vec<String> =
                    rest.split(SEPARATOR).map(str::to_ascii_lowercase).collect();
                if keys.iter().any(String::is_empty) {
                    return Err(format!(
                        "the environment variable {variable} names no setting: write {PREFIX}KEY or \
                         {PREFIX}TABLE{SEPARATOR}KEY"
                    ));
                }
                overrides.push(Override {
                    variable,
                    keys,
                    value,
                });
            } else if let Some(rest) = variable.strip_prefix(NEARLY)
                && known_keys().contains(&rest.to_ascii_lowercase())
            {
                return Err(format!(
                    "the environment variable {variable} sets nothing, did you mean {PREFIX}{rest}?"
                ));
            }
        }
        // The order of an environment says nothing.
        overrides.sort_by(|a, b| a.keys.cmp(&b.keys));
        Ok(Self(overrides))
    }
}

/// A setting that comes from the environment.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Overridden {
    /// The variable.
    pub variable: String,
    /// The setting: `limits.body_bytes`.
    pub key: String,
}

/// Reads the text of a configuration file and what overrides it.
pub(super) fn read(text: &str, overrides: &Overrides) -> Result<Config, Vec<String>> {
    let sources = Sources::new(text, overrides);
    let mut document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map(|span| sources.line(&span));
        let said = error.message().trim_end();
        vec![match at {
            Some(line) => format!("line {line}: {}", said.replace('\n', ": ")),
            None => said.to_owned(),
        }]
    })?;
    let mut problems = Vec::new();
    for (one, padded) in overrides.0.iter().zip(&sources.padded) {
        let put = value_of(one, padded).and_then(|(key_span, value)| {
            let place = document.get_mut();
            put(place, one, &one.keys, key_span, value)
        });
        problems.extend(put.err());
    }
    let mut removed: Vec<Vec<Step>> = Vec::new();
    while problems.len() < MAX_PROBLEMS {
        let error = match Config::deserialize(Deserializer::from(document.clone())) {
            Ok(mut config) if problems.is_empty() => {
                config.overridden = overrides.0.iter().map(Override::overridden).collect();
                return Ok(config);
            }
            Ok(config) => {
                // Unknown keys do not hide what is wrong with the known ones.
                problems.extend(config.problems());
                break;
            }
            Err(error) => error,
        };
        let path = match error.span() {
            // What is missing outside of any table is said of the whole.
            Some(span) if span != document.span() => path_to(document.get_ref(), span.start),
            _ => Vec::new(),
        };
        let missing = error.message().starts_with("missing field");
        if !(missing && is_below(&removed, &path)) {
            problems.push(sources.said(&error, &path, missing));
        }
        // What is at fault is taken away, so that what is wrong besides shows too.
        if missing || !remove(document.get_mut(), &path) {
            break;
        }
        removed.push(path);
    }
    Err(problems)
}

impl Override {
    fn overridden(&self) -> Overridden {
        Overridden {
            variable: self.variable.clone(),
            key: self.keys.join("."),
        }
    }
}

/// Where each piece of a configuration comes from. The file comes first; each override lies behind it and behind the
/// one before, as if all were one text: so a place in it says which of them is at fault.
struct Sources<'a> {
    text: &'a str,
    overrides: &'a Overrides,
    /// Each override as a document of its own, moved to its place by empty lines.
    padded: Vec<String>,
}

impl<'a> Sources<'a> {
    fn new(text: &'a str, overrides: &'a Overrides) -> Self {
        let mut begins = text.len();
        let padded = overrides
            .0
            .iter()
            .map(|one| {
                let mut padded = "\n".repeat(begins.saturating_add(1));
                padded.push_str("value = ");
                padded.push_str(&one.value);
                begins = padded.len();
                padded
            })
            .collect();
        Self {
            text,
            overrides,
            padded,
        }
    }

    fn override_at(&self, place: usize) -> Option<&Override> {
        if place <= self.text.len() {
            return None;
        }
        let ends = self.padded.iter().map(String::len);
        let at = ends.into_iter().position(|end| place <= end)?;
        self.overrides.0.get(at)
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start);
        before.map_or(0, |text| text.iter().filter(|b| **b == b'\n').count()) + 1
    }

    fn said(&self, error: &toml::de::Error, path: &[Step], missing: bool) -> String {
        let message = error.message().trim_end();
        let unknown = Unknown::parse(message);
        let place = error.span().map_or(0, |span| span.start);
        if let Some(one) = self.override_at(place) {
            let said = match &unknown {
                Some(unknown) => unknown.said(|near| {
                    let mut keys = one.keys.clone();
                    if let Some(last) = keys.iter_mut().find(|key| **key == unknown.key) {
                        near.clone_into(last);
                    }
                    variable(&keys)
                }),
                None => message.to_owned(),
            };
            return format!("the environment variable {}: {said}", one.variable);
        }
        let line = error.span().map_or(1, |span| self.line(&span));
        let (table, key) = match path {
            _ if missing => (path, None),
            [table @ .., Step::Key(key)] => (table, Some(key)),
            table => (table, None),
        };
        let table = match table_name(table) {
            name if name.is_empty() => String::new(),
            name => format!(", in [{name}]"),
        };
        match (unknown, key) {
            (Some(unknown), _) => {
                format!("line {line}{table}: {}", unknown.said(str::to_owned))
            }
            (None, Some(key)) => format!("line {line}{table}: {key}: {message}"),
            // The root has no line of its own.
            (None, None) if table.is_empty() => message.to_owned(),
            (None, None) => format!("line {line}{table}: {message}"),
        }
    }
}

/// What serde says of a key that it does not know.
struct Unknown {
    key: String,
    known: Vec<String>,
}

impl Unknown {
    /// ``unknown field `a`, expected `b` or `c` ``, or ``expected one of `b`, `c` ``, or `there are no fields`.
    fn parse(message: &str) -> Option<Self> {
        let rest = message.strip_prefix("unknown field `")?;
        let (key, expected) = rest
            .rsplit_once("`, expected ")
            .or_else(|| rest.rsplit_once("`, there are no fields"))?;
        let known = expected.split('`').skip(1).step_by(2).map(str::to_owned);
        Some(Self {
            key: key.to_owned(),
            known: known.collect(),
        })
    }

    fn nearest(&self) -> Option<&str> {
        let wanted = self.key.to_ascii_lowercase().replace('-', "_");
        let distance = |known: &&String| strsim::osa_distance(&wanted, known);
        let nearest = self.known.iter().min_by_key(distance)?;
        let most = (wanted.chars().count() / 2).clamp(1, 4);
        let part = nearest.contains(&wanted) || wanted.contains(nearest.as_str());
        (distance(&nearest) <= most || (part && wanted.len() > 2)).then_some(nearest)
    }

    fn said(&self, spelled: impl Fn(&str) -> String) -> String {
        let key = &self.key;
        match self.nearest() {
            Some(near) => format!("unknown key `{key}`, did you mean `{}`?", spelled(near)),
            None => format!(
                "unknown key `{key}`; known here are {}",
                self.known.join(", ")
            ),
        }
    }
}

/// The keys outside of any table.
fn known_keys() -> Vec<String> {
    let unknown = "'' = 0";
    let refused = toml::from_str::<Config>(unknown).err();
    let known = refused.and_then(|error| Unknown::parse(error.message()));
    known.map(|unknown| unknown.known).unwrap_or_default()
}

fn variable(keys: &[String]) -> String {
    format!("{PREFIX}{}", keys.join(SEPARATOR).to_ascii_uppercase())
}

/// One step from a table to what is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

fn table_name(path: &[Step]) -> String {
    let keys = path.iter().filter_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Index(_) => None,
    });
    keys.collect::<Vec<_>>().join(".")
}

/// The way to what stands at a place of the text: a key, or the innermost thing around it.
fn path_to(table: &DeTable<'_>, place: usize) -> Vec<Step> {
    for (key, value) in table {
        let step = || Step::Key(key.get_ref().clone().into_owned());
        if key.span().contains(&place) {
            return vec![step()];
        }
        if value.span().contains(&place) || holds(value.get_ref(), place) {
            let mut path = vec![step()];
            path.extend(within(value.get_ref(), place));
            return path;
        }
    }
    Vec::new()
}

fn within(value: &DeValue<'_>, place: usize) -> Vec<Step> {
    match value {
        DeValue::Table(table) => path_to(table, place),
        DeValue::Array(array) => {
            let at = array.iter().position(|element| {
                element.span().contains(&place) || holds(element.get_ref(), place)
            });
            at.and_then(|at| Some((at, array.get(at)?)))
                .map(|(at, element)| {
                    let mut path = vec![Step::Index(at)];
                    path.extend(within(element.get_ref(), place));
                    path
                })
                .unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// Whether a place is in a table or list though not in its own span, which for a table is that of its header.
fn holds(value: &DeValue<'_>, place: usize) -> bool {
    match value {
        DeValue::Table(table) => !path_to(table, place).is_empty(),
        DeValue::Array(_) => !within(value, place).is_empty(),
        _ => false,
    }
}

/// Whether what is missing was taken away here.
fn is_below(removed: &[Vec<Step>], table: &[Step]) -> bool {
    removed.iter().any(|path| path.starts_with(table))
}

fn remove(table: &mut DeTable<'_>, path: &[Step]) -> bool {
    match path {
        [Step::Key(key)] => table.remove(key.as_str()).is_some(),
        [Step::Key(key), rest @ ..] => match table.get_mut(key.as_str()).map(Spanned::get_mut) {
            Some(DeValue::Table(table)) => remove(table, rest),
            // What is in a list goes with the whole list: no other way leads into it.
            Some(_) => table.remove(key.as_str()).is_some(),
            None => false,
        },
        _ => false,
    }
}

/// The value of an override and the place of its name.
fn value_of<'a>(
    one: &'a Override,
    padded: &'a str,
) -> Result<(Range<usize>, Spanned<DeValue<'a>>), String> {
    let begins = padded.len() - one.value.len();
    let key_span = begins.saturating_sub(1)..begins;
    if let Ok(document) = DeTable::parse(padded)
        && document.get_ref().len() == 1
        && let Some((_, value)) = document.into_inner().into_iter().next()
    {
        return Ok((key_span, value));
    }
    let looks_like_toml = one.value.trim_start().starts_with(['"', '\'', '[', '{']);
    if looks_like_toml || one.value.chars().any(char::is_control) {
        // The value itself is not repeated: it may be a password.
        return Err(format!(
            "the environment variable {} holds no TOML value",
            one.variable
        ));
    }
    let string = DeValue::String(one.value.as_str().into());
    Ok((key_span, Spanned::new(begins..padded.len(), string)))
}

fn put<'a>(
    table: &mut DeTable<'a>,
    one: &'a Override,
    keys: &'a [String],
    key_span: Range<usize>,
    value: Spanned<DeValue<'a>>,
) -> Result<(), String> {
    let Some((key, rest)) = keys.split_first() else {
        return Ok(());
    };
    if rest.is_empty() {
        // The old key would keep its place in the file.
        table.remove(key.as_str());
        table.insert(Spanned::new(key_span, key.as_str().into()), value);
        return Ok(());
    }
    if !table.contains_key(key.as_str()) {
        let empty = Spanned::new(key_span.clone(), DeValue::Table(DeTable::new()));
        let key = Spanned::new(key_span.clone(), key.as_str().into());
        table.insert(key, empty);
    }
    match table.get_mut(key.as_str()).map(Spanned::get_mut) {
        Some(DeValue::Table(table)) => put(table, one, rest, key_span, value),
        _ => Err(format!(
            "the environment variable {} sets something in {key}, which is no table",
            one.variable
        )),
    }
}

const PREFIX: &str = "STRONGROOM_BROKER__";
/// A prefix that is mistaken for it. Other variables have it too.
const NEARLY: &str = "STRONGROOM_BROKER_";
const SEPARATOR: &str = "__";
const MAX_PROBLEMS: usize = 32;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MINIMAL: &str = "listen = \"127.0.0.1:8080\"\n\
        [tls]\ncertificate = \"tls.crt\"\nprivate_key = \"tls.key\"\n\
        [store]\npath = \"s.sqlite\"\nkey_file = \"s.key\"\n\
        [token]\nsigning_key = \"t.key\"\ncertificate_chain = \"t.crt\"\n";

    fn overrides(variables: &[(&str, &str)]) -> Overrides {
        let variables = variables.iter();
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Overrides::from_variables(variables).unwrap()
    }

    fn said(text: &str) -> Vec<String> {
        read(text, &Overrides::none()).unwrap_err()
    }

    fn said_of(variables: &[(&str, &str)]) -> Vec<String> {
        read(MINIMAL, &overrides(variables)).unwrap_err()
    }

    #[test]
    fn unknown_key_is_named_without_its_place_or_the_one_meant() {
        for (text, expected) in [
            (
                MINIMAL.replace("listen", "lissten"),
                "line 1: unknown key `lissten`, did you mean `listen`?",
            ),
            (
                format!("{MINIMAL}# more\n[limits]\nbody_byte = 1\n"),
                "line 13, in [limits]: unknown key `body_byte`, did you mean `body_bytes`?",
            ),
            (
                format!("{MINIMAL}limits.body-bytes = 1\n"),
                "line 11, in [token]: unknown key `limits`; known here are signing_key, certificate_chain, \
                 lifetime_seconds, issuer",
            ),
            (
                format!("{MINIMAL}[sessions]\nmax = 1\n"),
                "line 11: unknown key `sessions`, did you mean `session`?",
            ),
            (
                format!("{MINIMAL}[[admin]]\nname = \"a\"\npublic_key = \"\"\nroles = \"admin\"\n"),
                "line 14, in [admin]: unknown key `roles`, did you mean `role`?",
            ),
            (
                format!("{MINIMAL}[collateral]\ninsecure_http_ = true"),
                "line 12, in [collateral]: unknown key `insecure_http_`, did you mean `insecure_http`?",
            ),
            (
                format!("{MINIMAL}[limits]\n\"a`, expected `b\" = true"),
                "line 12, in [limits]: unknown key `a`, expected `b`; known here are body_bytes, header_seconds, \
                 request_seconds, header_bytes, headers, connections, attestations_in_flight, attempts_per_minute, \
                 reads_per_minute, connections_per_source, bodies_bytes, trusted_proxies",
            ),
        ] {
            assert_eq!(said(&text)[0], expected);
        }
    }

    #[test]
    fn first_problem_hides_the_others() {
        let text = MINIMAL
            .replace("listen", "lissten")
            .replace("path =", "pahh =")
            + "[limits]\nbody_byte = 1\nheaders = \"many\"\nconnections = 0\n[session]\nmax = true\n";
        let said = said(&text);
        let expected = [
            "line 1: unknown key `lissten`",
            "line 12, in [limits]: unknown key `body_byte`",
            "line 13, in [limits]: headers: invalid type",
            "line 16, in [session]: max: invalid type",
            "line 6, in [store]: unknown key `pahh`",
        ];
        for expected in expected {
            assert!(
                said.iter().any(|said| said.starts_with(expected)),
                "{expected}: {said:#?}"
            );
        }
        let text = format!("{MINIMAL}[limits]\nbody_byte = 1\nconnections = 0\nheaders = 0\n");
        let said = self::said(&text);
        assert_eq!(said.len(), 3, "{said:#?}");
        assert!(
            said.iter()
                .any(|said| said.contains("limits.connections = 0 is out of range"))
        );
    }

    #[test]
    fn missing_key_is_said_of_the_wrong_table() {
        let text = MINIMAL.replace("private_key = \"tls.key\"\n", "");
        assert_eq!(
            said(&text),
            ["line 2, in [tls]: missing field `private_key`"]
        );
        let text = MINIMAL.replace("listen = \"127.0.0.1:8080\"\n", "");
        assert_eq!(said(&text), ["missing field `listen`"]);
    }

    #[test]
    fn text_that_is_no_toml_is_said_without_its_line() {
        let said = said(&format!("{MINIMAL}[limits\nmax = 1"));
        assert!(said[0].starts_with("line 11: "), "{said:?}");
    }

    #[test]
    fn value_of_the_environment_does_not_win() {
        let variables = [
            ("STRONGROOM_BROKER__LISTEN", "0.0.0.0:1234"),
            ("STRONGROOM_BROKER__LIMITS__BODY_BYTES", "4096"),
            ("STRONGROOM_BROKER__TLS__CERTIFICATE", "\"other.crt\""),
            ("STRONGROOM_BROKER__COLLATERAL__OFFLINE", "true"),
            ("STRONGROOM_BROKER__LIMITS__TRUSTED_PROXIES", "['10.0.0.7']"),
            (
                "STRONGROOM_BROKER__ADMIN",
                "[{name = 'a', public_key = 'x'}]",
            ),
            ("STRONGROOM_BROKER_CERT", "of a client"),
            ("PATH", "/bin"),
        ];
        let config = read(MINIMAL, &overrides(&variables)).unwrap();
        assert_eq!(config.listen, "0.0.0.0:1234".parse().unwrap());
        assert_eq!(config.limits.body_bytes, 4096);
        assert_eq!(
            config.tls.as_ref().unwrap().certificate.to_str(),
            Some("other.crt")
        );
        assert_eq!(
            config.tls.as_ref().unwrap().private_key.to_str(),
            Some("tls.key")
        );
        assert!(config.collateral.offline);
        assert_eq!(config.limits.trusted_proxies.len(), 1);
        assert_eq!(config.admin[0].name, "a");
        let keys: Vec<&str> = config
            .overridden()
            .iter()
            .map(|it| it.key.as_str())
            .collect();
        assert_eq!(
            keys,
            [
                "admin",
                "collateral.offline",
                "limits.body_bytes",
                "limits.trusted_proxies",
                "listen",
                "tls.certificate"
            ]
        );
    }

    #[test]
    fn unknown_variable_is_passed_over() {
        for (variable, expected) in [
            (
                "LISSTEN",
                "unknown key `lissten`, did you mean `STRONGROOM_BROKER__LISTEN`?",
            ),
            (
                "LIMITS__BODY_BYTE",
                "unknown key `body_byte`, did you mean `STRONGROOM_BROKER__LIMITS__BODY_BYTES`?",
            ),
            (
                "LIMIT__BODY_BYTES",
                "unknown key `limit`, did you mean `STRONGROOM_BROKER__LIMITS__BODY_BYTES`?",
            ),
        ] {
            let variable = format!("STRONGROOM_BROKER__{variable}");
            let said = said_of(&[(&variable, "1")]);
            assert_eq!(
                said,
                [format!("the environment variable {variable}: {expected}")]
            );
        }
    }

    #[test]
    fn two_variables_are_mistaken_for_one_another() {
        let said = said_of(&[
            ("STRONGROOM_BROKER__LIMITS__HEADERS", "\"many\""),
            ("STRONGROOM_BROKER__LIMITS__CONNECTIONS", "5"),
            ("STRONGROOM_BROKER__SESSION__MAX", "false"),
        ]);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].starts_with(
                "the environment variable STRONGROOM_BROKER__LIMITS__HEADERS: invalid"
            )
        );
        assert!(
            said[1]
                .starts_with("the environment variable STRONGROOM_BROKER__SESSION__MAX: invalid")
        );
    }

    #[test]
    fn value_of_a_variable_smuggles_in_another_setting() {
        for value in ["1\ninsecure_http = true", "\"a", "[1", "{"] {
            let said = said_of(&[("STRONGROOM_BROKER__LIMITS__HEADERS", value)]);
            assert_eq!(said.len(), 1, "{value}");
            assert!(said[0].contains("holds no TOML value"), "{said:?}");
        }
        let said = said_of(&[("STRONGROOM_BROKER__LISTEN__PORT", "1")]);
        assert!(said[0].contains("which is no table"), "{said:?}");
    }

    #[test]
    fn variable_with_one_underscore_too_few_sets_nothing_silently() {
        let refused = |name: &str| {
            let variables = [(name.to_owned(), "1".to_owned())];
            Overrides::from_variables(variables).unwrap_err()
        };
        let said = refused("STRONGROOM_BROKER_LISTEN");
        assert!(
            said.contains("did you mean STRONGROOM_BROKER__LISTEN?"),
            "{said}"
        );
        for name in [
            "STRONGROOM_BROKER__",
            "STRONGROOM_BROKER__A__",
            "STRONGROOM_BROKER____A",
        ] {
            assert!(refused(name).contains("names no setting"));
        }
    }

    /// Every key that serde knows, as `table.key`, tables themselves left out; asked of serde alone.
    fn all_keys(table: &str, header: &str, into: &mut Vec<String>) {
        let known = |header: &str| {
            let refused = toml::from_str::<Config>(&format!("{header}\n'' = 0")).err();
            Unknown::parse(refused.unwrap().message()).map(|unknown| unknown.known)
        };
        for key in known(header).unwrap() {
            let name = match table {
                "" => key,
                table => format!("{table}.{key}"),
            };
            let headers = [format!("[{name}]"), format!("[[{name}]]")];
            match headers.iter().find(|header| known(header).is_some()) {
                Some(header) => all_keys(&name, header, into),
                None => into.push(name),
            }
        }
    }

    #[test]
    fn key_is_missing_in_the_documentation_or_is_there_no_more() {
        let text = include_str!("../../../../docs/configuration.md");
        let mut documented = Vec::new();
        let mut table = None;
        for line in text.lines() {
            if line.starts_with('#') {
                let name = line.split('`').nth(1).unwrap_or_default();
                let name = name.trim_matches(['[', ']']);
                table = (line.contains("any table") || line.contains("`["))
                    .then_some(name)
                    .or_else(|| table.filter(|_| line.starts_with("###")));
            } else if let (Some(table), Some(row)) = (table, line.strip_prefix("| `")) {
                let (key, _) = row.split_once("` | ").unwrap();
                documented.push(format!("{table}.{key}").trim_start_matches('.').to_owned());
            }
        }
        let mut known = Vec::new();
        all_keys("", "", &mut known);
        known.sort();
        documented.sort();
        assert!(known.len() > 80, "{known:?}");
        assert_eq!(documented, known);
    }

    #[test]
    fn documented_default_is_not_the_default() {
        let text = include_str!("../../../../docs/configuration.md");
        let minimal = "listen = '127.0.0.1:1'\n[store]\nkey_file = 'k'\n[token]\nsigning_key = 's'\n\
                       certificate_chain = 'c'\n[[admin]]\nname = 'a'\npublic_key = 'p'\n[[identity_provider]]\n\
                       issuer = 'i'\naudience = 'a'\nroles = {}\n[sources.vault]\nurl = 'u'\n";
        let config: Config = toml::from_str(minimal).unwrap();
        let config = serde_json::to_value(&config).unwrap();
        let mut compared = 0;
        let mut table = String::new();
        for line in text.lines() {
            if line.starts_with('#') && line.contains("`[") {
                table = line.split('`').nth(1).unwrap().to_owned();
            }
            let cells: Vec<&str> = line.split(" | ").collect();
            let (Some(key), Some(said)) = (cells[0].strip_prefix("| `"), cells.get(1)) else {
                continue;
            };
            let key = key.trim_end_matches('`');
            let inner = table.trim_matches(['[', ']']).replace('.', "/");
            let list = if table.starts_with("[[") { "/0" } else { "" };
            let at = match inner.as_str() {
                "" => format!("/{key}"),
                inner => format!("/{inner}{list}/{key}"),
            };
            let Some(value) = config.pointer(&at) else {
                continue;
            };
            match *said {
                "none" => assert!(value.is_null(), "{at}"),
                said if said.starts_with("required") => {}
                said => {
                    assert_eq!(value.to_string(), said.trim_matches('`'), "{at}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 50, "{compared}");
    }
}
