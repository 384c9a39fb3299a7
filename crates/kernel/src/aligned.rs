//! Numbers that begin at a cache line and are wiped when they are dropped: weights, and what rows become on their way.

use zeroize::Zeroizing;

/// A fixed number of f32, 64-byte aligned.
pub(crate) struct Aligned {
    memory: Zeroizing<Vec<f32>>,
    skipped: usize,
    length: usize,
}

impl Aligned {
    /// `length` zeros.
    pub(crate) fn zeros(length: usize) -> Self {
        let memory = Zeroizing::new(vec![0.0_f32; length + LINE]);
        // Where the start cannot be told (the method may refuse), the memory is used unaligned: slower, not wrong.
        let skipped = memory.as_ptr().align_offset(LINE * size_of::<f32>());
        Self {
            memory,
            skipped: if skipped < LINE { skipped } else { 0 },
            length,
        }
    }

    /// A copy of what may be a secret: it is written once, so no growing vector leaves a part of it behind.
    pub(crate) fn copy_of(numbers: &[f32]) -> Self {
        let mut copy = Self::zeros(numbers.len());
        copy.as_mut_slice().copy_from_slice(numbers);
        copy
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        &self.memory[self.skipped..][..self.length]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.memory[self.skipped..][..self.length]
    }
}

/// Numbers in a cache line.
const LINE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_begins_in_the_middle_of_another() {
        for length in [0, 1, 15, 16, 17, 1000] {
            let zeros = Aligned::zeros(length);
            assert_eq!(zeros.as_slice().len(), length);
            assert_eq!(zeros.as_slice().as_ptr().addr() % 64, 0);
        }
        assert_eq!(Aligned::copy_of(&[1.0, 2.0]).as_slice(), [1.0, 2.0]);
    }
}
