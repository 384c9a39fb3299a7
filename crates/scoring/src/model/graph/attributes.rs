//! The attributes of a node: known ones only, each once and of its type.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

use crate::shown;

/// The attributes of a node, by name.
pub(super) struct Attributes<'a>(&'a [AttributeProto]);

impl<'a> Attributes<'a> {
    /// Fails on an attribute that is not known or not of its type.
    pub(super) fn of(node: &'a NodeProto, known: &[(&str, AttributeType)]) -> Result<Self, String> {
        for (at, attribute) in node.attribute.iter().enumerate() {
            let name = &attribute.name;
            let type_ok = known
                .iter()
                .any(|(known, kind)| known == name && attribute.r#type == *kind as i32);
            // `known` is short, so a name that comes often is refused after few comparisons.
            let twice = node.attribute[..at]
                .iter()
                .any(|before| before.name == *name);
            if !type_ok || twice || !attribute.ref_attr_name.is_empty() || !attribute.f.is_finite()
            {
                return Err(format!("attribute \"{}\" is not understood", shown(name)));
            }
        }
        Ok(Self(&node.attribute))
    }

    fn find(&self, name: &str) -> Option<&'a AttributeProto> {
        self.0.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f64 {
        f64::from(self.find(name).map_or(default, |found| found.f))
    }

    pub(super) fn integer(&self, name: &str, default: i64) -> i64 {
        self.find(name).map_or(default, |found| found.i)
    }

    pub(super) fn integers(&self, name: &str) -> Option<&'a [i64]> {
        self.find(name).map(|found| &found.ints[..])
    }

    /// Numbers, whatever they are.
    pub(super) fn any_floats(&self, name: &str) -> Option<&'a [f32]> {
        self.find(name).map(|found| &found.floats[..])
    }

    /// Finite numbers.
    pub(super) fn floats(&self, name: &str) -> Result<Option<&'a [f32]>, String> {
        let floats = self.any_floats(name);
        if floats.is_some_and(|floats| floats.iter().any(|value| !value.is_finite())) {
            return Err(format!("\"{name}\" holds a value that is not finite"));
        }
        Ok(floats)
    }

    /// Text, or nothing where there is none; what is not text is no word that anybody knows.
    pub(super) fn text(&self, name: &str) -> &'a str {
        let bytes = self.find(name).map_or(&[][..], |found| &found.s);
        std::str::from_utf8(bytes).unwrap_or("?")
    }

    pub(super) fn texts(&self, name: &str) -> Option<&'a [Vec<u8>]> {
        self.find(name).map(|found| &found.strings[..])
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&'a TensorProto> {
        self.find(name).and_then(|found| found.t.as_ref())
    }
}
