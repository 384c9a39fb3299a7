//! Operators that combine two values or more, number by number: arithmetic, comparisons, choices.

use tract_onnx::pb::NodeProto;

use super::attributes::Attributes;
use super::operators::{arithmetic_shape, make};
use super::weights::Weight;
use super::{Arithmetic, Form, Kind, Known, Numbers, Operator, Rows, Values};

/// Reads a node of two inputs or more.
pub(super) fn read(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    let two = match node.op_type.as_str() {
        "Add" => Arithmetic::Add,
        "Sub" => Arithmetic::Sub,
        "Mul" => Arithmetic::Mul,
        "Div" => Arithmetic::Div,
        "Pow" => Arithmetic::Pow,
        "PRelu" => Arithmetic::PRelu,
        "Greater" => Arithmetic::Greater,
        "GreaterOrEqual" => Arithmetic::GreaterOrEqual,
        "Less" => Arithmetic::Less,
        "LessOrEqual" => Arithmetic::LessOrEqual,
        "Equal" => Arithmetic::Equal,
        "And" => Arithmetic::And,
        "Or" => Arithmetic::Or,
        "Max" => return several(node, Arithmetic::Max, values),
        "Min" => return several(node, Arithmetic::Min, values),
        "Sum" | "Mean" => return several(node, Arithmetic::Add, values),
        "Where" => return choose(node, values),
        _ => return Err(super::UNKNOWN.into()),
    };
    Attributes::of(node, &[])?;
    let [a, b] = &node.input[..] else {
        return Err(format!("{} inputs, not 2", node.input.len()));
    };
    let (a, b) = (operand(a, values)?, operand(b, values)?);
    if two == Arithmetic::PRelu && !matches!((&a, &b), (Operand::Rows(_), Operand::Weight(_))) {
        return Err("its slope depends on the rows".into());
    }
    let made = combine(a, b, two, values)?;
    make(node, made, values)
}

/// An input: rows, or a constant by its name.
enum Operand<'n> {
    Rows(Rows),
    Weight(&'n str),
}

fn operand<'n>(name: &'n str, values: &Values<'_>) -> Result<Operand<'n>, String> {
    Ok(match values.of(name)? {
        Known::Rows(rows) => Operand::Rows(*rows),
        Known::Weight(_) => Operand::Weight(name),
    })
}

fn weight<'v>(name: &str, values: &'v Values<'_>) -> Result<&'v Weight, String> {
    match values.of(name)? {
        Known::Weight(weight) => Ok(weight),
        Known::Rows(_) => Err("one of its settings depends on the rows".into()),
    }
}

fn combine(
    a: Operand<'_>,
    b: Operand<'_>,
    operation: Arithmetic,
    values: &mut Values<'_>,
) -> Result<Rows, String> {
    match (a, b) {
        (Operand::Weight(_), Operand::Weight(_)) => Err("has constants only".into()),
        (Operand::Rows(a), Operand::Rows(b)) => of_two(a, b, operation, values),
        (Operand::Rows(rows), Operand::Weight(name)) => {
            // An exponent may be of another type: the power is of the type of its base.
            let any_type = operation == Arithmetic::Pow;
            let constant = for_each_column(rows, weight(name, values)?, any_type, values)?;
            with_constant(rows, operation, constant, false, values)
        }
        (Operand::Weight(name), Operand::Rows(rows)) => {
            let constant = for_each_column(rows, weight(name, values)?, false, values)?;
            with_constant(rows, operation, constant, true, values)
        }
    }
}

/// Combined one after the other.
fn several(node: &NodeProto, operation: Arithmetic, values: &mut Values<'_>) -> Result<(), String> {
    Attributes::of(node, &[])?;
    let [first, rest @ ..] = &node.input[..] else {
        return Err("has no input".into());
    };
    let mut made = operand(first, values)?;
    for name in rest {
        made = Operand::Rows(combine(made, operand(name, values)?, operation, values)?);
    }
    let Operand::Rows(mut made) = made else {
        return Err("has constants only".into());
    };
    arithmetic_shape(made, values)?;
    if node.op_type == "Mean" && !rest.is_empty() {
        let count = vec![node.input.len() as f64].into();
        made = with_constant(made, Arithmetic::Div, count, false, values)?;
    }
    make(node, made, values)
}

/// A constant for each column, by Numpy's broadcasting.
pub(super) fn with_constant(
    rows: Rows,
    operation: Arithmetic,
    constant: Numbers,
    first: bool,
    values: &mut Values<'_>,
) -> Result<Rows, String> {
    let width = values.shape(rows).0;
    let kind = result(operation, rows, values)?;
    let constant = match constant.len() {
        1 => vec![constant[0]; width].into(),
        columns if columns == width => constant,
        columns => return Err(format!("{columns} constants do not fit {width} columns")),
    };
    let operator = Operator::Constant {
        operation,
        constant,
        first,
    };
    let made = values.step(operator, &[rows.value], width, kind)?;
    Ok(Rows {
        form: rows.form,
        ..made
    })
}

/// The kind of what an operation makes of a value, if it takes such.
fn result(operation: Arithmetic, rows: Rows, values: &Values<'_>) -> Result<Kind, String> {
    let (_, kind) = values.shape(rows);
    match operation {
        Arithmetic::And | Arithmetic::Or if kind != Kind::Truth => {
            Err("its input is not made of truth values".into())
        }
        Arithmetic::And | Arithmetic::Or | Arithmetic::Equal => Ok(Kind::Truth),
        Arithmetic::Greater
        | Arithmetic::GreaterOrEqual
        | Arithmetic::Less
        | Arithmetic::LessOrEqual => match kind {
            Kind::Truth => Err("compares truth values".into()),
            _ => Ok(Kind::Truth),
        },
        Arithmetic::Add
        | Arithmetic::Sub
        | Arithmetic::Mul
        | Arithmetic::Div
        | Arithmetic::Pow
        | Arithmetic::Max
        | Arithmetic::Min
        | Arithmetic::PRelu => arithmetic_shape(rows, values).map(|(_, kind)| kind),
    }
}

/// The numbers of a constant that leaves the rows as they are.
fn for_each_column(
    rows: Rows,
    weight: &Weight,
    any_type: bool,
    values: &Values<'_>,
) -> Result<Numbers, String> {
    let (width, kind) = values.shape(rows);
    if weight.element.kind() != kind && !any_type {
        return Err("a constant is not of the type of the rows".into());
    }
    fits(weight, width, rows.form).map(|()| weight.numbers.clone())
}

/// Whether a constant is one number, or one for each column.
fn fits(weight: &Weight, width: usize, form: Form) -> Result<(), String> {
    let matrix = form == Form::Matrix;
    match weight.shape[..] {
        [] | [1] => Ok(()),
        [1, 1] if form != Form::Flat => Ok(()),
        [columns] | [1, columns] if columns == width && matrix => Ok(()),
        _ => Err(format!(
            "a weight of shape {:?} does not fit {width} columns",
            weight.shape
        )),
    }
}

/// Two values, of which one may be a number a row.
fn of_two(
    a: Rows,
    b: Rows,
    operation: Arithmetic,
    values: &mut Values<'_>,
) -> Result<Rows, String> {
    let ((a_width, a_kind), (b_width, b_kind)) = (values.shape(a), values.shape(b));
    if a_kind != b_kind || a.form != b.form {
        return Err("its inputs are of different types or dimensions".into());
    }
    let kind = result(operation, a, values)?;
    let width = together(&[(a, a_width), (b, b_width)])?;
    let operator = Operator::Arithmetic(operation);
    let made = values.step(operator, &[a.value, b.value], width, kind)?;
    Ok(Rows {
        form: a.form,
        ..made
    })
}

/// The width of values side by side, of which some may have one number a row.
fn together(of: &[(Rows, usize)]) -> Result<usize, String> {
    let width = of.iter().map(|(_, width)| *width).max().unwrap_or(0);
    for (rows, other) in of {
        if *other != width && (*other != 1 || rows.form != Form::Matrix) {
            return Err(format!("{width} and {other} columns"));
        }
    }
    Ok(width)
}

fn choose(node: &NodeProto, values: &mut Values<'_>) -> Result<(), String> {
    Attributes::of(node, &[])?;
    let [condition, when, otherwise] = &node.input[..] else {
        return Err(format!("{} inputs, not 3", node.input.len()));
    };
    let Operand::Rows(condition) = operand(condition, values)? else {
        return Err("its condition does not depend on the rows".into());
    };
    if values.shape(condition).1 != Kind::Truth {
        return Err("its condition is not made of truth values".into());
    }
    let sides = [operand(when, values)?, operand(otherwise, values)?];
    let (mut rows, mut kinds) = (vec![(condition, values.shape(condition).0)], Vec::new());
    for side in &sides {
        match side {
            Operand::Rows(side) => {
                let (width, kind) = values.shape(*side);
                rows.push((*side, width));
                kinds.push(kind);
            }
            Operand::Weight(name) => kinds.push(weight(name, values)?.element.kind()),
        }
    }
    let form = condition.form;
    if kinds[0] != kinds[1] || rows.iter().any(|(rows, _)| rows.form != form) {
        return Err("its inputs are of different types or dimensions".into());
    }
    let width = together(&rows)?;
    let constant = |side: &Operand<'_>| match side {
        Operand::Rows(_) => Ok(None),
        Operand::Weight(name) => {
            let weight = weight(name, values)?;
            fits(weight, width, form)?;
            Ok::<_, String>(Some(weight.numbers.clone()))
        }
    };
    let operator = Operator::Choose {
        when: constant(&sides[0])?,
        otherwise: constant(&sides[1])?,
    };
    let of: Vec<_> = rows.iter().map(|(rows, _)| rows.value).collect();
    let made = values.step(operator, &of, width, kinds[0])?;
    make(node, Rows { form, ..made }, values)
}
