//! Rego's built-in functions as far as a policy may call them: what a call can cost is bounded before it begins.
//!
//! regorus looks at its limits between two steps and never within a built-in function, so one call could ask for more memory
//! than there is: a list of 10,000 times the same text takes no room, and joining it does. What is called here is
//! therefore measured first, as if nothing of it were shared.

use std::cell::Cell;
use std::sync::LazyLock;

use regorus::unstable::{BUILTINS, BuiltinFcn, Expr, Ref, Source, Span};
use regorus::{Engine, Value};

use super::PolicyError;

/// Puts a measured function in the place of every built-in one that a policy's text may call and that is not free.
///
/// # Errors
/// [`PolicyError::UnboundedFunction`] for a text that may call one that cannot be bounded.
pub(crate) fn bound(engine: &mut Engine, id: &str, text: &str) -> Result<(), PolicyError> {
    let failed = |message: String| PolicyError::Evaluation {
        policy: id.to_owned(),
        message,
    };
    // In order, so that the same text is always refused for the same function.
    let mut known: Vec<_> = BUILTINS.iter().collect();
    known.sort_unstable_by_key(|(name, _)| **name);
    for (name, builtin) in known {
        let cost = Cost::of(name);
        if matches!(cost, Some(Cost::Constant)) || !calls(text, name) {
            continue;
        }
        let Some(cost) = cost else {
            return Err(PolicyError::UnboundedFunction {
                policy: id.to_owned(),
                function: name,
            });
        };
        let call = Call {
            name,
            cost,
            builtin: *builtin,
        };
        engine
            .add_extension(
                (*name).to_owned(),
                builtin.1,
                Box::new(move |arguments: Vec<Value>| call.run(&arguments)),
            )
            .map_err(|error| failed(error.to_string()))?;
    }
    // It would write to this process' standard error, whatever it is told to print.
    if calls(text, PRINT) {
        engine
            .add_extension(PRINT.to_owned(), 1, Box::new(|_| Ok(Value::Bool(true))))
            .map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

/// Begins an evaluation, which has this thread until it ends.
pub(crate) fn begin() {
    SPENT.set(0);
}

/// What a value takes when nothing of it is shared, in bytes; nothing when that is more than `most`.
pub(crate) fn measure(value: &Value, most: usize) -> Option<usize> {
    let mut total = 0usize;
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        total = total.saturating_add(EACH);
        match value {
            Value::String(text) => total = total.saturating_add(text.len()),
            Value::Number(number) if number.as_i64().is_none() => {
                let bits = number.as_big().map_or(0, |number| number.bits());
                // Reading and printing a number takes the square of its length.
                let weight = bits.saturating_mul(bits) / 1024;
                total = total.saturating_add(usize::try_from(weight).unwrap_or(usize::MAX));
            }
            Value::Array(list) => left.extend(list.iter()),
            Value::Set(set) => left.extend(set.iter()),
            Value::Object(members) => {
                for (name, value) in members.iter() {
                    left.extend([name, value]);
                }
            }
            _ => {}
        }
        if total > most || left.len() > most / EACH {
            return None;
        }
    }
    Some(total)
}

/// What bounds the cost of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cost {
    /// It makes nothing that grows with what it is given.
    Constant,
    /// It makes as much as it is given, a few dozen times at most.
    Linear,
    /// It may make as much of each argument for every byte of the others.
    Product,
    /// As [`Self::Linear`], and the first argument for each member of the second.
    Join,
    /// A text with places that name their own width, and what goes there.
    Format,
    /// One replacement after the other.
    Replacements,
}

impl Cost {
    /// None for what cannot be bounded, and for what nobody has thought about.
    fn of(name: &str) -> Option<Self> {
        let in_list = |list: &[&str]| list.contains(&name);
        match name {
            "concat" => Some(Self::Join),
            "sprintf" => Some(Self::Format),
            "strings.replace_n" => Some(Self::Replacements),
            _ if in_list(&CONSTANT) => Some(Self::Constant),
            _ if in_list(&PRODUCT) => Some(Self::Product),
            _ if in_list(&LINEAR) => Some(Self::Linear),
            _ => None,
        }
    }

    /// What a call may make, at most.
    fn estimate(self, arguments: &[Value], given: usize) -> usize {
        let text = |at: usize| arguments.get(at).and_then(|value| value.as_string().ok());
        let length = |at: usize| text(at).map_or(0, |text| text.len());
        match self {
            Self::Constant | Self::Linear => given,
            Self::Product => arguments
                .iter()
                .map(|argument| measure(argument, given).unwrap_or(given))
                .fold(1, usize::saturating_mul),
            Self::Join => {
                let members = arguments.get(1).map_or(0, |members| {
                    let list = members.as_array().map(|list| list.len());
                    list.or_else(|_| members.as_set().map(|set| set.len()))
                        .unwrap_or(0)
                });
                given.saturating_add(length(0).saturating_mul(members))
            }
            Self::Format => {
                let widths = text(0).and_then(|text| widths(text));
                widths.map_or(usize::MAX, |widths| {
                    given.saturating_mul(10).saturating_add(widths)
                })
            }
            Self::Replacements => {
                let patterns = arguments.first().and_then(|value| value.as_object().ok());
                let mut longest = length(1);
                for (_, new) in patterns.into_iter().flat_map(|patterns| patterns.iter()) {
                    let new = new.as_string().map_or(0, |text| text.len());
                    longest = longest.saturating_add(1).saturating_mul(new.max(1));
                    if longest > MOST_MADE {
                        break;
                    }
                }
                longest
            }
        }
    }
}

/// What the widths in a format ask for; nothing for one that is no number of three digits.
fn widths(format: &str) -> Option<usize> {
    let mut total = 0usize;
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            continue;
        }
        let mut digits = String::new();
        while let Some(digit) = chars.next_if(|c| *c == '.' || c.is_numeric()) {
            if digit != '.' {
                digits.push(digit);
            }
        }
        if digits.is_empty() {
            // What follows is the verb, which may be another percent sign.
            chars.next();
            continue;
        }
        let width: u16 = digits.parse().ok()?;
        if width > MAX_WIDTH {
            return None;
        }
        total = total.saturating_add(usize::from(width));
    }
    Some(total)
}

/// One measured function.
#[derive(Clone, Copy)]
struct Call {
    name: &'static str,
    cost: Cost,
    builtin: BuiltinFcn,
}

impl Call {
    fn run(self, arguments: &[Value]) -> anyhow::Result<Value> {
        let too_much = |what: &str, most: usize| {
            anyhow::anyhow!("{} {what} more than {most} bytes", self.name)
        };
        let given = arguments.iter().try_fold(0usize, |sum, argument| {
            measure(argument, MOST_GIVEN).and_then(|size| sum.checked_add(size))
        });
        let given = given
            .filter(|given| *given <= MOST_GIVEN)
            .ok_or_else(|| too_much("is given", MOST_GIVEN))?;
        if self.cost.estimate(arguments, given) > MOST_MADE {
            return Err(too_much("may make", MOST_MADE));
        }
        let (span, parameters) = &*PLACE;
        let parameters = parameters.get(..arguments.len());
        let parameters = parameters.ok_or_else(|| too_much("is given", MOST_GIVEN))?;
        let made = (self.builtin.0)(span, parameters, arguments, true)?;
        let spent = measure(&made, MOST_IN_ALL)
            .and_then(|size| SPENT.get().checked_add(size)?.checked_add(given))
            .filter(|spent| *spent <= MOST_IN_ALL)
            .ok_or_else(|| too_much("and what was called before it make", MOST_IN_ALL))?;
        SPENT.set(spent);
        Ok(made)
    }
}

/// Whether the text may call a built-in function: by its name, or as a member of its namespace in brackets, which can
/// hold any spelling of the rest.
fn calls(text: &str, function: &str) -> bool {
    let Some((namespace, _)) = function.split_once('.') else {
        return text.contains(function);
    };
    let bracket = |(at, _): (usize, &str)| {
        let before = text[..at].chars().next_back();
        let inside_a_name = before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '.'));
        !inside_a_name && text[at + namespace.len()..].trim_start().starts_with('[')
    };
    text.contains(function) || text.match_indices(namespace).any(bracket)
}

thread_local! {
    /// What the built-in functions of this thread's evaluation were given and made.
    static SPENT: Cell<usize> = const { Cell::new(0) };
}

/// What built-in functions name in their errors: the place of the call is added by who calls.
static PLACE: LazyLock<(Span, Vec<Ref<Expr>>)> = LazyLock::new(|| {
    let source = Source::from_contents("argument".to_owned(), "argument".to_owned());
    let span = Span {
        source: source.expect("eight bytes are no policy that is too long"),
        line: 1,
        col: 1,
        start: 0,
        end: 8,
    };
    let argument = || {
        Ref::new(Expr::Null {
            span: span.clone(),
            value: Value::Null,
            eidx: 0,
        })
    };
    let arguments = (0..MOST_ARGUMENTS).map(|_| argument()).collect();
    (span, arguments)
});

const PRINT: &str = "print";
/// What a value takes beside its text.
const EACH: usize = 16;
/// What one call may be given: more than the claims of the largest evidence.
const MOST_GIVEN: usize = 1024 * 1024;
/// What one call may make.
const MOST_MADE: usize = 16 * 1024 * 1024;
/// What all calls of one evaluation may be given and make.
const MOST_IN_ALL: usize = 64 * 1024 * 1024;
const MOST_ARGUMENTS: usize = 8;
const MAX_WIDTH: u16 = 999;

const CONSTANT: [&str; 22] = [
    "contains",
    "count",
    "endswith",
    "indexof",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "object.get",
    "startswith",
    "time.clock",
    "time.date",
    "time.diff",
    "time.now_ns",
    "time.weekday",
    "type_name",
    "rand.intn",
    "trace",
    "regex.is_valid",
];
const PRODUCT: [&str; 8] = [
    "regex.find_all_string_submatch_n",
    "regex.find_n",
    "regex.match",
    "regex.replace",
    "regex.split",
    "regex.template_match",
    "replace",
    "json.remove",
];
const LINEAR: [&str; 71] = [
    "__builtin_sets.intersection",
    "__builtin_sets.union",
    "abs",
    "array.concat",
    "array.reverse",
    "array.slice",
    "base64.decode",
    "base64.encode",
    "base64.is_valid",
    "base64url.decode",
    "base64url.encode",
    "base64url.encode_no_pad",
    "bits.and",
    "bits.negate",
    "bits.or",
    "bits.rsh",
    "bits.xor",
    "ceil",
    "floor",
    "format_int",
    "hex.decode",
    "hex.encode",
    "indexof_n",
    "intersection",
    "json.filter",
    "json.is_valid",
    "json.marshal",
    "json.unmarshal",
    "lower",
    "max",
    "min",
    "object.filter",
    "object.keys",
    "object.remove",
    "object.subset",
    "object.union",
    "object.union_n",
    "product",
    "round",
    "semver.compare",
    "semver.is_valid",
    "sort",
    "split",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "strings.count",
    "strings.reverse",
    "substring",
    "sum",
    "time.add_date",
    "time.format",
    "time.parse_duration_ns",
    "time.parse_ns",
    "time.parse_rfc3339_ns",
    "to_number",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "union",
    "units.parse",
    "units.parse_bytes",
    "upper",
    "glob.match",
    "glob.quote_meta",
    "urlquery.decode",
    "urlquery.encode",
    "uuid.parse",
    "net.cidr_contains",
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Rego;
    use super::*;

    fn outcome(rules: &str) -> Result<Option<serde_json::Value>, PolicyError> {
        let text = format!("package policy\n\nimport rego.v1\n\n{rules}");
        let policy = Rego::compile("p", &text, "data.policy.allow")?;
        policy
            .evaluation(Value::new_object())
            .value("data.policy.allow")
    }

    fn refused(rules: &str) -> String {
        outcome(rules).unwrap_err().to_string()
    }

    /// 1,000 times a text of 1,000 bytes, of which one is kept.
    const SHARED: &str = "d := [0,1,2,3,4,5,6,7,8,9]\n\ns := concat(\"\", [\"0123456789\" | some a in d; some b in d])\n\n\
        many := [s | some a in d; some b in d; some c in d]\n\nall := concat(\"\", many)\n\n";

    #[test]
    fn one_call_makes_more_than_there_is_memory() {
        for rule in [
            "concat(\"\", [all | some a in d])",
            "concat(all, [\"x\" | some a in d; some b in d])",
            "sprintf(\"%v\", [[many | some a in d]])",
            "sprintf(\"%0999999999d\", [1])",
            "sprintf(\"%.999999999f\", [1.5])",
            "sprintf(\"%99999999999d\", [1])",
            "sprintf(\"%\u{b2}d\", [1])",
            "json.marshal([many | some a in d])",
            "json.marshal({\"a\": [many | some a in d]})",
            "replace(all, \"\", all)",
            "replace(all, \"0\", s)",
            "regex.replace(all, \"0\", s)",
            "strings.replace_n({\"0\": s, \"1\": s, \"2\": s, \"3\": s}, s)",
            "array.concat([many | some a in d], [many | some a in d])",
        ] {
            let begun = std::time::Instant::now();
            let said = refused(&format!("{SHARED}allow := count({rule}) > 0"));
            assert!(said.contains("bytes"), "{rule}: {said}");
            assert!(begun.elapsed().as_secs() < 5, "{rule}");
        }
    }

    #[test]
    fn many_calls_make_together_what_one_may_not() {
        let rule = format!(
            "{SHARED}allow := count([concat(\"\", array.concat(many, [sprintf(\"%d%d\", [a, b])])) | some a in d; some b in d; some c in d]) > 0"
        );
        let said = refused(&rule);
        assert!(said.contains("called before it"), "{said}");
        // What one evaluation spent is not the next one's.
        for _ in 0..3 {
            let rule = format!("{SHARED}allow := count(concat(\"\", many)) == 1000000");
            assert!(outcome(&rule).is_err() || outcome(&rule).unwrap() == Some(true.into()));
        }
        for _ in 0..20 {
            let rule = format!(
                "{SHARED}allow := count(concat(\"\", array.slice(many, 0, 900))) == 900000"
            );
            assert_eq!(outcome(&rule).unwrap(), Some(true.into()));
        }
    }

    #[test]
    fn verdict_that_is_larger_than_memory_when_nothing_is_shared_is_converted() {
        let mut rules = String::from("x0 := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n\n");
        for number in 1..12 {
            let before = number - 1;
            let ten = vec![format!("x{before}"); 10].join(", ");
            rules.push_str(&format!("x{number} := [{ten}]\n\n"));
        }
        let said = refused(&format!("{rules}allow := x11"));
        assert!(said.contains("bytes"), "{said}");
    }

    #[test]
    fn ordinary_call_is_refused() {
        for (call, expected) in [
            ("concat(\".\", [\"a\", \"b\"])", serde_json::json!("a.b")),
            (
                "sprintf(\"%s %d %v %%\", [\"a\", 1, {\"b\": 2}])",
                serde_json::json!("a 1 {\"b\": 2} %"),
            ),
            ("sprintf(\"%05d\", [42])", serde_json::json!("00042")),
            ("array.concat([1], [2])", serde_json::json!([1, 2])),
            (
                "json.unmarshal(json.marshal({\"a\": [1]}))",
                serde_json::json!({"a": [1]}),
            ),
            ("replace(\"a-b\", \"-\", \"--\")", serde_json::json!("a--b")),
            ("regex.match(`^a+$`, \"aaa\")", serde_json::json!(true)),
            ("lower(\"ABC\")", serde_json::json!("abc")),
            ("split(\"a/b\", \"/\")", serde_json::json!(["a", "b"])),
            ("array[\"concat\"]([1], [2])", serde_json::json!([1, 2])),
            ("print(\"x\")", serde_json::json!(true)),
        ] {
            let outcome = outcome(&format!("allow := {call}"));
            assert_eq!(outcome, Ok(Some(expected)), "{call}");
        }
    }

    #[test]
    fn call_with_a_value_of_the_wrong_type_is_said_without_its_place() {
        let error = outcome("allow := lower(1)").unwrap_err();
        assert!(error.to_string().contains("line 5"), "{error}");
    }

    #[test]
    fn function_of_the_evaluator_was_thought_about_by_nobody() {
        let unbounded = [
            "bits.lsh",
            "json.marshal_with_options",
            "numbers.range",
            "numbers.range_step",
        ];
        let mut unknown: Vec<_> = BUILTINS.keys().copied().collect();
        unknown.retain(|name| Cost::of(name).is_none() && !unbounded.contains(name));
        assert!(unknown.is_empty(), "{unknown:?}");
        assert!(
            BUILTINS
                .iter()
                .all(|(_, (_, arguments))| usize::from(*arguments) <= MOST_ARGUMENTS)
        );
    }

    fn chain(rules: usize, before: &str, after: &str) -> String {
        let mut text = String::from("x0 := [0]\n\n");
        for number in 1..rules {
            text.push_str(&format!("x{number} := {before}x{}{after}\n\n", number - 1));
        }
        format!("{text}allow := count(x{}) == 1", rules - 1)
    }

    #[test]
    fn long_chain_of_rules_overflows_the_stack() {
        for (rules, before, after) in [
            (7, "[", "]"),
            (7, "[[[[[[[[", "]]]]]]]]"),
            (100, "[", "]"),
            (200, "[[[[[[[[", "]]]]]]]]"),
            (
                200,
                "[a | some a in [b | some b in [c | some c in [d | some d in [",
                "]]]]]",
            ),
        ] {
            let begun = std::time::Instant::now();
            let outcome = outcome(&chain(rules, before, after));
            assert!(begun.elapsed().as_secs() < 20, "{rules} {before}");
            assert_eq!(outcome, Ok(Some(true.into())), "{rules} {before}");
        }
        let said = refused(&chain(7, "[[[[[[[[[[[[", "]]]]]]]]]]]]"));
        assert!(said.contains("brackets"), "{said}");
        let said = refused(&chain(1_100, "[", "]"));
        assert!(said.contains("1101 rules"), "{said}");
        let said = refused(&chain(1_000, "[", "]"));
        assert!(said.contains("1001 deep"), "{said}");
    }

    #[test]
    fn function_that_calls_itself_overflows_the_stack() {
        for rules in [
            "f(n) := [f(n + 1)]\n\nallow := f(0)",
            "f(n) := g(n)\n\ng(n) := f(n)\n\nallow := f(0)",
        ] {
            let said = refused(rules);
            assert!(said.contains("calls itself"), "{rules}: {said}");
        }
    }
}
