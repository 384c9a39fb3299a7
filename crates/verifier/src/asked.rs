//! Which reference values an appraisal policy asks for, read from its text.
//!
//! A name is asked for where it stands as a text in a call of `query_reference_value`, or of a function of the policy
//! that hands its first argument to it. A name that a policy computes is not found; the policies that ship have none.

use std::collections::{BTreeMap, BTreeSet};

/// The names that a policy asks for, each with the claims that stand beside it, such as `snp.measurement`.
pub fn asked_reference_values(rego: &str) -> BTreeMap<String, BTreeSet<String>> {
    let lines: Vec<&str> = rego.lines().map(without_comment).collect();
    let askers = askers(&lines);
    let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in &lines {
        for name in names(line, &askers) {
            asked.entry(name).or_default().extend(claims(line));
        }
    }
    asked
}

/// The functions whose first argument is the name of a reference value.
fn askers<'a>(lines: &[&'a str]) -> BTreeSet<&'a str> {
    let mut askers = BTreeSet::from([QUERY]);
    loop {
        let before = askers.len();
        let mut inside: Option<(&str, &str)> = None;
        for line in lines {
            let starts_a_rule = line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            if starts_a_rule {
                inside = definition(line);
            }
            if let Some((function, argument)) = inside
                && askers
                    .iter()
                    .any(|asker| calls(line, asker).any(|rest| is_first(rest, argument)))
            {
                askers.insert(function);
            }
        }
        if askers.len() == before {
            return askers;
        }
    }
}

/// Whether an argument is the first one of a call, whose text after `(` this is.
fn is_first(rest: &str, argument: &str) -> bool {
    rest.strip_prefix(argument)
        .is_some_and(|rest| rest.starts_with([',', ')', ' ']))
}

/// A function's name and its first argument, when a line begins the definition of one.
fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.split_once('(')?;
    let end = rest.find([',', ')'])?;
    let argument = rest.get(..end)?.trim();
    let is_word = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    (is_word(name) && is_word(argument)).then_some((name, argument))
}

/// What follows the parenthesis of each call of a function in a line.
fn calls<'a>(line: &'a str, function: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(function).filter_map(move |(at, _)| {
        let before = line.get(..at)?.chars().next_back();
        if before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            return None;
        }
        line.get(at + function.len()..)?.strip_prefix('(')
    })
}

fn names(line: &str, askers: &BTreeSet<&str>) -> BTreeSet<String> {
    askers
        .iter()
        .flat_map(|asker| calls(line, asker))
        .filter_map(|rest| {
            let (name, _) = rest.strip_prefix('"')?.split_once('"')?;
            Some(name.to_owned())
        })
        .collect()
}

/// The paths below `input` in a line, `input["az-snp-vtpm"].tpm.pcr11` as `az-snp-vtpm.tpm.pcr11`.
fn claims(line: &str) -> BTreeSet<String> {
    calls_of_input(line).filter_map(path).collect()
}

fn calls_of_input(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("input")
        .filter_map(|(at, word)| line.get(at + word.len()..))
        .filter(|rest| rest.starts_with(['.', '[']))
}

fn path(mut rest: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    loop {
        let part = if let Some(after) = rest.strip_prefix('.') {
            let end = after
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .unwrap_or(after.len());
            let (part, left) = after.split_at(end);
            rest = left;
            part
        } else if let Some(after) = rest.strip_prefix("[\"") {
            let (part, left) = after.split_once("\"]")?;
            rest = left;
            part
        } else {
            break;
        };
        parts.push(part);
    }
    (!parts.is_empty()).then(|| parts.join("."))
}

fn without_comment(line: &str) -> &str {
    // A `#` in a text is rare, and no name of a reference value has one.
    line.split_once('#').map_or(line, |(code, _)| code)
}

const QUERY: &str = "query_reference_value";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AppraisalPolicy;

    fn asked(rego: &str) -> Vec<(String, Vec<String>)> {
        asked_reference_values(rego)
            .into_iter()
            .map(|(name, claims)| (name, claims.into_iter().collect()))
            .collect()
    }

    #[test]
    fn name_that_the_shipped_policy_asks_for_is_overlooked() {
        let asked = asked_reference_values(AppraisalPolicy::DEFAULT_CPU);
        for name in [
            "launch_digest",
            "svn",
            "major_version",
            "minimum_minor_version",
        ] {
            assert!(asked.contains_key(name), "{name}: {asked:?}");
        }
        assert!(!asked.contains_key("name"));
    }

    #[test]
    fn claim_beside_a_name_is_overlooked() {
        let rego = "executables := 3 if {\n\tinput[\"az-snp-vtpm\"].measurement in query_reference_value(\"measurement\")\n\tinput.snp.tcb.boot == query_reference_value(\"b\") # query_reference_value(\"c\")\n}";
        assert_eq!(
            asked(rego),
            [
                ("b".to_owned(), vec!["snp.tcb.boot".to_owned()]),
                (
                    "measurement".to_owned(),
                    vec!["az-snp-vtpm.measurement".to_owned()]
                ),
            ]
        );
    }

    #[test]
    fn name_behind_two_functions_is_overlooked() {
        let rego = "good(n, v) if {\n\tv in known(n)\n}\n\nknown(id) := query_reference_value(id)\n\nother(x) if {\n\tx == 1\n}\n\na if good(\"one\", input.tdx.quote)\n\nb if other(\"two\")\n";
        assert_eq!(
            asked(rego),
            [("one".to_owned(), vec!["tdx.quote".to_owned()])]
        );
    }

    #[test]
    fn text_that_is_no_policy_does_panic() {
        for text in [
            "",
            "(",
            "input[\"",
            "query_reference_value(\"",
            "é(é)\nquery_reference_value(é",
            "input.é",
        ] {
            assert!(asked(text).is_empty(), "{text}");
        }
    }
}
