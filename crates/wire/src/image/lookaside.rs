//! Where GPG signatures of images lie (containers-registries.d(5)): `default-docker` and `docker`, each with `lookaside`
//! or its older name `sigstore`.
//!
//! The file is YAML. What is read is the part of YAML that such files are written in: block mappings of plain or
//! quoted scalars, comments. Anything else is an error, never a guess.

use std::collections::BTreeMap;

use super::FormatError;
use super::digest::Digest;
use super::reference::Reference;

/// Where signatures lie.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lookaside {
    default: Option<String>,
    scopes: BTreeMap<String, String>,
}

impl Lookaside {
    /// Parses one configuration file.
    ///
    /// # Errors
    /// [`FormatError`] naming the line that is written in another way, or says something else.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        if text.len() > MAX_TEXT {
            return Err(FormatError::TooLong {
                what: WHAT,
                limit: MAX_TEXT,
            });
        }
        let mut parsed = Self::default();
        // The keys of the mappings that are open, with their indentation.
        let mut open: Vec<(usize, String)> = Vec::new();
        let mut expects_deeper = false;
        for (number, line) in (1_usize..).zip(text.lines()) {
            let wrong =
                |reason: &str| FormatError::invalid(WHAT, format!("line {number}: {reason}"));
            let Some((indent, key, value)) = entry(line).map_err(wrong)? else {
                continue;
            };
            if expects_deeper && open.last().is_some_and(|(outer, _)| *outer >= indent) {
                // `key:` with nothing below it is an empty mapping.
                open.pop();
            }
            while open.last().is_some_and(|(outer, _)| *outer >= indent) {
                open.pop();
            }
            match value {
                None => {
                    if open.len() >= MAX_DEPTH {
                        return Err(wrong("it is nested too deep"));
                    }
                    open.push((indent, key));
                    expects_deeper = true;
                }
                Some(value) => {
                    expects_deeper = false;
                    let path: Vec<&str> = open.iter().map(|(_, key)| key.as_str()).collect();
                    parsed
                        .take(&path, &key, value)
                        .map_err(|reason| wrong(&reason))?;
                }
            }
        }
        Ok(parsed)
    }

    fn take(&mut self, path: &[&str], key: &str, value: String) -> Result<(), String> {
        let place = match path {
            ["default-docker"] => &mut self.default,
            ["docker", scope] => {
                if !READ.contains(&key) {
                    return known(key);
                }
                return match self.scopes.insert((*scope).to_owned(), value) {
                    None => Ok(()),
                    Some(_) => Err(format!("{scope:?} is there twice")),
                };
            }
            _ => return Err("only default-docker and docker are known here".to_owned()),
        };
        if !READ.contains(&key) {
            return known(key);
        }
        match place.replace(value) {
            None => Ok(()),
            Some(_) => Err("default-docker is there twice".to_owned()),
        }
    }

    /// Adds what another file says. Both may say the same.
    ///
    /// # Errors
    /// [`FormatError`] when they differ in where signatures of one scope lie.
    pub fn merge(&mut self, other: Self) -> Result<(), FormatError> {
        let differ =
            |scope: &str| FormatError::invalid(WHAT, format!("two files differ in {scope:?}"));
        match (&self.default, other.default) {
            (Some(here), Some(there)) if *here != there => return Err(differ("default-docker")),
            (None, there) => self.default = there,
            _ => {}
        }
        for (scope, place) in other.scopes {
            match self.scopes.get(&scope) {
                Some(here) if *here != place => return Err(differ(&scope)),
                _ => self.scopes.insert(scope, place),
            };
        }
        Ok(())
    }

    /// The place of signatures of an image, the narrowest scope first.
    pub fn base(&self, image: &Reference) -> Option<&str> {
        image
            .policy_scopes()
            .iter()
            .find_map(|scope| self.scopes.get(scope))
            .or(self.default.as_ref())
            .map(String::as_str)
    }

    /// The place of one signature of a manifest; they are numbered from 1.
    pub fn signature(&self, image: &Reference, manifest: &Digest, number: usize) -> Option<String> {
        let base = self.base(image)?.trim_end_matches('/');
        let path = image.repository().path();
        let (algorithm, hex) = match manifest.algorithm() {
            super::digest::Algorithm::Sha512 => ("sha512", manifest.hex()),
            super::digest::Algorithm::Sha256 => ("sha256", manifest.hex()),
        };
        Some(format!(
            "{base}/{path}@{algorithm}={hex}/signature-{number}"
        ))
    }
}

fn known(key: &str) -> Result<(), String> {
    match WRITTEN.contains(&key) {
        true => Ok(()),
        false => Err(format!("{key:?} is not known here")),
    }
}

/// A line's indentation, key and value; `None` for a line that says nothing.
#[allow(clippy::type_complexity, reason = "read once, right above")]
fn entry(line: &str) -> Result<Option<(usize, String, Option<String>)>, &'static str> {
    let body = line.trim_start_matches(' ');
    let indent = line.len() - body.len();
    if body.starts_with('\t') {
        return Err("YAML is indented by spaces, not by tabs");
    }
    let body = body.trim_end();
    if body.is_empty() || body.starts_with('#') || (indent == 0 && body == "---") {
        return Ok(None);
    }
    let (key, rest) = scalar(body, true)?;
    let rest = rest
        .strip_prefix(':')
        .ok_or("a key must be followed by a colon")?;
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err("a colon must be followed by a space or by nothing");
    }
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(Some((indent, key, None)));
    }
    let (value, rest) = scalar(rest, false)?;
    let rest = rest.trim();
    if !rest.is_empty() && !rest.starts_with('#') {
        return Err("something follows the value");
    }
    Ok(Some((indent, key, Some(value))))
}

/// A plain or quoted scalar at the head of a text, and what follows it.
fn scalar(text: &str, is_key: bool) -> Result<(String, &str), &'static str> {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote) {
            let (value, rest) = inner.split_once(quote).ok_or("a quote is not closed")?;
            if value.contains('\\') || rest.starts_with(quote) {
                return Err("escapes in quotes are not read here");
            }
            return Ok((value.to_owned(), rest));
        }
    }
    let end = text
        .char_indices()
        .find(|(at, c)| {
            let next = text
                .get(at + c.len_utf8()..)
                .and_then(|rest| rest.chars().next());
            (is_key && *c == ':' && next.is_none_or(|c| c == ' '))
                || (*c == ' ' && next == Some('#'))
        })
        .map_or(text.len(), |(at, _)| at);
    let (value, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    let value = value.trim_end();
    if value.is_empty()
        || value.starts_with([
            '&', '*', '!', '|', '>', '{', '[', '%', '@', '`', '-', '?', ',',
        ])
    {
        return Err("only mappings of plain or quoted text are read here");
    }
    if !is_key && (value.contains(": ") || value.ends_with(':')) {
        return Err("a value that holds a mapping must stand on lines of its own");
    }
    Ok((value.to_owned(), rest))
}

const WHAT: &str = "configuration of signature places (sigstore config)";
const READ: [&str; 2] = ["lookaside", "sigstore"];
/// Known, and of no use to who only reads.
const WRITTEN: [&str; 3] = [
    "lookaside-staging",
    "sigstore-staging",
    "use-sigstore-attachments",
];
const MAX_TEXT: usize = 256 * 1024;
const MAX_DEPTH: usize = 2;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const FIXTURES: &str = "guest/guest-components/image-rs/test_data";

    fn read(path: &str) -> Option<String> {
        crate::fixtures::read(&format!("{FIXTURES}/{path}"))
            .map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn upstream_files_merge_to_upstream_results() {
        let folder = "signature/sigstore_config";
        for case in 1..=3 {
            let mut merged = Lookaside::default();
            for file in 1..=2 {
                let Some(text) = read(&format!("{folder}/test_case_{case}/{file}.yaml")) else {
                    return;
                };
                merged.merge(Lookaside::parse(&text).unwrap()).unwrap();
            }
            let result = read(&format!("{folder}/merged_result/res{case}.yaml")).unwrap();
            assert_eq!(merged, Lookaside::parse(&result).unwrap(), "{case}");
        }
        let places =
            Lookaside::parse(&read(&format!("{folder}/get_base_url/res.yaml")).unwrap()).unwrap();
        let base = |image: &str| places.base(&image.parse().unwrap()).map(str::to_owned);
        assert_eq!(
            base("example1.com/a").as_deref(),
            Some("file:///var/lib/containers/sigstore")
        );
        assert_eq!(
            base("example3.com/a").as_deref(),
            Some("file:///default/sigstore")
        );
        let kata =
            Lookaside::parse(&read("simple-signing-scheme/sigstore_config.yaml").unwrap()).unwrap();
        let image = "quay.io/kata-containers/confidential-containers:signed"
            .parse()
            .unwrap();
        let digest = Digest::sha256(b"");
        assert_eq!(
            kata.signature(&image, &digest, 1).unwrap(),
            format!(
                "file:///etc/containers/quay_verification/signatures/kata-containers/confidential-containers@sha256={}/signature-1",
                digest.hex()
            )
        );
    }

    #[test]
    fn files_that_differ_do_not_merge() {
        let parse = |place: &str| {
            Lookaside::parse(&format!("docker:\n  a.b:\n    sigstore: {place}\n")).unwrap()
        };
        assert!(parse("x").merge(parse("y")).is_err());
        assert!(parse("x").merge(parse("x")).is_ok());
    }

    #[test]
    fn quotes_comments_and_the_newer_name_are_read() {
        let text = "# c\n---\ndefault-docker: # c\n    lookaside: 'https://a/b' # c\ndocker:\n  \"h:5000/p\":\n     sigstore: https://c:1/d#e\n     sigstore-staging: x\n  empty:\n  other.io:\n     lookaside: f\n";
        let places = Lookaside::parse(text).unwrap();
        let base = |image: &str| {
            places
                .base(&image.parse().unwrap())
                .map(str::to_owned)
                .unwrap()
        };
        assert_eq!(base("h:5000/p/x"), "https://c:1/d#e");
        assert_eq!(base("h:5000/q"), "https://a/b");
        assert_eq!(base("other.io/q"), "f");
    }

    #[test]
    fn yaml_that_is_not_understood_is_refused_with_its_line() {
        for bad in [
            "docker: {a: b}",
            "docker:\n  a: &x\n",
            "docker:\n  - a\n",
            "docker:\n\ta: b\n",
            "docker:\n  a:\n    lookaside: \"x\\n\"\n",
            "docker:\n  a:\n    lookaside: 'x' y\n",
            "docker:\n  a:\n    lookaside: |\n",
            "docker:\n  a:\n    lookaside: x\n    sigstore: y\n",
            "docker:\n  a:\n    loookaside: x\n",
            "dokcer:\n  a:\n    lookaside: x\n",
            "default-docker:\n  a:\n    b:\n      c: d\n",
            "lookaside: x\n",
            "docker\n",
            "\"docker: x\n",
        ] {
            let error = Lookaside::parse(bad).unwrap_err().to_string();
            assert!(error.contains("line "), "{error}");
        }
    }
}
