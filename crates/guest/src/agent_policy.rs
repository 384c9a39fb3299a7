//! The policy of the launch for Kata's agent: whether the host may have what it asks of the guest (exec, logs, copy, ...).
//!
//! `policy.rego` of the measured init-data has one rule of the package `agent_policy` for each request of the agent's
//! protocol. A rule is a boolean, or an object: `allowed`, and `ops`, what to remember (RFC 6902) for later requests, which
//! see it as `data.pstate`. A request without a rule, and one whose rule fails, is refused; so is everything when
//! the evaluation itself fails. `AllowRequestsFailingPolicy` turns the first two around, as upstream's agent does.

use serde_json::{Map, Value, json};
use strongroom_rego::{self as rego, AGENT_PACKAGE, PolicyError, Rego};

/// A policy that parsed, and what it remembers.
#[derive(Clone, Debug)]
pub struct AgentPolicy {
    rego: Rego,
    text: String,
    allow_failing: bool,
    state: Map<String, Value>,
}

impl AgentPolicy {
    /// Parses a policy.
    ///
    /// # Errors
    /// [`PolicyError`]: it is no Rego, of another package, too large, or does not end.
    pub fn load(text: &str) -> Result<Self, PolicyError> {
        let mut policy = Self {
            rego: Rego::compile_in(AGENT_PACKAGE, NAME, text)?,
            text: text.to_owned(),
            allow_failing: false,
            state: Map::new(),
        };
        policy.allow_failing = policy.rego.declares(&rule(FAILING))
            && policy.value(FAILING, &Value::Null)? == Some(Value::Bool(true));
        Ok(policy)
    }

    /// Whether it lets pass what its own rules refuse.
    pub fn allows_failing(&self) -> bool {
        self.allow_failing
    }

    /// Asks about one request, such as `ExecProcessRequest`, with its message as upstream's agent prints it in JSON. What
    /// an allowed request has it remember counts for the next one.
    ///
    /// # Errors
    /// [`PolicyError`], when the evaluation fails: the request is refused then, whatever else the policy says.
    pub fn ask(&mut self, request: &str, input: &Value) -> Result<Verdict, PolicyError> {
        let known = request
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_')
            && self.rego.declares(&rule(request));
        let answer = match known {
            true => self.value(request, input)?,
            false => None,
        };
        let mut verdict = Verdict {
            allowed: false,
            because: Because::NoRule,
            rules: self.rules(request),
        };
        (verdict.allowed, verdict.because) = match answer {
            None if !known => (false, Because::NoRule),
            None => (false, Because::Undefined),
            Some(Value::Bool(allowed)) => (allowed, Because::Rule),
            Some(Value::Object(answer)) => {
                let allowed = answer.get("allowed") == Some(&Value::Bool(true));
                if allowed {
                    self.remember(answer.get("ops").unwrap_or(&Value::Null))?;
                }
                (allowed, Because::Rule)
            }
            Some(other) => {
                return Err(failed(format!(
                    "{request} is {}, wanted a boolean or an object with `allowed`",
                    other.to_string().chars().take(64).collect::<String>()
                )));
            }
        };
        if !verdict.allowed && self.allow_failing {
            verdict.allowed = true;
            verdict.because = Because::AllowRequestsFailingPolicy;
        }
        Ok(verdict)
    }

    fn value(&self, request: &str, input: &Value) -> Result<Option<Value>, PolicyError> {
        self.rego
            .evaluation(rego::value(input))
            .with_data(rego::value(&json!({ "pstate": self.state })))?
            .value(&rule(request))
    }

    /// Carries out a patch; all of it, or nothing.
    fn remember(&mut self, ops: &Value) -> Result<(), PolicyError> {
        let mut state = self.state.clone();
        let ops = match ops {
            Value::Null => &[][..],
            Value::Array(ops) => ops,
            _ => return Err(failed("`ops` is no list".to_owned())),
        };
        for op in ops {
            let kind = op["op"].as_str().unwrap_or_default();
            let path = op["path"].as_str().unwrap_or_default();
            let key = path
                .strip_prefix("/pstate/")
                .filter(|key| !key.contains('/'));
            let key = key.map(|key| key.replace("~1", "/").replace("~0", "~"));
            match (kind, key) {
                ("add" | "replace", Some(key)) if state.len() < MOST_REMEMBERED => {
                    state.insert(key, op["value"].clone());
                }
                ("remove", Some(key)) => {
                    state.remove(&key);
                }
                _ => {
                    return Err(failed(format!(
                        "the operation {kind:?} on {path:?} is not known"
                    )));
                }
            }
        }
        self.state = state;
        Ok(())
    }

    /// The lines on which a request's rules begin.
    fn rules(&self, request: &str) -> Vec<Line> {
        let is_head = |line: &str| {
            let head = line.strip_prefix("default ").unwrap_or(line).trim_start();
            head.strip_prefix(request)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        };
        self.text
            .lines()
            .zip(1..)
            .filter(|(line, _)| is_head(line))
            .map(|(text, number)| Line {
                number,
                text: text.chars().take(MOST_SHOWN).collect(),
            })
            .take(MOST_RULES)
            .collect()
    }
}

/// What a policy says of a request.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Verdict {
    /// Whether the agent does what it was asked.
    pub allowed: bool,
    /// How that came.
    pub because: Because,
    /// The rules of the request's name, its default first among them where it is written first.
    pub rules: Vec<Line>,
}

/// How a verdict came.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// The rule of the request's name says so.
    Rule,
    /// There is no rule of the request's name.
    NoRule,
    /// There is one, without a default, and it does not hold.
    Undefined,
    /// It would be refused, but for `AllowRequestsFailingPolicy`.
    AllowRequestsFailingPolicy,
}

/// A line of the policy.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Line {
    /// Its number, from 1.
    pub number: usize,
    /// What stands there.
    pub text: String,
}

fn rule(request: &str) -> String {
    format!("{AGENT_PACKAGE}.{request}")
}

fn failed(message: String) -> PolicyError {
    PolicyError::Evaluation {
        policy: NAME.to_owned(),
        message,
    }
}

const NAME: &str = "policy.rego";
const FAILING: &str = "AllowRequestsFailingPolicy";
/// Containers and names of one sandbox.
const MOST_REMEMBERED: usize = 4096;
const MOST_RULES: usize = 16;
const MOST_SHOWN: usize = 120;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn exec(args: &[&str]) -> Value {
        json!({ "container_id": "c", "exec_id": "e", "string_user": null,
            "process": { "Args": args, "SelinuxLabel": "", "ApparmorProfile": "" } })
    }

    const POLICY: &str = "package agent_policy\n\nimport future.keywords.if\nimport future.keywords.in\n\ndefault ExecProcessRequest := false\ndefault ReadStreamRequest := true\n\nExecProcessRequest if {\n\tsome command in policy_data.allowed_commands\n\tcommand == input.process.Args\n}\n\nWriteStreamRequest if input.x\n\npolicy_data := {\"allowed_commands\": [[\"uname\", \"-r\"]]}\n";

    fn asked(policy: &str, request: &str, input: &Value) -> (bool, Because) {
        let verdict = AgentPolicy::load(policy)
            .unwrap()
            .ask(request, input)
            .unwrap();
        (verdict.allowed, verdict.because)
    }

    #[test]
    fn command_that_is_not_allowed_is_refused_also_as_a_part_of_one() {
        let yes = asked(POLICY, "ExecProcessRequest", &exec(&["uname", "-r"]));
        assert_eq!(yes, (true, Because::Rule));
        for args in [
            &["cat", "/etc/passwd"][..],
            &["uname"],
            &["uname", "-r", "-a"],
            &["uname -r"],
            &[],
        ] {
            let no = asked(POLICY, "ExecProcessRequest", &exec(args));
            assert_eq!(no, (false, Because::Rule), "{args:?}");
        }
        assert_eq!(
            asked(POLICY, "ReadStreamRequest", &json!({})),
            (true, Because::Rule)
        );
        let mut policy = AgentPolicy::load(POLICY).unwrap();
        let lines = policy.ask("ExecProcessRequest", &exec(&[])).unwrap().rules;
        assert_eq!(
            lines.iter().map(|line| line.number).collect::<Vec<_>>(),
            [6, 9]
        );
    }

    #[test]
    fn request_without_a_rule_or_a_value_is_refused_unless_failing_is_allowed() {
        assert_eq!(
            asked(POLICY, "CopyFileRequest", &json!({})),
            (false, Because::NoRule)
        );
        assert_eq!(
            asked(POLICY, "x if true", &json!({})),
            (false, Because::NoRule)
        );
        assert_eq!(
            asked(POLICY, "WriteStreamRequest", &json!({})),
            (false, Because::Undefined)
        );
        let open = format!("{POLICY}\ndefault AllowRequestsFailingPolicy := true\n");
        let let_pass = (true, Because::AllowRequestsFailingPolicy);
        assert_eq!(asked(&open, "CopyFileRequest", &json!({})), let_pass);
        assert_eq!(asked(&open, "ExecProcessRequest", &exec(&["sh"])), let_pass);
    }

    #[test]
    fn rule_of_another_kind_or_that_contradicts_itself_refuses() {
        for rules in [
            "A := \"yes\"",
            "A := {\"allowed\": true, \"ops\": [{\"op\": \"add\", \"path\": \"/x\", \"value\": 1}]}",
            "A := true if input.a\nA := false if input.a",
        ] {
            let mut policy =
                AgentPolicy::load(&format!("package agent_policy\nimport rego.v1\n{rules}\n"))
                    .unwrap();
            assert!(policy.ask("A", &json!({ "a": true })).is_err(), "{rules}");
        }
        let object = "package agent_policy\nA := {\"allowed\": \"true\", \"ops\": null}\n";
        assert_eq!(asked(object, "A", &json!({})), (false, Because::Rule));
    }

    #[test]
    fn what_an_allowed_request_leaves_counts_for_the_next() {
        let text = "package agent_policy\nimport rego.v1\ndefault B := false\nA := {\"allowed\": true, \"ops\": [{\"op\": \"add\", \"path\": \"/pstate/k\", \"value\": 7}]}\nB if data.pstate.k == 7\nC := {\"allowed\": true, \"ops\": [{\"op\": \"remove\", \"path\": \"/pstate/k\"}]}\n";
        let mut policy = AgentPolicy::load(text).unwrap();
        let mut allowed = |request| policy.ask(request, &json!({})).unwrap().allowed;
        assert!(!allowed("B"));
        assert!(allowed("A") && allowed("B") && allowed("C"));
        assert!(!allowed("B"));
    }

    #[test]
    fn policy_of_another_package_or_without_an_end_is_not_loaded() {
        for text in [
            "",
            "package policy\n",
            "package agent_policy\nA := {",
            "package agent_policy\nf(x) := f(x)\n",
        ] {
            assert!(AgentPolicy::load(text).is_err(), "{text}");
        }
    }

    #[test]
    fn upstreams_policies_load_and_refuse_commands() {
        let Some(folder) = strongroom_testkit::fixtures::fixture("guest/initdata") else {
            return;
        };
        let mut loaded = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|ending| ending != "toml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let document = strongroom_wire::initdata::Initdata::parse(&text).unwrap();
            let rego = &document.data()["policy.rego"];
            if rego.is_empty() {
                assert!(AgentPolicy::load(rego).is_err());
                continue;
            }
            let mut policy = AgentPolicy::load(rego)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let mut ask = |request: &str, input: &Value| policy.ask(request, input).unwrap();
            assert!(rego.contains("default ExecProcessRequest := false"));
            let exec = ask("ExecProcessRequest", &exec(&["cat", "/etc/passwd"]));
            assert!(
                !exec.allowed && exec.because == Because::Rule,
                "{}",
                path.display()
            );
            let logs = ask("ReadStreamRequest", &json!({}));
            assert_eq!(
                logs.allowed,
                rego.contains("default ReadStreamRequest := true"),
                "{}",
                path.display()
            );
            assert!(ask("StartContainerRequest", &json!({})).allowed);
            let remove = json!({ "container_id": "none" });
            assert!(
                ask("RemoveContainerRequest", &remove).allowed,
                "{}",
                path.display()
            );
            loaded += 1;
        }
        assert!(loaded >= 5, "{loaded}");
    }
}
