//! One entry for each decoder that has no other, for `fuzz/`. Not for programs.

/// A model of others, read with its columns in the order of its inputs. One that is accepted scores some rows.
pub fn onnx(bytes: &[u8]) {
    crate::model::read_unbound(bytes).ok();
}
