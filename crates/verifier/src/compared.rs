//! What a policy compares, read off its text: for denials that the policy does not explain itself.
//!
//! This decides nothing and promises nothing: it walks the rules once, follows a name to the part of `input` or `data`
//! that it stands for, and keeps what is compared with what. What it cannot follow it leaves out.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use strongroom_rego::syntax::{
    AssignOp, BoolOp, Expr, Literal, Module, Query, Ref, Rule, RuleAssign, RuleHead,
};

use crate::release_policy::Reason;

/// A place in what a policy is asked about, and what the policy wants there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Comparison {
    place: Place,
    wanted: Wanted,
    negated: bool,
}

/// Reads every comparison off a policy, but for those of the rule `but`.
pub(crate) fn comparisons(module: &Module, but: &str) -> Vec<Comparison> {
    let mut reader = Reader::default();
    // A function is read with what it is called with, which may stand below it.
    for _ in 0..SWEEPS {
        reader.found.clear();
        for rule in &module.policy {
            reader.rule(rule, but);
        }
    }
    let compared: Vec<Place> = reader
        .found
        .iter()
        .filter(|found| found.wanted != Wanted::Anything)
        .map(|found| found.place.clone())
        .collect();
    let read = |found: &Comparison| {
        let deeper = |other: &Place| other.root == found.place.root && other.is_in(&found.place);
        found.wanted != Wanted::Anything || !compared.iter().any(deeper)
    };
    reader.found.retain(read);
    // What is compared says more than what is only read.
    reader
        .found
        .sort_by_key(|found| found.wanted == Wanted::Anything);
    reader.found
}

/// The comparisons that do not hold over `input` and `data`, as reasons whose rules begin with `rule`; at most `most`.
pub(crate) fn unmet(
    comparisons: &[Comparison],
    rule: &str,
    (input, data): (&Json, &Json),
    most: usize,
) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = Vec::new();
    for comparison in comparisons {
        let root = match comparison.place.root {
            Root::Input => input,
            Root::Data => data,
        };
        let mut found = Vec::new();
        let name = comparison.place.root.name().to_owned();
        comparison.place.find(root, 0, name, most, &mut found);
        for (claim, actual) in found {
            if reasons.len() >= most {
                return reasons;
            }
            if comparison.holds(actual) {
                continue;
            }
            let reason = Reason {
                rule: format!("{rule} {}", comparison.verb()),
                claim,
                expected: comparison.expected(),
                actual: actual.cloned().unwrap_or_else(|| Json::from("absent")),
            };
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
    }
    reasons
}

/// A path into `input` or `data`.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    root: Root,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Root {
    Input,
    Data,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(Json),
    /// Any member: `[_]`, `every`, `some`.
    Any,
}

/// What is wanted of a place.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    Compared(BoolOp, Json),
    OneOf(Vec<Json>),
    Containing(Json),
    /// There, and not `false`.
    True,
    /// The policy looks at it, and what it wants cannot be told.
    Anything,
}

impl Root {
    fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Data => "data",
        }
    }
}

impl Place {
    fn new(root: Root) -> Self {
        Self {
            root,
            steps: Vec::new(),
        }
    }

    fn then(&self, steps: &[Step]) -> Option<Self> {
        let mut longer = self.clone();
        longer.steps.extend_from_slice(steps);
        (longer.steps.len() <= MAX_STEPS).then_some(longer)
    }

    fn is_in(&self, other: &Self) -> bool {
        self.steps.starts_with(&other.steps)
    }

    /// Every place of this path with what is there, written as a policy writes it.
    fn find<'v>(
        &self,
        value: &'v Json,
        at: usize,
        name: String,
        most: usize,
        found: &mut Vec<(String, Option<&'v Json>)>,
    ) {
        if found.len() >= most {
            return;
        }
        let Some(step) = self.steps.get(at) else {
            found.push((name, Some(value)));
            return;
        };
        let before = found.len();
        match (step, value) {
            (Step::Key(Json::String(key)), Json::Object(members)) => {
                if let Some(value) = members.get(key) {
                    self.find(value, at + 1, name.clone() + &spelled(step), most, found);
                }
            }
            (Step::Key(Json::Number(index)), Json::Array(list)) => {
                let index = index.as_u64().and_then(|index| usize::try_from(index).ok());
                if let Some(value) = index.and_then(|index| list.get(index)) {
                    self.find(value, at + 1, name.clone() + &spelled(step), most, found);
                }
            }
            (Step::Any, Json::Object(members)) => {
                for (key, value) in members {
                    let key = Step::Key(Json::from(key.as_str()));
                    self.find(value, at + 1, name.clone() + &spelled(&key), most, found);
                }
            }
            (Step::Any, Json::Array(list)) => {
                for (index, value) in list.iter().enumerate() {
                    let index = Step::Key(Json::from(index));
                    self.find(value, at + 1, name.clone() + &spelled(&index), most, found);
                }
            }
            _ => (),
        }
        if found.len() == before {
            let rest: String = self.steps.iter().skip(at).map(spelled).collect();
            found.push((name + &rest, None));
        }
    }
}

fn spelled(step: &Step) -> String {
    match step {
        Step::Any => "[_]".to_owned(),
        Step::Key(Json::String(key)) if is_name(key) => format!(".{key}"),
        Step::Key(key) => format!("[{key}]"),
    }
}

fn is_name(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    key.chars().all(plain) && key.starts_with(|c: char| !c.is_ascii_digit())
}

impl Comparison {
    fn holds(&self, actual: Option<&Json>) -> bool {
        let held = match (&self.wanted, actual) {
            (Wanted::Anything, _) => return false,
            (_, None) => false,
            (Wanted::Compared(operator, with), Some(actual)) => compared(operator, actual, with),
            (Wanted::OneOf(accepted), Some(actual)) => accepted.contains(actual),
            (Wanted::Containing(member), Some(Json::Array(list))) => list.contains(member),
            (Wanted::Containing(member), Some(Json::Object(members))) => {
                members.values().any(|value| value == member)
            }
            (Wanted::Containing(_), Some(_)) => false,
            (Wanted::True, Some(actual)) => *actual != Json::Bool(false),
        };
        held != self.negated
    }

    fn verb(&self) -> &'static str {
        match self.wanted {
            Wanted::Anything => "reads",
            _ => "compares",
        }
    }

    fn expected(&self) -> Json {
        let text = match (&self.wanted, self.negated) {
            (Wanted::Compared(BoolOp::Eq, with), false) => return with.clone(),
            (Wanted::OneOf(accepted), false) => return Json::from(accepted.clone()),
            (Wanted::Compared(operator, with), _) => format!("{} {with}", sign(operator)),
            (Wanted::OneOf(accepted), _) => format!("one of {}", Json::from(accepted.clone())),
            (Wanted::Containing(member), _) => format!("with {member} in it"),
            (Wanted::True, _) => "there, and not false".to_owned(),
            (Wanted::Anything, _) => return Json::from("as the policy's text asks"),
        };
        Json::from(match self.negated {
            true => format!("not {text}"),
            false => text,
        })
    }
}

fn compared(operator: &BoolOp, actual: &Json, with: &Json) -> bool {
    let order = match (actual, with) {
        (Json::Number(actual), Json::Number(with)) => actual
            .as_f64()
            .zip(with.as_f64())
            .and_then(|(actual, with)| actual.partial_cmp(&with)),
        (Json::String(actual), Json::String(with)) => Some(actual.cmp(with)),
        _ => None,
    };
    match operator {
        BoolOp::Eq => actual == with || order.is_some_and(std::cmp::Ordering::is_eq),
        BoolOp::Ne => actual != with && !order.is_some_and(std::cmp::Ordering::is_eq),
        BoolOp::Lt => order.is_some_and(std::cmp::Ordering::is_lt),
        BoolOp::Le => order.is_some_and(std::cmp::Ordering::is_le),
        BoolOp::Gt => order.is_some_and(std::cmp::Ordering::is_gt),
        BoolOp::Ge => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

fn sign(operator: &BoolOp) -> &'static str {
    match operator {
        BoolOp::Lt => "<",
        BoolOp::Le => "<=",
        BoolOp::Eq => "==",
        BoolOp::Ge => ">=",
        BoolOp::Gt => ">",
        BoolOp::Ne => "!=",
    }
}

/// The same comparison with its sides exchanged.
fn turned(operator: &BoolOp) -> BoolOp {
    match operator {
        BoolOp::Lt => BoolOp::Gt,
        BoolOp::Le => BoolOp::Ge,
        BoolOp::Ge => BoolOp::Le,
        BoolOp::Gt => BoolOp::Lt,
        BoolOp::Eq => BoolOp::Eq,
        BoolOp::Ne => BoolOp::Ne,
    }
}

/// Names, and what they may stand for.
type Scope = BTreeMap<String, Vec<Place>>;

#[derive(Default)]
struct Reader {
    found: Vec<Comparison>,
    /// What functions are called with, by name and position.
    arguments: BTreeMap<(String, usize), Vec<Place>>,
    /// Rules whose value is a place.
    rules: Scope,
}

impl Reader {
    fn rule(&mut self, rule: &Rule, but: &str) {
        let Rule::Spec { head, bodies, .. } = rule else {
            return;
        };
        let (refr, assign, arguments) = match head {
            RuleHead::Compr { refr, assign, .. } => (refr, assign.as_ref(), &[][..]),
            RuleHead::Set { refr, .. } => (refr, None, &[][..]),
            RuleHead::Func {
                refr, args, assign, ..
            } => (refr, assign.as_ref(), args.as_slice()),
        };
        let name = match &**refr {
            Expr::RefBrack { refr, .. } | Expr::RefDot { refr, .. } => text(refr),
            _ => text(refr),
        };
        let Some(name) = name.filter(|name| name != but) else {
            return;
        };
        let mut scope = Scope::new();
        for (position, argument) in arguments.iter().enumerate() {
            if let (Some(argument), Some(places)) = (
                text(argument),
                self.arguments.get(&(name.clone(), position)),
            ) {
                scope.insert(argument, places.clone());
            }
        }
        let is_function = matches!(head, RuleHead::Func { .. });
        if bodies.is_empty() {
            self.value(&name, assign, &scope, is_function);
        }
        for body in bodies {
            let inner = self.query(&body.query, &scope, 0);
            self.value(&name, body.assign.as_ref().or(assign), &inner, is_function);
        }
    }

    /// The value of a rule.
    fn value(&mut self, name: &str, assign: Option<&RuleAssign>, scope: &Scope, function: bool) {
        let Some(assign) = assign else { return };
        let places = self.places(&assign.value, scope, 0);
        match places.is_empty() || function {
            true => self.expression(&assign.value, scope, false, 0),
            false => extend(self.rules.entry(name.to_owned()).or_default(), places),
        }
    }

    /// Reads a body, and gives its names.
    fn query(&mut self, query: &Query, outer: &Scope, depth: usize) -> Scope {
        let mut scope = outer.clone();
        if depth > MAX_DEPTH {
            return scope;
        }
        // The order of a body is nobody's: names first.
        for _ in 0..2 {
            for statement in &query.stmts {
                self.name(&statement.literal, &mut scope, depth);
            }
        }
        for statement in &query.stmts {
            match &statement.literal {
                Literal::SomeVars { .. } | Literal::SomeIn { .. } => (),
                Literal::Expr { expr, .. } => self.condition(expr, &scope, false, depth + 1),
                Literal::NotExpr { expr, .. } => self.condition(expr, &scope, true, depth + 1),
                Literal::Every {
                    value,
                    domain,
                    query,
                    ..
                } => {
                    let mut inner = scope.clone();
                    let members = self.members(domain, &scope, depth + 1);
                    inner.insert(value.text().to_owned(), members);
                    self.query(query, &inner, depth + 1);
                }
            }
        }
        scope
    }

    /// Learns what a statement gives names to.
    fn name(&self, literal: &Literal, scope: &mut Scope, depth: usize) {
        match literal {
            Literal::SomeIn {
                value, collection, ..
            } => {
                if let Some(name) = text(value) {
                    let members = self.members(collection, scope, depth);
                    scope.insert(name, members);
                }
            }
            Literal::Expr { expr, .. } => {
                let Expr::AssignExpr { lhs, rhs, .. } = &**expr else {
                    return;
                };
                let places = self.places(rhs, scope, depth);
                if let (Some(name), false) = (text(lhs), places.is_empty()) {
                    scope.insert(name, places);
                } else if let Expr::Array { items, .. } = &**lhs {
                    for (index, item) in items.iter().enumerate() {
                        let step = [Step::Key(Json::from(index))];
                        let items = places.iter().filter_map(|place| place.then(&step));
                        if let Some(name) = text(item) {
                            scope.insert(name, items.collect());
                        }
                    }
                }
            }
            _ => (),
        }
    }

    fn members(&self, collection: &Expr, scope: &Scope, depth: usize) -> Vec<Place> {
        let places = self.places(collection, scope, depth);
        let member = |place: &Place| place.then(&[Step::Any]);
        places.iter().filter_map(member).collect()
    }

    /// A statement that must hold: a place by itself must be there and not `false`.
    fn condition(&mut self, expr: &Expr, scope: &Scope, negated: bool, depth: usize) {
        match self.places(expr, scope, depth) {
            places if places.is_empty() => self.expression(expr, scope, negated, depth),
            places => self.found(places, &Wanted::True, negated),
        }
    }

    fn expression(&mut self, expr: &Expr, scope: &Scope, negated: bool, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        let depth = depth + 1;
        let places = self.places(expr, scope, depth);
        if !places.is_empty() {
            return self.found(places, &Wanted::Anything, false);
        }
        match expr {
            Expr::BoolExpr { op, lhs, rhs, .. } => {
                self.comparison((lhs, op, rhs), scope, negated, depth);
            }
            Expr::AssignExpr {
                op: AssignOp::Eq,
                lhs,
                rhs,
                ..
            } => self.comparison((lhs, &BoolOp::Eq, rhs), scope, negated, depth),
            // A name for a place is no use of it.
            Expr::AssignExpr { rhs, .. } if self.places(rhs, scope, depth).is_empty() => {
                self.expression(rhs, scope, negated, depth);
            }
            Expr::AssignExpr { .. } => {}
            Expr::Membership {
                value, collection, ..
            } => {
                let places = self.places(value, scope, depth);
                let collections = self.places(collection, scope, depth);
                match (literals(collection), literal(value)) {
                    (Some(accepted), _) if !places.is_empty() => {
                        self.found(places, &Wanted::OneOf(accepted), negated);
                    }
                    (_, Some(member)) if !collections.is_empty() => {
                        self.found(collections, &Wanted::Containing(member), negated);
                    }
                    _ => {
                        self.expression(value, scope, false, depth);
                        self.expression(collection, scope, false, depth);
                    }
                }
            }
            Expr::Call { fcn, params, .. } => {
                let name = text(fcn).unwrap_or_default();
                for (position, param) in params.iter().enumerate() {
                    let places = self.places(param, scope, depth);
                    let known = self.arguments.entry((name.clone(), position)).or_default();
                    extend(known, places);
                    self.expression(param, scope, false, depth);
                }
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                let inner = self.query(query, scope, depth);
                self.expression(term, &inner, false, depth);
            }
            Expr::ObjectCompr { value, query, .. } => {
                let inner = self.query(query, scope, depth);
                self.expression(value, &inner, false, depth);
            }
            Expr::UnaryExpr { expr, .. } => self.expression(expr, scope, false, depth),
            Expr::BinExpr { lhs, rhs, .. } | Expr::ArithExpr { lhs, rhs, .. } => {
                self.expression(lhs, scope, false, depth);
                self.expression(rhs, scope, false, depth);
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => {
                for item in items {
                    self.expression(item, scope, false, depth);
                }
            }
            Expr::Object { fields, .. } => {
                for (_, _, value) in fields {
                    self.expression(value, scope, false, depth);
                }
            }
            _ => (),
        }
    }

    fn comparison(
        &mut self,
        (lhs, operator, rhs): (&Expr, &BoolOp, &Expr),
        scope: &Scope,
        negated: bool,
        depth: usize,
    ) {
        for (place, operator, with) in [(lhs, operator.clone(), rhs), (rhs, turned(operator), lhs)]
        {
            let places = self.places(place, scope, depth);
            if let (Some(with), false) = (literal(with), places.is_empty()) {
                return self.found(places, &Wanted::Compared(operator, with), negated);
            }
        }
        self.expression(lhs, scope, false, depth);
        self.expression(rhs, scope, false, depth);
    }

    fn found(&mut self, places: Vec<Place>, wanted: &Wanted, negated: bool) {
        for place in places {
            let comparison = Comparison {
                place,
                wanted: wanted.clone(),
                negated,
            };
            if self.found.len() < MAX_FOUND && !self.found.contains(&comparison) {
                self.found.push(comparison);
            }
        }
    }

    /// What an expression may stand for: places, where it is a reference, or a default for one.
    fn places(&self, expr: &Expr, scope: &Scope, depth: usize) -> Vec<Place> {
        if depth > MAX_DEPTH {
            return Vec::new();
        }
        let (mut base, mut steps) = (expr, Vec::new());
        loop {
            match base {
                Expr::RefDot { refr, field, .. } => {
                    steps.push(json(&field.1).map_or(Step::Any, Step::Key));
                    base = refr;
                }
                Expr::RefBrack { refr, index, .. } => {
                    steps.push(literal(index).map_or(Step::Any, Step::Key));
                    base = refr;
                }
                _ => break,
            }
            if steps.len() > MAX_STEPS {
                return Vec::new();
            }
        }
        steps.reverse();
        let places = match base {
            Expr::Var { .. } => self.named(&text(base).unwrap_or_default(), &mut steps, scope),
            Expr::Call { fcn, params, .. } if text(fcn).as_deref() == Some("object.get") => {
                self.defaulted(params, scope, depth)
            }
            _ => Vec::new(),
        };
        if places.is_empty() {
            return of_a_submodule(&steps).into_iter().collect();
        }
        places
            .iter()
            .filter_map(|place| place.then(&steps))
            .collect()
    }

    fn named(&self, name: &str, steps: &mut Vec<Step>, scope: &Scope) -> Vec<Place> {
        let is = |step: Option<&Step>, name: &str| step == Some(&Step::Key(Json::from(name)));
        match (name, scope.get(name)) {
            (_, Some(places)) => places.clone(),
            ("input", None) => vec![Place::new(Root::Input)],
            // A rule by its full name.
            ("data", None) if is(steps.first(), "policy") => {
                let rule = steps.get(1).cloned();
                steps.drain(..steps.len().min(2));
                let rules = match &rule {
                    Some(Step::Key(Json::String(rule))) => self.rules.get(rule),
                    _ => None,
                };
                rules.cloned().unwrap_or_default()
            }
            ("data", None) => vec![Place::new(Root::Data)],
            (_, None) => self.rules.get(name).cloned().unwrap_or_default(),
        }
    }

    /// `object.get(object, key or path, default)`.
    fn defaulted(&self, params: &[Ref<Expr>], scope: &Scope, depth: usize) -> Vec<Place> {
        let [object, path, _] = params else {
            return Vec::new();
        };
        let steps: Vec<Step> = match &**path {
            Expr::Array { items, .. } => items
                .iter()
                .map(|item| literal(item).map_or(Step::Any, Step::Key))
                .collect(),
            _ => vec![literal(path).map_or(Step::Any, Step::Key)],
        };
        let objects = self.places(object, scope, depth + 1);
        let places: Vec<Place> = objects
            .iter()
            .filter_map(|object| object.then(&steps))
            .collect();
        match places.is_empty() {
            true => of_a_submodule(&steps).into_iter().collect(),
            false => places,
        }
    }
}

/// A place under a name that could not be followed: members that begin with `ear.` are a submodule's, and nothing
/// else's.
fn of_a_submodule(steps: &[Step]) -> Option<Place> {
    let is_ear =
        |step: &Step| matches!(step, Step::Key(Json::String(key)) if key.starts_with("ear."));
    let at = steps.iter().position(is_ear)?;
    let submods = [Step::Key(Json::from("submods")), Step::Any];
    let submodule = Place::new(Root::Input).then(&submods)?;
    submodule.then(steps.get(at..)?)
}

fn extend(known: &mut Vec<Place>, places: Vec<Place>) {
    for place in places {
        if known.len() < MAX_MEANINGS && !known.contains(&place) {
            known.push(place);
        }
    }
}

/// A name, or a function's with its namespace.
fn text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Var { value, .. } => Some(value.as_string().ok()?.to_string()),
        Expr::RefDot { refr, field, .. } => {
            let Expr::Var { value, .. } = &**refr else {
                return None;
            };
            let member = field.1.as_string().ok()?;
            Some(format!("{}.{member}", value.as_string().ok()?))
        }
        _ => None,
    }
}

fn json(value: &strongroom_rego::RegoValue) -> Option<Json> {
    serde_json::to_value(value).ok()
}

/// The value of an expression that is one: a text, a number, or a list of such.
fn literal(expr: &Expr) -> Option<Json> {
    match expr {
        Expr::Array { items, .. } => scalars(items).map(Json::from),
        other => scalar(other),
    }
}

fn literals(expr: &Expr) -> Option<Vec<Json>> {
    match expr {
        Expr::Array { items, .. } | Expr::Set { items, .. } => scalars(items),
        _ => None,
    }
}

fn scalars(items: &[Ref<Expr>]) -> Option<Vec<Json>> {
    items.iter().map(|item| scalar(item)).collect()
}

fn scalar(expr: &Expr) -> Option<Json> {
    match expr {
        Expr::String { value, .. }
        | Expr::RawString { value, .. }
        | Expr::Number { value, .. }
        | Expr::Bool { value, .. }
        | Expr::Null { value, .. } => json(value),
        _ => None,
    }
}

/// Calls of calls are followed as deep.
const SWEEPS: usize = 4;
const MAX_DEPTH: usize = 48;
const MAX_STEPS: usize = 24;
const MAX_FOUND: usize = 128;
const MAX_MEANINGS: usize = 8;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn unmet_of(rego: &str, input: &Json) -> Vec<(String, Json, Json)> {
        let mut engine = regorus::Engine::new();
        let text = format!("package policy\n\nimport rego.v1\n\n{rego}");
        engine.add_policy("p".to_owned(), text).unwrap();
        let module = &engine.get_modules()[0];
        let data =
            json!({"plugin": "resource", "resource-path": ["a", "b", "c"], "query": {"x": "1"}});
        unmet(&comparisons(module, "denials"), "allow", (input, &data), 32)
            .into_iter()
            .map(|reason| (reason.claim, reason.expected, reason.actual))
            .collect()
    }

    fn token() -> Json {
        json!({
            "time": 70,
            "submods": {
                "cpu0": {"ear.status": "warning", "ear.veraison.annotated-evidence": {"snp": {"measurement": "aa"}}},
                "gpu0": {"ear.status": "affirming"},
            },
        })
    }

    /// One comparison that does not hold.
    fn claim(rego: &str) -> (String, Json, Json) {
        let found = unmet_of(rego, &token());
        assert_eq!(found.len(), 1, "{rego}: {found:?}");
        found.into_iter().next().unwrap()
    }

    const STATUS: &str = "input.submods.cpu0[\"ear.status\"]";

    #[test]
    fn compared_claim_is_not_found_however_it_is_written() {
        let status = (STATUS.to_owned(), json!("affirming"), json!("warning"));
        for rego in [
            "allow if input.submods.cpu0[\"ear.status\"] == \"affirming\"",
            "allow if \"affirming\" == input[\"submods\"].cpu0[\"ear.status\"]",
            "allow if input.submods[\"cpu0\"][\"ear.status\"] = \"affirming\"",
            "allow if { every _, submod in input.submods { submod[\"ear.status\"] == \"affirming\" } }",
            "allow if { some submod in input.submods; submod[\"ear.status\"] == \"affirming\" }",
            "allow if { some name, submod in input.submods\n name\n submod[\"ear.status\"] == \"affirming\" }",
            "allow if { cpu.x; status == \"affirming\" }\n\ncpu := {\"x\": 1}\n\nstatus := input.submods.cpu0[\"ear.status\"]",
            "allow if good(input.submods.cpu0)\n\ngood(one) if one[\"ear.status\"] == \"affirming\"",
            "allow if all(input.submods)\n\nall(many) if { some one in many; good(one) }\n\ngood(one) if one[\"ear.status\"] == \"affirming\"",
            "allow if { status := input.submods.cpu0[\"ear.status\"]; status == \"affirming\" }",
            "allow if object.get(input, [\"submods\", \"cpu0\", \"ear.status\"], \"none\") == \"affirming\"",
            "allow if count([1 | input.submods[_][\"ear.status\"] != \"affirming\"]) == 0\n\nx if input.submods.cpu0[\"ear.status\"] == \"affirming\"",
            "allow if unfollowed(walk)[0][\"ear.status\"] == \"affirming\"\n\nunfollowed(x) := [x]",
        ] {
            let found = unmet_of(rego, &token());
            assert!(found.contains(&status), "{rego}: {found:?}");
        }
    }

    #[test]
    fn other_comparisons_say_what_they_want() {
        let time = |expected: &str| ("input.time".to_owned(), json!(expected), json!(70));
        assert_eq!(claim("allow if input.time < 60"), time("< 60"));
        assert_eq!(claim("allow if 60 >= input.time"), time("<= 60"));
        assert_eq!(claim("allow if input.time != 70"), time("!= 70"));
        assert_eq!(claim("allow if not input.time == 70"), time("not == 70"));
        assert_eq!(
            claim("allow if input.time in {1, 2}"),
            ("input.time".to_owned(), json!([1, 2]), json!(70))
        );
        assert_eq!(
            claim("allow if input.never"),
            (
                "input.never".to_owned(),
                json!("there, and not false"),
                json!("absent")
            )
        );
        assert_eq!(
            claim("allow if not input.time"),
            (
                "input.time".to_owned(),
                json!("not there, and not false"),
                json!(70)
            )
        );
        assert_eq!(
            claim("allow if data[\"resource-path\"] == [\"a\", \"b\", \"d\"]"),
            (
                "data[\"resource-path\"]".to_owned(),
                json!(["a", "b", "d"]),
                json!(["a", "b", "c"])
            )
        );
        assert_eq!(
            claim("allow if { [_, type, _] := data[\"resource-path\"]; type == \"x\" }"),
            (
                "data[\"resource-path\"][1]".to_owned(),
                json!("x"),
                json!("b")
            )
        );
        assert_eq!(
            claim("allow if \"z\" in data[\"resource-path\"]").1,
            json!("with \"z\" in it")
        );
        assert_eq!(
            claim("allow if data.query.y == \"2\""),
            ("data.query.y".to_owned(), json!("2"), json!("absent"))
        );
        assert_eq!(
            claim("allow if data.policy.plugin == \"other\"\n\nplugin = data.plugin"),
            ("data.plugin".to_owned(), json!("other"), json!("resource"))
        );
    }

    #[test]
    fn what_holds_and_what_only_explains_is_named() {
        for rego in [
            "allow if { input.time > 60; data.plugin == \"resource\"; input.submods.gpu0[\"ear.status\"] == \"affirming\" }",
            "allow := false\n\ndenials contains 1 if input.time < 60",
            "allow := false",
            "default allow := false",
        ] {
            assert_eq!(unmet_of(rego, &token()), [], "{rego}");
        }
    }

    #[test]
    fn what_is_only_read_is_named_last_and_not_beside_what_is_compared_in_it() {
        let rego = "allow if { startswith(input.submods.cpu0.x, \"a\"); count(input.submods) > 7; input.time == 1; \
                    input.submods.cpu0.y == 2 }";
        let claims: Vec<String> = unmet_of(rego, &token())
            .into_iter()
            .map(|found| found.0)
            .collect();
        assert_eq!(
            claims,
            ["input.time", "input.submods.cpu0.y", "input.submods.cpu0.x"]
        );
    }

    #[test]
    fn deep_or_endless_text_does_not_end_the_walk() {
        let deep = format!("allow if {}input.x{} == 1", "[".repeat(8), "]".repeat(8));
        assert_eq!(unmet_of(&deep, &token()).len(), 1);
        let calls = format!("allow if {}input.x{} == 1", "f(".repeat(20), ")".repeat(20));
        unmet_of(&calls, &token());
        let steps = format!("allow if input{} == 1", ".a".repeat(60));
        assert_eq!(unmet_of(&steps, &token()), []);
        let circle = "allow if { a := b.x; b := a.y; a == 1 }";
        let mut engine = regorus::Engine::new();
        let text = format!("package policy\n\nimport rego.v1\n\n{circle}");
        if engine.add_policy("p".to_owned(), text).is_ok() {
            comparisons(&engine.get_modules()[0], "denials");
        }
        let many: String = (0..300).fold("allow if {\n".to_owned(), |text, n| {
            text + &format!("\tinput.x{n} == 1\n")
        }) + "}";
        assert_eq!(unmet_of(&many, &token()).len(), 32);
    }
}
