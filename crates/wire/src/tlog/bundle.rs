//! Entry bundles (C2SP tlog-tiles, "Log entries"): entries behind their lengths, at most 256 in one.

use super::tile::FULL_WIDTH;

/// How long an entry can be: its length is a big-endian number of 16 bits.
pub const MAX_ENTRY: usize = 65_535;

/// Appends an entry to a bundle.
///
/// # Errors
/// [`BundleError::EntryTooLong`]; nothing is appended then.
pub fn append_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), BundleError> {
    let length = u16::try_from(entry.len()).map_err(|_| BundleError::EntryTooLong(entry.len()))?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// Parses a bundle: the entries in order, as many as there are.
///
/// # Errors
/// [`BundleError::Truncated`] when it ends within an entry, [`BundleError::TooMany`] when it holds more than a full
/// bundle does.
pub fn parse_bundle(bundle: &[u8]) -> Result<Vec<&[u8]>, BundleError> {
    let mut entries = Vec::new();
    for entry in split(bundle) {
        if entries.len() == usize::from(FULL_WIDTH) {
            return Err(BundleError::TooMany);
        }
        entries.push(entry?);
    }
    Ok(entries)
}

/// The entries one by one; after an error there is nothing more.
pub(super) fn split(bundle: &[u8]) -> impl Iterator<Item = Result<&[u8], BundleError>> {
    let mut rest = bundle;
    let mut number = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let entry = rest.split_first_chunk().and_then(|(length, behind)| {
            behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        });
        Some(if let Some((entry, behind)) = entry {
            rest = behind;
            number += 1;
            Ok(entry)
        } else {
            rest = &[];
            Err(BundleError::Truncated { number })
        })
    })
}

/// Why entries and bundles do not become each other.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The entry's length has no room in 16 bits.
    #[error("an entry of {0} bytes does not fit into a log: at most {MAX_ENTRY} do, record less")]
    EntryTooLong(usize),
    /// The bundle ends within an entry.
    #[error("the bundle ends within its entry number {number}, counted from 0")]
    Truncated {
        /// The entry's place in the bundle, from 0.
        number: usize,
    },
    /// More entries than a bundle has.
    #[error("the bundle holds more than {FULL_WIDTH} entries")]
    TooMany,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip_from_empty_to_the_longest() {
        let entries = [vec![], b"a".to_vec(), vec![7; MAX_ENTRY], vec![]];
        let mut bundle = Vec::new();
        for entry in &entries {
            append_entry(&mut bundle, entry).unwrap();
        }
        assert_eq!(bundle[..5], [0, 0, 0, 1, b'a']);
        assert_eq!(bundle[5..7], [0xff, 0xff]);
        assert_eq!(parse_bundle(&bundle).unwrap(), entries);
    }

    #[test]
    fn an_entry_one_byte_too_long_is_refused_and_leaves_no_trace() {
        let mut bundle = Vec::new();
        assert_eq!(
            append_entry(&mut bundle, &vec![0; MAX_ENTRY + 1]),
            Err(BundleError::EntryTooLong(MAX_ENTRY + 1))
        );
        assert!(bundle.is_empty());
    }

    #[test]
    fn a_bundle_that_ends_within_an_entry() {
        let mut bundle = Vec::new();
        append_entry(&mut bundle, b"one").unwrap();
        append_entry(&mut bundle, b"two").unwrap();
        for cut in 6..bundle.len() {
            assert_eq!(
                parse_bundle(&bundle[..cut]),
                Err(BundleError::Truncated { number: 1 })
            );
        }
        assert_eq!(parse_bundle(&bundle[..5]).unwrap(), [b"one"]);
    }

    #[test]
    fn a_bundle_with_a_257th_entry() {
        let mut bundle = vec![0; 512];
        assert_eq!(parse_bundle(&bundle).unwrap().len(), 256);
        bundle.extend_from_slice(&[0, 0]);
        assert_eq!(parse_bundle(&bundle), Err(BundleError::TooMany));
    }
}
