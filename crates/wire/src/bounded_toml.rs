//! TOML that a stranger wrote, refused before it is parsed when its tables nest too deep.
//!
//! The `toml` crate bounds inline tables within one another and the parts of a key by 80 each, and not their product: 13
//! kilobytes make thousands of tables within tables, and whatever then walks them overflows its stack.

use serde::de::DeserializeOwned;
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

/// Parses a document whose tables and arrays nest at most `MAX_DEPTH` deep below its headers.
///
/// # Errors
/// [`TomlError`] with the parser's words, never the document's.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, TomlError> {
    if depth(text) > MAX_DEPTH {
        return Err(TomlError(format!(
            "tables nest deeper than {MAX_DEPTH} levels"
        )));
    }
    toml::from_str(text).map_err(|error| TomlError(error.message().to_owned()))
}

/// Why a text is not the document that was wanted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct TomlError(String);

/// How deep values nest, or more: what is no TOML counts as deep as it could be read.
///
/// A key of n parts opens n - 1 tables around its value, which may be an inline table or an array.
fn depth(text: &str) -> usize {
    let mut open: Vec<(TokenKind, usize)> = Vec::new();
    // The dots since the last value of the innermost level began, and those of the levels around it.
    let (mut dots, mut around, mut deepest) = (0_usize, 0_usize, 0_usize);
    for token in Source::new(text).lex() {
        match token.kind() {
            TokenKind::Dot => dots = dots.saturating_add(1),
            kind @ (TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket) => {
                open.push((kind, dots));
                around = around.saturating_add(dots);
                dots = 0;
            }
            TokenKind::RightSquareBracket => {
                close(
                    TokenKind::LeftSquareBracket,
                    &mut open,
                    &mut dots,
                    &mut around,
                );
            }
            TokenKind::RightCurlyBracket => {
                close(
                    TokenKind::LeftCurlyBracket,
                    &mut open,
                    &mut dots,
                    &mut around,
                );
            }
            TokenKind::Comma if !open.is_empty() => dots = 0,
            TokenKind::Newline if open.is_empty() => dots = 0,
            _ => {}
        }
        deepest = deepest.max(open.len().saturating_add(around).saturating_add(dots));
    }
    deepest
}

/// A bracket closes its like alone: one that is astray must not make what follows look flat.
fn close(
    like: TokenKind,
    open: &mut Vec<(TokenKind, usize)>,
    dots: &mut usize,
    around: &mut usize,
) {
    if let Some((_, outer)) = open.pop_if(|(kind, _)| *kind == like) {
        *dots = outer;
        *around = around.saturating_sub(outer);
    }
}

/// Configurations of guests nest four levels.
const MAX_DEPTH: usize = 32;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn nested(parts: usize, levels: usize) -> String {
        let key = vec!["a"; parts].join(".");
        let open = format!("{key} = {{ ").repeat(levels);
        format!("{open}{key} = 1{}", " }".repeat(levels))
    }

    fn refusal(text: &str) -> String {
        from_str::<toml::Table>(text).unwrap_err().to_string()
    }

    #[test]
    fn tables_that_would_overflow_the_stack_are_refused() {
        for text in [
            nested(79, 78),
            nested(2, 40),
            nested(40, 0),
            nested(1, 40),
            format!("a = {}1{}", "[".repeat(60), "]".repeat(60)),
            format!("a = {}", "[{ b.c = ".repeat(20)),
            // Brackets astray.
            format!("a = {}", "{ a.a.a.a = ] { ".repeat(20)),
            format!("a = {}", "{ a.a.a.a = \n ".repeat(20)),
        ] {
            assert!(refusal(&text).contains("deeper than 32"), "{text}");
        }
    }

    #[test]
    fn what_is_flat_is_read_however_much_of_it_there_is() {
        let text = format!(
            "[server.tls.\"a.b\"]\nurl = 'https://a.b.c.d.e.f.g.h/i.j' # {}\nfloats = [{}]\ntables = [{}]\n",
            "a.b = { [".repeat(40),
            "1.5, ".repeat(100),
            "{ a.b = 1 }, ".repeat(100),
        ) + &"[[more.tables]]\na.b.c = { d.e = 1 }\nf = \"\"\"\n[a.b.c.d = {\n\"\"\"\n"
            .repeat(50);
        assert!(depth(&text) <= 8, "{}", depth(&text));
        from_str::<toml::Table>(&text).unwrap();
        from_str::<toml::Table>(&nested(4, 6)).unwrap();
    }
}
