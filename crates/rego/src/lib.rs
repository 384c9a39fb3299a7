//! Rego by regorus: parsed and analysed once per policy version, evaluated on a clone.
//!
//! A policy that does not parse, lacks its rule, or does not end is refused here, whoever wrote it: the broker's
//! ([`PACKAGE`]), and the one that a guest is launched with ([`AGENT_PACKAGE`]).

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_macros))]

mod built_in;
mod depth;
mod quiet;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, LimitError, Value};
use serde_json::{Map, Value as Json};

pub use regorus::Value as RegoValue;
pub use regorus::unstable as syntax;

/// Why a policy cannot be used, or failed when it was.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The text is not Rego.
    #[error("policy {policy:?}, line {line}, column {column}: {message}")]
    Syntax {
        /// Which policy.
        policy: String,
        /// The line, from 1.
        line: u32,
        /// The column, from 1.
        column: u32,
        /// What is wrong there.
        message: String,
    },
    /// The text is longer than allowed.
    #[error("the policy has {actual} bytes, at most {limit}")]
    TooLarge {
        /// Its length.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// The package or the rule that is asked for is not there.
    #[error("policy {policy:?} does not define {rule}")]
    MissingRule {
        /// Which policy.
        policy: String,
        /// The rule asked for.
        rule: String,
    },
    /// It calls a function whose cost nothing bounds.
    #[error(
        "policy {policy:?} calls {function}, which can allocate without bound and is not available"
    )]
    UnboundedFunction {
        /// Which policy.
        policy: String,
        /// The function.
        function: &'static str,
    },
    /// The evaluation did not end in time.
    #[error("policy {policy:?} did not end within {limit_milliseconds} ms")]
    TimeLimit {
        /// Which policy.
        policy: String,
        /// The limit.
        limit_milliseconds: u64,
    },
    /// The evaluation failed, as by two rules that give different values.
    #[error("policy {policy:?} failed: {message}")]
    Evaluation {
        /// Which policy.
        policy: String,
        /// What the evaluator says.
        message: String,
    },
    /// A trust claim has a name that AR4SI does not know.
    #[error("policy {policy:?} returns the trust claim {name:?}, which does not exist")]
    UnknownClaim {
        /// Which policy.
        policy: String,
        /// The name.
        name: String,
    },
    /// A trust claim is not an integer of -128 to 127.
    #[error(
        "policy {policy:?} returns {value} for the trust claim {name:?}, wanted an integer from -128 to 127"
    )]
    ClaimValue {
        /// Which policy.
        policy: String,
        /// The claim.
        name: String,
        /// The value, as JSON.
        value: String,
    },
    /// `trust_claims` has no value, or one that is not an object.
    #[error("policy {policy:?} gives no trust claims")]
    NoClaims {
        /// Which policy.
        policy: String,
    },
}

/// A parsed policy. Evaluations share it and leave it as it is.
#[derive(Clone, Debug)]
pub struct Rego {
    id: String,
    package: &'static str,
    engine: Engine,
    /// How deep its rules stand on one another.
    depth: usize,
}

impl Rego {
    /// Parses `text`, of the package [`PACKAGE`], and demands `rule`, such as `data.policy.allow`.
    ///
    /// # Errors
    /// [`PolicyError`], with line and column where the text is at fault.
    pub fn compile(id: &str, text: &str, rule: &str) -> Result<Self, PolicyError> {
        let policy = Self::compile_in(PACKAGE, id, text)?;
        match policy.declares(rule) {
            true => Ok(policy),
            false => Err(PolicyError::MissingRule {
                policy: policy.id,
                rule: rule.to_owned(),
            }),
        }
    }

    /// Parses `text` and demands that it is of this package.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn compile_in(wanted: &'static str, id: &str, text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_BYTES {
            return Err(PolicyError::TooLarge {
                actual: text.len(),
                limit: MAX_BYTES,
            });
        }
        let unusable = |message: String| PolicyError::Evaluation {
            policy: id.to_owned(),
            message,
        };
        let depth = depth::depth(id, text)
            .map_err(|e| error(id, e.to_string(), e.downcast_ref()))?
            .map_err(|endless| unusable(endless.to_string()))?;
        if depth > MAX_DEPTH {
            return Err(unusable(format!(
                "its rules stand on one another {depth} deep, at most {MAX_DEPTH}"
            )));
        }
        let quiet =
            quiet::quiet(id, text).map_err(|e| error(id, e.to_string(), e.downcast_ref()))?;
        let mut engine = Engine::new();
        built_in::bound(&mut engine, id, &quiet)?;
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: TIME_LIMIT,
            check_interval: CHECK_INTERVAL,
        });
        let package = engine
            .add_policy(id.to_owned(), quiet)
            .map_err(|e| error(id, e.to_string(), e.downcast_ref()))?;
        if package != wanted {
            return Err(PolicyError::MissingRule {
                policy: id.to_owned(),
                rule: wanted.to_owned(),
            });
        }
        Ok(Self {
            id: id.to_owned(),
            package: wanted,
            engine,
            depth,
        })
    }

    /// What errors call it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the text has a rule of this name.
    pub fn declares(&self, rule: &str) -> bool {
        // Heads are written relative to their package.
        rule.strip_prefix(self.package)
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|name| {
                self.engine
                    .has_declared_rule_rooted_at(&self.id, name)
                    .unwrap_or(false)
            })
    }

    /// The text as it was parsed.
    pub fn module(&mut self) -> Option<syntax::Ref<syntax::Module>> {
        self.engine.get_modules().first().cloned()
    }

    /// Adds a module of its caller's own, from which the policy is asked. A policy cannot be that module: its package is
    /// another.
    ///
    /// # Errors
    /// [`PolicyError`], when the module is no Rego.
    pub fn asked_by(mut self, module: &str) -> Result<Self, PolicyError> {
        self.engine
            .add_policy("strongroom".to_owned(), module.to_owned())
            .map_err(|e| failed(&self.id, e.to_string(), e.downcast_ref()))?;
        Ok(self)
    }

    /// Analyses the policy now, so that evaluations on clones do not. Whatever is added to an engine after this, its
    /// `data` included, has it analysed again.
    ///
    /// # Errors
    /// [`PolicyError`], when the analysis fails.
    pub fn prepared(mut self, rule: &str) -> Result<Self, PolicyError> {
        self.engine
            .compile_with_entrypoint(&rule.into())
            .map_err(|e| error(&self.id, e.to_string(), e.downcast_ref()))?;
        Ok(self)
    }

    /// Starts an evaluation over `input`.
    pub fn evaluation(&self, input: Value) -> Evaluation {
        let mut engine = self.engine.clone();
        engine.set_input(input);
        Evaluation {
            id: self.id.clone(),
            engine,
            depth: self.depth,
        }
    }
}

/// One evaluation: an input, perhaps reference values, and the rules asked for.
pub struct Evaluation {
    id: String,
    engine: Engine,
    depth: usize,
}

impl Evaluation {
    /// Answers calls of a function of one argument.
    ///
    /// # Errors
    /// [`PolicyError::Evaluation`], when there is one of that name already.
    pub fn with_function(
        mut self,
        name: &str,
        mut function: impl FnMut(Option<&Value>) -> Value + Clone + Send + Sync + 'static,
    ) -> Result<Self, PolicyError> {
        let call = move |arguments: Vec<Value>| Ok(function(arguments.first()));
        self.engine
            .add_extension(name.to_owned(), 1, Box::new(call))
            .map_err(|e| failed(&self.id, e.to_string(), e.downcast_ref()))?;
        Ok(self)
    }

    /// Puts an object's members under `data`.
    ///
    /// # Errors
    /// [`PolicyError::Evaluation`], when the value is no object.
    pub fn with_data(mut self, data: Value) -> Result<Self, PolicyError> {
        self.engine
            .add_data(data)
            .map_err(|e| failed(&self.id, e.to_string(), e.downcast_ref()))?;
        Ok(self)
    }

    /// The value of a rule; `None` when it is undefined. What is deep is evaluated on a thread whose stack has room for it.
    ///
    /// # Errors
    /// [`PolicyError`], when it does not end or fails.
    pub fn value(&mut self, rule: &str) -> Result<Option<Json>, PolicyError> {
        if self.depth <= INLINE_DEPTH {
            return self.value_here(rule);
        }
        let failed = PolicyError::Evaluation {
            policy: self.id.clone(),
            message: "there is no memory to evaluate it in".to_owned(),
        };
        let stack = self.depth.saturating_mul(STACK_EACH);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(stack);
            let evaluated = thread.spawn_scoped(scope, || self.value_here(rule));
            evaluated.ok()?.join().ok()
        })
        .unwrap_or(Err(failed))
    }

    fn value_here(&mut self, rule: &str) -> Result<Option<Json>, PolicyError> {
        built_in::begin();
        let value = self
            .engine
            .eval_rule(rule.to_owned())
            .map_err(|e| failed(&self.id, e.to_string(), e.downcast_ref()))?;
        if value == Value::Undefined {
            return Ok(None);
        }
        // What is shared in it is not in JSON.
        if built_in::measure(&value, MAX_VALUE).is_none() {
            return Err(PolicyError::Evaluation {
                policy: self.id.clone(),
                message: format!("the value of {rule} has more than {MAX_VALUE} bytes"),
            });
        }
        serde_json::to_value(&value)
            .map(Some)
            .map_err(|e| PolicyError::Evaluation {
                policy: self.id.clone(),
                message: e.to_string(),
            })
    }
}

/// JSON as Rego has it, without the way through serde that regorus' own conversion takes.
pub fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(bool) => Value::Bool(*bool),
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Number(_) => Value::from(json.clone()),
        Json::Array(list) => Value::from(list.iter().map(value).collect::<Vec<_>>()),
        Json::Object(members) => object(members),
    }
}

/// Adds members to an object, in the place of those of the same name; what is no object stays as it is.
pub fn with<const N: usize>(mut object: Value, members: [(&str, Json); N]) -> Value {
    if let Ok(object) = object.as_object_mut() {
        for (name, json) in members {
            object.insert(Value::String(name.into()), value(&json));
        }
    }
    object
}

/// As [`value`], of an object.
pub fn object(members: &Map<String, Json>) -> Value {
    let member =
        |(name, json): (&String, &Json)| (Value::String(name.as_str().into()), value(json));
    Value::from(members.iter().map(member).collect::<BTreeMap<_, _>>())
}

/// As [`error`], for a policy that parsed and then failed at its work.
fn failed(id: &str, text: String, limit: Option<&LimitError>) -> PolicyError {
    match error(id, text, limit) {
        PolicyError::Syntax {
            policy,
            line,
            column,
            message,
        } => PolicyError::Evaluation {
            policy,
            message: format!("line {line}, column {column}: {message}"),
        },
        other => other,
    }
}

/// Sorts a regorus error by what it says: it has a place in the text, a limit, or neither.
fn error(id: &str, text: String, limit: Option<&LimitError>) -> PolicyError {
    if let Some(LimitError::TimeLimitExceeded { .. }) = limit {
        return PolicyError::TimeLimit {
            policy: id.to_owned(),
            limit_milliseconds: u64::try_from(TIME_LIMIT.as_millis()).unwrap_or(u64::MAX),
        };
    }
    let message = text
        .rsplit_once("error: ")
        .map_or(text.as_str(), |(_, message)| message);
    let message: String = message.trim().chars().take(MAX_MESSAGE).collect();
    match place(id, &text) {
        Some((line, column)) => PolicyError::Syntax {
            policy: id.to_owned(),
            line,
            column,
            message,
        },
        None => PolicyError::Evaluation {
            policy: id.to_owned(),
            message,
        },
    }
}

/// Finds `--> <id>:<line>:<column>`, which regorus puts before each message that has a place.
fn place(id: &str, text: &str) -> Option<(u32, u32)> {
    let after = text.split_once(&format!("--> {id}:"))?.1;
    let mut numbers = after.lines().next()?.split(':');
    Some((
        numbers.next()?.trim().parse().ok()?,
        numbers.next()?.trim().parse().ok()?,
    ))
}

/// Trustee's package for both kinds of a broker's policy.
pub const PACKAGE: &str = "data.policy";
/// The package that Kata's agent asks in a guest.
pub const AGENT_PACKAGE: &str = "data.agent_policy";
const MAX_BYTES: usize = 256 * 1024;
const MAX_MESSAGE: usize = 512;
const TIME_LIMIT: Duration = Duration::from_millis(500);
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).expect("64 is not zero");
/// How deep rules may stand on one another.
const MAX_DEPTH: usize = 256;
/// For this much every thread has room.
const INLINE_DEPTH: usize = 8;
/// Room for one rule, whose own expressions may be 32 deep.
const STACK_EACH: usize = 512 * 1024;
/// What a rule's value may take, as JSON.
const MAX_VALUE: usize = 16 * 1024 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn syntax_error_names_line_and_column() {
        let error =
            Rego::compile("p", "package policy\n\nallow := if {", "data.policy.allow").unwrap_err();
        let PolicyError::Syntax { line, column, .. } = error else {
            unreachable!("{error}")
        };
        assert_eq!((line, column), (3, 10));
    }

    #[test]
    fn policy_of_another_package_is_refused() {
        assert!(matches!(
            Rego::compile(
                "p",
                "package other\n\ndefault allow := true",
                "data.policy.allow"
            ),
            Err(PolicyError::MissingRule { .. })
        ));
    }

    #[test]
    fn policy_that_does_not_end_is_stopped() {
        let digits = "[0,1,2,3,4,5,6,7,8,9]";
        let text = format!(
            "package policy\n\nimport rego.v1\n\nd := {digits}\n\nallow if {{\n count([1 | some a in d; some b in d; some c in d; some e in d; some f in d; some g in d; some h in d; some i in d; some j in d]) > 0\n}}"
        );
        let policy = Rego::compile("p", &text, "data.policy.allow").unwrap();
        let outcome = policy
            .evaluation(Value::new_object())
            .value("data.policy.allow");
        assert!(
            matches!(outcome, Err(PolicyError::TimeLimit { .. })),
            "{outcome:?}"
        );
    }

    #[test]
    fn function_that_allocates_without_bound_is_refused() {
        for call in [
            "numbers.range(1, 1000000000000)",
            "numbers[\"range\"](1, 1000000000000)",
            "numbers[\"r\\u0061nge\"](1, 1000000000000)",
            "x if { x := count([1]) with count as numbers[\"range\"] }",
        ] {
            let text = format!("package policy\n\nimport rego.v1\n\nallow := {call}");
            let outcome = Rego::compile("p", &text, "data.policy.allow");
            assert!(
                matches!(
                    outcome,
                    Err(PolicyError::UnboundedFunction {
                        function: "numbers.range",
                        ..
                    })
                ),
                "{call}: {outcome:?}"
            );
        }
        // The grammar has no other way to write it.
        for call in [
            "numbers . range(1, 2)",
            "numbers.\nrange(1, 2)",
            "numbers [\"range\"](1, 2)",
        ] {
            let text = format!("package policy\n\nimport rego.v1\n\nallow := {call}");
            let outcome = Rego::compile("p", &text, "data.policy.allow");
            assert!(
                matches!(outcome, Err(PolicyError::Syntax { .. })),
                "{call}: {outcome:?}"
            );
        }
        let own = "package policy\n\nimport rego.v1\n\nallow := input.numbers[0] == my_bits[0]\n\nmy_bits := [1]";
        assert!(Rego::compile("p", own, "data.policy.allow").is_ok());
    }

    #[test]
    fn rules_that_contradict_each_other_are_an_error() {
        let text = "package policy\n\nimport rego.v1\n\nallow := true if input.a\n\nallow := false if input.a";
        let policy = Rego::compile("p", text, "data.policy.allow").unwrap();
        assert!(
            policy
                .evaluation(value(&serde_json::json!({"a": true})))
                .value("data.policy.allow")
                .is_err()
        );
    }

    #[test]
    fn oversized_policy_is_refused() {
        let text = format!("package policy\n# {}", "x".repeat(MAX_BYTES));
        assert!(matches!(
            Rego::compile("p", &text, "data.policy.allow"),
            Err(PolicyError::TooLarge { .. })
        ));
    }
}
