//! A policy without what makes the evaluator write to this process' standard error.
//!
//! `print(...)` always holds, whatever it is given, also something undefined, and takes any number of arguments: `true`
//! says the same. `import input` says nothing. Lines and columns stay where they are.

use regorus::unstable::{Source, TokenKind};

use crate::depth::tokens;

/// The text with `true` for each call of `print`, and without `import input`.
pub(crate) fn quiet(id: &str, text: &str) -> anyhow::Result<String> {
    let is_loud = text.contains("print") || text.contains("import input");
    // Who has a function of that name means that one.
    let own = text.lines().any(|line| {
        let head = line.strip_prefix("default ").unwrap_or(line);
        let rest = head.strip_prefix("print");
        rest.is_some_and(|rest| rest.trim_start().starts_with('('))
    });
    if !is_loud || own {
        return Ok(text.to_owned());
    }
    let source = Source::from_contents(id.to_owned(), text.to_owned())?;
    let tokens = tokens(&source)?;
    let word = |at: usize| tokens.get(at).map_or("", |token| token.1.text());
    let mut quiet = text.as_bytes().to_vec();
    let mut blank = |from: usize, to: usize, with: &[u8]| {
        let (Some(from), Some(to)) = (tokens.get(from), tokens.get(to)) else {
            return;
        };
        let (Ok(from), Ok(to)) = (usize::try_from(from.1.start), usize::try_from(to.1.end)) else {
            return;
        };
        let Some(range) = quiet.get_mut(from..to) else {
            return;
        };
        for (at, byte) in range.iter_mut().enumerate() {
            *byte = match with.get(at) {
                Some(byte) => *byte,
                None if *byte == b'\n' => b'\n',
                None => b' ',
            };
        }
    };
    let mut at = 0;
    while at < tokens.len() {
        let is_name = tokens
            .get(at)
            .is_some_and(|token| token.0 == TokenKind::Ident);
        let is_member = at > 0 && word(at - 1) == ".";
        if is_name && !is_member && word(at) == "print" && word(at + 1) == "(" {
            let mut open = 0usize;
            let end = (at + 1..tokens.len()).find(|at| {
                match tokens.get(*at).filter(|token| token.0 == TokenKind::Symbol) {
                    Some(token) if token.1.text() == "(" => open += 1,
                    Some(token) if token.1.text() == ")" => open -= 1,
                    _ => {}
                }
                open == 0
            });
            let Some(end) = end else { break };
            blank(at, end, b"true");
            at = end;
        } else if word(at) == "import"
            && word(at + 1) == "input"
            && !matches!(word(at + 2), "." | "as" | "[")
        {
            blank(at, at + 1, b"");
            at += 1;
        }
        at += 1;
    }
    Ok(String::from_utf8(quiet).unwrap_or_else(|_| text.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_prints_is_true_and_stays_in_its_place() {
        let text = "package p\nimport input\na if {\n  print(\"( x\", f(input.b), \"\u{e4}\")\n  x := \"print(1)\"\n  x.print(1)\n}\n# print(2)\nb if print(\n1)\n";
        let quiet = quiet("p", text).unwrap();
        assert_eq!(quiet.len(), text.len());
        assert!(
            !quiet.contains("import input") && quiet.contains("\n  true  "),
            "{quiet}"
        );
        for kept in ["\"print(1)\"", "x.print(1)", "# print(2)"] {
            assert!(quiet.contains(kept), "{quiet}");
        }
        assert_eq!(quiet.lines().count(), text.lines().count());
    }

    #[test]
    fn function_of_that_name_is_not_taken_for_it() {
        let text = "package p\nprint(x) := x\na := print(1)\n";
        assert_eq!(quiet("p", text).unwrap(), text);
        let other = "package p\nimport input.a\nimport input as i\n";
        assert_eq!(quiet("p", other).unwrap(), other);
    }
}
