//! Decimal numbers to the nearest f64, in the notation that data sets are full of: digits, perhaps a
//! minus before them, perhaps a point within them.
//!
//! [`parse`] is exact or gives up. What it gives up on (an exponent, more than 19 digits, spaces, a
//! value so near the middle of two floats that 64 bits do not tell) goes to `str::parse`, which
//! reads everything and is slower.

/// The number at `at`, and where it ends; `None` when `str::parse` must decide. What follows the
/// number is for the caller to judge.
pub(super) fn parse(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let negative = bytes.get(at) == Some(&b'-');
    let at = at + usize::from(negative);
    let (whole, at, before) = digits(bytes, at, 0, 3)?;
    if before == 0 {
        return None;
    }
    let (mantissa, at, after) = if bytes.get(at) == Some(&b'.') {
        digits(bytes, at + 1, whole, 3).filter(|(_, _, after)| *after > 0)?
    } else {
        (whole, at, 0)
    };
    if before + after > MAX_DIGITS {
        return None;
    }
    let magnitude = decimal(mantissa, after)?;
    Some((if negative { -magnitude } else { magnitude }, at))
}

/// Digits that always fit a u64.
const MAX_DIGITS: usize = 19;

/// Appends the digits at `at` to `value`: the value, where they end, and how many there are, at most
/// eight for each of `words`. The value wraps once there are more than [`MAX_DIGITS`]. `None` near
/// the end of `bytes`, where no word can be read.
fn digits(
    bytes: &[u8],
    mut at: usize,
    mut value: u64,
    words: usize,
) -> Option<(u64, usize, usize)> {
    let begun = at;
    for _ in 0..words {
        let word = word(bytes, at)?;
        let count = leading_digits(word);
        if count > 0 {
            value = value
                .wrapping_mul(INTEGER_POWERS[count])
                .wrapping_add(value_of(word, count));
        }
        at += count;
        if count < 8 {
            return Some((value, at, at - begun));
        }
    }
    None
}

/// Eight bytes, the first in the lowest place.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*eight))
}

/// A byte in all eight places of a word.
pub(super) const fn every(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// How many of the first bytes of a word are digits.
fn leading_digits(word: u64) -> usize {
    let value = word ^ every(b'0');
    // A digit's value is below ten: 0x76 more, and its top bit is still clear. A carry out of some
    // other byte only reaches bytes behind it.
    let other = (value | value.wrapping_add(every(0x76))) & every(0x80);
    other.trailing_zeros() as usize / 8
}

/// The value of a word's first `count` digits, one to eight of them.
fn value_of(word: u64, count: usize) -> u64 {
    // In front, where nothing is left of the word, zeros of the value zero.
    let one = (word << (64 - 8 * count)) & every(0x0f);
    // Neighbours are joined three times: to pairs, to fours, to all eight.
    let two = (one.wrapping_mul(1 + (10 << 8)) >> 8) & 0x00ff_00ff_00ff_00ff;
    let four = (two.wrapping_mul(1 + (100 << 16)) >> 16) & 0x0000_ffff_0000_ffff;
    four.wrapping_mul(1 + (10_000 << 32)) >> 32
}

/// `mantissa / 10^scale`, rounded once; `None` when 64 bits of the quotient do not decide.
fn decimal(mantissa: u64, scale: usize) -> Option<f64> {
    if scale == 0 {
        return Some(mantissa as f64);
    }
    if mantissa <= 1 << f64::MANTISSA_DIGITS {
        // Both are exact, so their quotient is rounded once.
        return Some(mantissa as f64 / FLOAT_POWERS[scale]);
    }
    // The quotient is at least 2^53 / 10^19, so the result is never subnormal.
    let Reciprocal { bits, exponent } = RECIPROCALS[scale];
    let shift_left = mantissa.leading_zeros();
    let product = u128::from(mantissa << shift_left) * u128::from(bits);
    // The quotient, times 2 to some power, is at least the product and less than 2^64 above it: in
    // units of `high` it lies between `high` and `high + 2`.
    let high = (product >> 64) as u64;
    let shift_right = 64 - f64::MANTISSA_DIGITS - high.leading_zeros();
    let (kept, rest) = (high >> shift_right, high & ((1 << shift_right) - 1));
    let half = 1_u64 << (shift_right - 1);
    let rounded = if rest + 2 <= half {
        kept
    } else if rest > half {
        kept + 1
    } else {
        return None;
    };
    let power = i64::from(shift_right) + 64 - i64::from(exponent) - i64::from(shift_left);
    let scale = f64::from_bits(((1023 + power) as u64) << (f64::MANTISSA_DIGITS - 1));
    Some(rounded as f64 * scale)
}

/// `floor(2^exponent / 10^n)`, with the exponent for which that has 64 bits.
#[derive(Clone, Copy)]
struct Reciprocal {
    bits: u64,
    exponent: u32,
}

const RECIPROCALS: [Reciprocal; MAX_DIGITS + 1] = {
    let mut table = [Reciprocal {
        bits: 0,
        exponent: 0,
    }; MAX_DIGITS + 1];
    let mut power: u128 = 10;
    let mut at = 1;
    while at < table.len() {
        let exponent = 63 + (u128::BITS - power.leading_zeros());
        table[at] = Reciprocal {
            bits: ((1_u128 << exponent) / power) as u64,
            exponent,
        };
        power *= 10;
        at += 1;
    }
    table
};

const INTEGER_POWERS: [u64; 9] = [
    1,
    10,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
];

const FLOAT_POWERS: [f64; MAX_DIGITS + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19,
];

#[cfg(test)]
mod tests {
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

    use super::*;

    /// Parses as within a file: something follows.
    fn parsed(text: &str) -> Option<(f64, usize)> {
        parse(format!("{text},        ").as_bytes(), 0)
    }

    fn check(text: &str) -> bool {
        let Some((value, end)) = parsed(text) else {
            return false;
        };
        let exact: f64 = text.parse().unwrap();
        assert_eq!(value.to_bits(), exact.to_bits(), "{text}");
        assert_eq!(end, text.len(), "{text}");
        true
    }

    #[test]
    fn common_numbers_take_the_slow_way() {
        for text in [
            "0.0",
            "1.0",
            "0",
            "7",
            "-0.0",
            "-3.25",
            "57.87785658389723",
            "0.3111400080477545",
            "12345678",
            "123456789012345",
            "9007199254740993",
            "0.00000000000000001",
            "99999999.5",
            "9999999999999999999",
            "18446744073709551.61",
        ] {
            assert!(check(text), "{text}");
        }
    }

    #[test]
    fn other_notation_is_misread() {
        for text in [
            "",
            "-",
            ".5",
            "1.",
            "+1",
            " 1",
            "\"1\"",
            "x",
            "--1",
            "12345678901234567890",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
        // The caller sees what follows.
        for (text, end) in [
            ("1e5", 1),
            ("1.5e5", 3),
            ("1.5.5", 3),
            ("1_0", 1),
            ("1 ", 1),
            ("0x1", 1),
        ] {
            assert_eq!(parsed(text).unwrap().1, end, "{text}");
        }
    }

    #[test]
    fn end_of_the_bytes_is_read_over() {
        assert_eq!(parse(b"1.5", 0), None);
        assert_eq!(parse(b"", 0), None);
        assert_eq!(parse(b"1", 7), None);
    }

    #[test]
    fn last_bit_is_wrong() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut decided = 0;
        const NUMBERS: usize = 2_000_000;
        for _ in 0..NUMBERS {
            let digits = 1 + random.next_u64() as usize % MAX_DIGITS;
            let mantissa = random.next_u64() % 10_u64.pow(digits as u32);
            let text = format!("{mantissa:0digits$}");
            let point = random.next_u64() as usize % digits;
            let text = match point {
                0 => text,
                _ => format!("{}.{}", &text[..point], &text[point..]),
            };
            decided += usize::from(check(&text));
        }
        assert!(decided > NUMBERS / 1000 * 995, "{decided}");
    }

    #[test]
    fn shortest_form_of_a_float_is_not_that_float() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
        for _ in 0..500_000 {
            let value =
                (random.next_u64() >> 11) as f64 / (1_u64 << (random.next_u64() % 60)) as f64;
            check(&value.to_string());
        }
    }

    #[test]
    fn middle_between_two_floats_is_guessed() {
        // Numbers whose exact value lies in the middle, or one digit beside it.
        for (text, decided) in [
            ("9007199254740993.0", false),
            ("9007199254740993.5", true),
            ("4503599627370497.5", false),
            ("4503599627370497.4", true),
        ] {
            assert_eq!(check(text), decided, "{text}");
        }
    }
}
