//! What a command ends with: a text for people, a document for programs, and the next commands to try.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

/// The end of a command that did what it was asked.
pub struct Outcome {
    text: String,
    document: Value,
    next: Vec<String>,
    code: u8,
}

impl Outcome {
    /// An end that is worth these lines and this document.
    pub fn new(text: impl Into<String>, document: Value) -> Self {
        Self {
            text: text.into(),
            document,
            next: Vec::new(),
            code: 0,
        }
    }

    /// An end that has said everything already.
    pub fn silent() -> Self {
        Self::new(String::new(), Value::Null)
    }

    /// Names a command that follows naturally.
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next.push(command.into());
        self
    }

    /// Makes the process exit with this code: for checks that answered "no".
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Prints the end in the form asked for.
    pub fn print(self, json: bool) -> anyhow::Result<ExitCode> {
        let mut out = std::io::stdout().lock();
        let written = if json && !self.document.is_null() {
            writeln!(out, "{}", json_line(&self.document))
        } else if json || self.text.is_empty() {
            Ok(())
        } else {
            let next: String = self
                .next
                .iter()
                .map(|command| format!("\n  {command}"))
                .collect();
            let next = if next.is_empty() {
                next
            } else {
                format!("\n\nNext:{next}")
            };
            writeln!(out, "{}", lines(&format!("{}{next}", self.text.trim_end())))
        };
        match written {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(ExitCode::from(self.code)),
        }
    }
}

/// A text from elsewhere as a terminal may show it: what would steer the terminal, begin a line or turn around what is
/// written stands there by its number.
pub fn shown(text: &str) -> String {
    escaped(text, is_plain)
}

/// Lines of our own with words of others in them, such as a file's name: a terminal shows them and is not steered.
pub fn lines(text: &str) -> String {
    escaped(text, |c| is_plain(c) || matches!(c, '\n' | '\t'))
}

fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn escaped(text: &str, is_plain: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match is_plain(c) {
            true => escaped.push(c),
            false => escaped.extend(c.escape_unicode()),
        }
    }
    escaped
}

/// A word as a shell reads it, for a command that is to be copied.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// As [`shown`], as code in Markdown: nothing in it is markup.
pub fn code(text: &str) -> String {
    let shown = shown(text);
    let longest = shown.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    match shown.is_empty() || longest > 0 {
        true => format!("{fence} {shown} {fence}"),
        false => format!("{fence}{shown}{fence}"),
    }
}

/// A document on one line. JSON may hold what steers a terminal as it is; here it is escaped, which reads the same.
fn json_line(document: &Value) -> String {
    let mut line = String::new();
    for c in document.to_string().chars() {
        match is_plain(c) {
            true => line.push(c),
            false => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    line.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    line
}

/// Prints a line of what goes on even when nobody reads it any more.
pub fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}

/// From here on standard output carries a file, and no document may mix with it.
pub fn standard_output_is_taken() {
    STANDARD_OUTPUT_IS_TAKEN.store(true, Ordering::SeqCst);
}

static STANDARD_OUTPUT_IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Prints an error with its causes, each on a line of its own.
pub fn print_error(error: &anyhow::Error, json: bool) {
    // Many errors already say what their cause says.
    let mut said = error.to_string();
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said = cause.clone();
            causes.push(cause);
        }
    }
    if json && !STANDARD_OUTPUT_IS_TAKEN.load(Ordering::SeqCst) {
        let document = json!({ "error": error.to_string(), "causes": causes });
        return say(&json_line(&document));
    }
    eprintln!("error: {}", lines(&error.to_string()));
    for cause in causes {
        eprintln!("  because: {}", lines(&cause));
    }
}

/// Says what to look out for.
pub fn warn(warning: impl std::fmt::Display) {
    eprintln!("warning: {}", lines(&warning.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_guest_steers_the_terminal_or_the_report() {
        assert_eq!(
            shown("a\u{1b}[2Jb\r\nc\u{9b}d"),
            "a\\u{1b}[2Jb\\u{d}\\u{a}c\\u{9b}d"
        );
        assert_eq!(
            shown("\u{202e}x\u{feff}\u{2028}"),
            "\\u{202e}x\\u{feff}\\u{2028}"
        );
        assert_eq!(shown("plain \u{e4} `text`"), "plain \u{e4} `text`");
        let wild = json!({"a": "\u{9b}\u{202e}\u{e4}\n"});
        assert_eq!(json_line(&wild), "{\"a\":\"\\u009b\\u202e\u{e4}\\n\"}");
        assert_eq!(
            serde_json::from_str::<Value>(&json_line(&wild)).unwrap(),
            wild
        );
        assert_eq!(lines("a\n\tb\u{1b}c\r"), "a\n\tb\\u{1b}c\\u{d}");
        assert_eq!(code("**x** <b>"), "`**x** <b>`");
        assert_eq!(code("a ``` b"), "```` a ``` b ````");
        assert_eq!(code(""), "`  `");
    }

    #[test]
    fn copied_command_is_read_otherwise_by_a_shell() {
        assert_eq!(quoted("az://bank/day=1/a.csv"), "az://bank/day=1/a.csv");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("*.csv"), "'*.csv'");
    }
}
