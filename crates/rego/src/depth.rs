//! How deep rules and functions stand on one another, read from a policy's text before it is evaluated.
//!
//! regorus evaluates by recursion and looks at no limit of its own stack: a function that calls itself, or a long chain of
//! rules, would end the process. What is read here may be more than is there (a name that stands for something else in one
//! place counts), and is never less.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Lexer, Parser, Rule, RuleHead, Source, Token, TokenKind};

/// The longest chain of rules and functions of a module, or why there is no end to it.
pub(crate) fn depth(id: &str, text: &str) -> anyhow::Result<Result<usize, Endless>> {
    let source = Source::from_contents(id.to_owned(), text.to_owned())?;
    let tokens = tokens(&source)?;
    if let Some(endless) = nested(&tokens) {
        return Ok(Err(endless));
    }
    let mut parser = Parser::new(&source)?;
    parser.enable_rego_v1()?;
    let module = parser.parse()?;
    let mut starts: Vec<(u32, bool)> = Vec::new();
    for rule in &module.policy {
        let is_function = match &**rule {
            Rule::Spec { head, .. } => matches!(head, RuleHead::Func { .. }),
            Rule::Default { args, .. } => !args.is_empty(),
        };
        starts.push((rule.span().start, is_function));
    }
    starts.sort_unstable();
    let mut packages: BTreeSet<&str> = BTreeSet::from(["data"]);
    for import in &module.imports {
        packages.extend(import.r#as.as_ref().map(|name| name.text()));
        let path = import.refr.span().text();
        packages.extend(path.rsplit('.').next());
    }
    // Each rule's tokens begin where it does, and end where the next one begins.
    let mut rules: Vec<(&str, bool, &[Token])> = Vec::new();
    for (number, (start, is_function)) in starts.iter().enumerate() {
        let end = starts.get(number + 1).map_or(u32::MAX, |(start, _)| *start);
        let from = tokens.partition_point(|token| token.1.start < *start);
        let to = tokens.partition_point(|token| token.1.start < end);
        let own = tokens.get(from..to).unwrap_or_default();
        let is_name = |token: &Token| token.0 == TokenKind::Ident && token.1.text() != "default";
        let Some(at) = own.iter().position(is_name) else {
            continue;
        };
        let (head, rest) = own.split_at(at + 1);
        let name = head.last().map_or("", |token| token.1.text());
        rules.push((name, *is_function, rest));
    }
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, ..) in &rules {
        let next = nodes.len();
        nodes.entry(name).or_insert(next);
    }
    if nodes.len() > MOST {
        return Ok(Err(Endless::Many(nodes.len())));
    }
    let mut uses = Graph::new(nodes.len());
    let mut calls = Graph::new(nodes.len());
    for (name, is_function, own) in &rules {
        let Some(from) = nodes.get(name) else {
            continue;
        };
        for named in named(own, &packages) {
            for to in named.of(&nodes) {
                uses.add(*from, to);
                if *is_function && named.called {
                    calls.add(*from, to);
                }
            }
        }
    }
    calls.close();
    uses.close();
    let own = nodes.iter().find(|(_, node)| calls.reaches(**node, **node));
    if let Some((name, _)) = own {
        return Ok(Err(Endless::Calls((*name).to_owned())));
    }
    Ok(Ok(uses.longest()))
}

/// Why a policy's evaluation may not end, or go too deep.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Endless {
    #[error("the function {0} calls itself, or what calls it: Rego has no recursion")]
    Calls(String),
    #[error("its brackets stand in one another more than {MOST_NESTED} deep")]
    Nested,
    #[error("it has {0} rules and functions of different names, at most {MOST}")]
    Many(usize),
}

/// Whether brackets stand in one another too deep: the parser takes twice as long for each that stands in another.
fn nested(tokens: &[Token]) -> Option<Endless> {
    let mut depth = 0usize;
    for token in tokens.iter().filter(|token| token.0 == TokenKind::Symbol) {
        match token.1.text() {
            "[" | "{" | "(" => depth += 1,
            "]" | "}" | ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MOST_NESTED {
            return Some(Endless::Nested);
        }
    }
    None
}

pub(crate) fn tokens(source: &Source) -> anyhow::Result<Vec<Token>> {
    let mut lexer = Lexer::new(source);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next_token()?;
        if token.0 == TokenKind::Eof {
            return Ok(tokens);
        }
        tokens.push(token);
    }
}

/// What a text names in one place.
struct Named<'a> {
    names: Vec<&'a str>,
    /// Whether it is another rule's name for all that can be read.
    any: bool,
    /// Whether a function may be called there.
    called: bool,
}

impl Named<'_> {
    fn of(&self, nodes: &BTreeMap<&str, usize>) -> Vec<usize> {
        match self.any {
            true => nodes.values().copied().collect(),
            false => {
                let known = self.names.iter().filter_map(|name| nodes.get(name));
                known.copied().collect()
            }
        }
    }
}

/// Everything that a rule's tokens name: `name`, and every part of a path that begins with `data` or an import.
fn named<'a>(tokens: &'a [Token], packages: &BTreeSet<&str>) -> Vec<Named<'a>> {
    let mut found = Vec::new();
    let mut at = 0;
    let text = |at: usize| tokens.get(at).map_or("", |token| token.1.text());
    let is = |at: usize, kind: TokenKind| tokens.get(at).is_some_and(|token| token.0 == kind);
    while at < tokens.len() {
        let after_a_dot = at.checked_sub(1).is_some_and(|before| text(before) == ".");
        let is_start = is(at, TokenKind::Ident) && !after_a_dot;
        if !is_start {
            at += 1;
            continue;
        }
        // What a function is replaced by is called where that one is.
        let replaces = at.checked_sub(1).is_some_and(|before| text(before) == "as");
        let mut named = Named {
            names: vec![text(at)],
            any: false,
            called: replaces,
        };
        let is_path = packages.contains(text(at));
        at += 1;
        loop {
            match text(at) {
                _ if !is_path => break,
                "." => {
                    named.names.push(text(at + 1));
                    at += 2;
                }
                "[" if is(at + 1, TokenKind::String) || is(at + 1, TokenKind::RawString) => {
                    let part = text(at + 1).trim_matches(['"', '`']);
                    named.any |= part.contains('\\') || text(at + 2) != "]";
                    named.names.push(part);
                    at += 3;
                }
                "[" => {
                    // What another module has is none of this one's rules.
                    let ours = named.names.get(1).is_none_or(|second| *second == "policy");
                    let is_rule = ours && !is(at + 1, TokenKind::Number);
                    named.any |= is_rule;
                    named.called |= is_rule;
                    break;
                }
                _ => break,
            }
        }
        // A path of another value, of which a part may be called by mistake: it is no function of this module.
        named.called |= text(at) == "(";
        found.push(named);
    }
    found
}

/// Which node leads to which, as a row of bits each.
struct Graph {
    rows: Vec<Vec<u64>>,
}

impl Graph {
    fn new(nodes: usize) -> Self {
        Self {
            rows: vec![vec![0; nodes.div_ceil(64)]; nodes],
        }
    }

    fn add(&mut self, from: usize, to: usize) {
        if let Some(word) = self.rows.get_mut(from).and_then(|row| row.get_mut(to / 64)) {
            *word |= 1 << (to % 64);
        }
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        let word = self.rows.get(from).and_then(|row| row.get(to / 64));
        word.is_some_and(|word| word & (1 << (to % 64)) != 0)
    }

    /// Adds what is reached over others.
    fn close(&mut self) {
        for over in 0..self.rows.len() {
            let reached = self.rows.get(over).cloned().unwrap_or_default();
            for from in 0..self.rows.len() {
                if self.reaches(from, over)
                    && let Some(row) = self.rows.get_mut(from)
                {
                    row.iter_mut()
                        .zip(&reached)
                        .for_each(|(own, word)| *own |= word);
                }
            }
        }
    }

    /// The longest chain, in a graph that is closed: nodes that lead to each other count all.
    fn longest(&self) -> usize {
        let all = 0..self.rows.len();
        let reach = |node: &usize| -> u32 {
            let row = self.rows.get(*node).into_iter().flatten();
            row.map(|word| word.count_ones()).sum()
        };
        let mut order: Vec<usize> = all.clone().collect();
        // Who reaches another that does not reach back reaches more.
        order.sort_by_key(|node| (reach(node), *node));
        let mut depths = vec![0usize; self.rows.len()];
        for node in order {
            let mut together = 1;
            let mut deepest = 0;
            for other in all.clone().filter(|other| self.reaches(node, *other)) {
                match self.reaches(other, node) {
                    true if other != node => together += 1,
                    true => {}
                    false => deepest = deepest.max(depths.get(other).copied().unwrap_or(0)),
                }
            }
            if let Some(depth) = depths.get_mut(node) {
                *depth = together + deepest;
            }
        }
        depths.into_iter().max().unwrap_or(0)
    }
}

const MOST: usize = 1024;
const MOST_NESTED: usize = 10;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(rules: &str) -> Result<usize, String> {
        let text = format!("package policy\n\nimport rego.v1\n\n{rules}");
        depth("p", &text)
            .unwrap()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn chain_is_longer_than_what_is_read() {
        for (rules, expected) in [
            ("a := 1", 1),
            ("a := b\n\nb := c\n\nc := 1", 3),
            ("a := data.policy.b\n\nb := 1", 2),
            ("a := data.policy[\"b\"]\n\nb := 1", 2),
            (
                "a := data.policy[x] if some x in [\"b\"]\n\nb := c\n\nc := 1",
                3,
            ),
            ("a := input.b\n\nb := 1", 1),
            ("a := \"b\"\n\nb := 1", 1),
            ("a := f(1)\n\nf(x) := g(x)\n\ng(x) := x", 3),
            (
                "default a := false\n\na if { b }\n\nb if { c }\n\ndefault c := true",
                3,
            ),
        ] {
            assert_eq!(of(rules), Ok(expected), "{rules}");
        }
    }

    #[test]
    fn function_that_calls_itself_is_read_as_one_that_does_not() {
        for rules in [
            "f(n) := [f(n + 1)]",
            "f(n) := g(n)\n\ng(n) := f(n)",
            "f(n) := data.policy.f(n)",
            "f(n) := data.policy[\"f\"](n)",
            "f(n) := data.policy[\"\\u0066\"](n)",
            "f(n) := m if { m := count(n) with count as f }",
            "f(n) := m if { m := count(n) with count as data.policy.f }",
            "default f(_) := 1\n\nf(n) := n if n > 1 else := f(n)",
        ] {
            let said = of(rules).unwrap_err();
            assert!(said.contains("calls itself"), "{rules}: {said}");
        }
        assert!(of("f(x) := x.f\n\ng(f) := f").is_ok());
        assert!(of("f(x) := data[\"resource-path\"][x]").is_ok());
    }

    #[test]
    fn shipped_policy_is_too_deep_for_the_thread_that_asks() {
        for text in [
            include_str!("../../verifier/src/policies/default_cpu.rego"),
            include_str!("../../verifier/src/policies/default_gpu.rego"),
            include_str!("../../verifier/src/policies/default_release.rego"),
        ] {
            let depth = depth("p", text).unwrap().unwrap();
            assert!(depth <= super::super::INLINE_DEPTH, "{depth}");
        }
    }
}
