//! Patterns over names: `*` and `?` within a part of a path, `**` for any number of parts.

/// Whether a text asks for more than the one thing of that name.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// The leading parts of a pattern that are plain names, joined, and the pattern of what is below them.
pub(super) fn split(pattern: &str) -> (String, &str) {
    let mut plain = 0;
    for part in pattern.split_inclusive('/') {
        if is_pattern(part) || !part.ends_with('/') {
            break;
        }
        plain += part.len();
    }
    let (base, rest) = pattern.split_at(plain);
    (base.trim_end_matches('/').to_owned(), rest)
}

/// Whether a relative path matches. Names that begin with a dot do so only where the pattern's part begins with one.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let parts: Vec<&str> = pattern.split('/').collect();
    let names: Vec<&str> = path.split('/').collect();
    // What of the pattern may come next, after the names so far: no backtracking, whatever a pattern looks like.
    let mut next = vec![false; parts.len() + 1];
    if let Some(first) = next.first_mut() {
        *first = true;
    }
    skip_doubles(&parts, &mut next);
    for name in names {
        let mut after = vec![false; parts.len() + 1];
        for (at, part) in parts.iter().enumerate() {
            if !next.get(at).copied().unwrap_or(false) {
                continue;
            }
            if *part == "**" {
                let hidden = name.starts_with('.');
                set(&mut after, at, !hidden);
            } else if part_matches(part, name) {
                set(&mut after, at + 1, true);
            }
        }
        skip_doubles(&parts, &mut after);
        next = after;
    }
    next.last().copied().unwrap_or(false)
}

/// `**` stands for no part, too; at the end of a pattern it stands for one at least.
fn skip_doubles(parts: &[&str], next: &mut [bool]) {
    for (at, part) in parts.iter().enumerate() {
        let reached = next.get(at).copied().unwrap_or(false);
        if *part == "**" && reached {
            set(next, at + 1, true);
        }
    }
}

fn set(states: &mut [bool], at: usize, value: bool) {
    if let Some(state) = states.get_mut(at) {
        *state |= value;
    }
}

/// One part of a pattern against one name: the last `*` is widened when what follows it does not fit.
fn part_matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = name.get(read) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == c => {
                at += 1;
                read += 1;
            }
            _ => match &mut star {
                Some((after, from)) => {
                    *from += 1;
                    (at, read) = (*after + 1, *from);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_matches_otherwise_than_a_shell_has_it() {
        for (pattern, path, expected) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "a.csv.enc", false),
            ("*.csv", "b/a.csv", false),
            ("*.csv", ".csv", false),
            ("*.csv", ".hidden.csv", false),
            (".*.csv", ".hidden.csv", true),
            ("2026-0?-*.csv", "2026-07-x.csv", true),
            ("2026-0?-*.csv", "2026-7-x.csv", false),
            ("**/*.csv", "a.csv", true),
            ("**/*.csv", "x/y/a.csv", true),
            ("**/*.csv", "x/.git/a.csv", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/x/y/c", false),
            ("a/**", "a/x/y", true),
            ("**", "x", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("?", "ü", true),
            ("", "a", false),
            ("a**b", "axyb", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn many_stars_take_for_ever() {
        let pattern = "*a".repeat(2000);
        assert!(!matches(&pattern, &"a".repeat(1999)));
        let doubles = "**/".repeat(200) + "x";
        assert!(!matches(&doubles, &"a/".repeat(500)));
    }

    #[test]
    fn folder_before_the_first_star_is_another() {
        assert_eq!(split("a/b/*.csv"), ("a/b".to_owned(), "*.csv"));
        assert_eq!(split("*.csv"), (String::new(), "*.csv"));
        assert_eq!(split("a/b*/c/d.csv"), ("a".to_owned(), "b*/c/d.csv"));
        assert_eq!(split("a/b"), ("a".to_owned(), "b"));
        assert_eq!(split("/x/*.csv"), ("/x".to_owned(), "*.csv"));
    }
}
