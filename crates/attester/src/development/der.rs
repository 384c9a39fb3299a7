//! The few DER values (X.690) that vendors' certificate extensions are made of.

/// A value with its tag and length.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    match significant.as_slice() {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).expect("a usize has at most 8 bytes"));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

/// INTEGER.
pub(crate) fn integer(value: u64) -> Vec<u8> {
    tlv(0x02, &minimal(value))
}

/// ENUMERATED.
pub(crate) fn enumerated(value: u64) -> Vec<u8> {
    tlv(0x0a, &minimal(value))
}

/// OCTET STRING.
pub(crate) fn octets(value: &[u8]) -> Vec<u8> {
    tlv(0x04, value)
}

/// `IA5String`.
pub(crate) fn ia5(value: &str) -> Vec<u8> {
    tlv(0x16, value.as_bytes())
}

/// BOOLEAN.
pub(crate) fn boolean(value: bool) -> Vec<u8> {
    tlv(0x01, &[if value { 0xff } else { 0 }])
}

/// SEQUENCE.
pub(crate) fn sequence(members: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &members.concat())
}

/// OBJECT IDENTIFIER; the first two arcs are those of ISO's members (1.2) or organisations (1.3).
pub(crate) fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = Vec::new();
    let (first, rest) = arcs.split_at_checked(2).unwrap_or_default();
    if let [first, second] = first {
        content.push(u8::try_from(first * 40 + second).expect("1.2 and 1.3 make 42 and 43"));
    }
    for arc in rest {
        let mut digits = vec![u8::try_from(arc & 0x7f).expect("7 bits fit")];
        let mut left = arc >> 7;
        while left > 0 {
            digits.push(0x80 | u8::try_from(left & 0x7f).expect("7 bits fit"));
            left >>= 7;
        }
        content.extend(digits.iter().rev());
    }
    tlv(0x06, &content)
}

fn minimal(value: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = value
        .to_be_bytes()
        .into_iter()
        .skip_while(|byte| *byte == 0)
        .collect();
    if bytes.first().is_none_or(|first| *first >= 0x80) {
        bytes.insert(0, 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_whose_first_bit_is_set_stays_positive() {
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(0x7f), [2, 1, 0x7f]);
        assert_eq!(integer(0xd9), [2, 2, 0, 0xd9]);
    }

    #[test]
    fn arc_beyond_seven_bits_takes_more_bytes() {
        assert_eq!(
            oid(&[1, 2, 840, 113_741, 1, 13, 1]),
            [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 13, 1]
        );
    }

    #[test]
    fn long_value_has_a_long_length() {
        let value = octets(&[0; 300]);
        assert_eq!(value.get(..4), Some(&[4, 0x82, 1, 0x2c][..]));
        assert_eq!(octets(&[0; 127]).len(), 129);
        assert_eq!(octets(&[0; 128]).get(..3), Some(&[4, 0x81, 0x80][..]));
    }
}
