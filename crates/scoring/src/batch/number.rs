//! Decimal numbers to the nearest f64, in the notation that data sets are full of: digits, perhaps a
//! minus before them, perhaps a point within them.
//!
//! [`parse`] is exact or gives up. What it gives up on (an exponent, more than 15 digits before the
//! point or 19 in all, spaces, a value so near the middle of two floats that 64 bits do not tell) goes to `str::parse`, which
//! reads everything and is slower.

/// The number at `at`, and where it ends; `None` when `str::parse` must decide. What follows the
/// number is for the caller to judge.
#[inline(always)]
pub(super) fn parse(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let window = bytes.get(at..)?.first_chunk::<WINDOW>()?;
    let first = word(window, 0)?;
    // One digit on each side of the point: every flag that was written as a float.
    if let Some(value) = tenths(first) {
        return Some((value, at + 3));
    }
    let (value, length) = magnitude(window, first)?;
    Some((value, at + length))
}

/// How many bytes are looked at: a minus, fifteen digits, a point, three words of digits.
const WINDOW: usize = 41;

/// The value of `D.D`, when something else than a digit follows.
#[inline(always)]
fn tenths(word: u64) -> Option<f64> {
    let [whole, point, tenth, next, ..] = (word ^ every(b'0')).to_le_bytes();
    let is_it = whole <= 9 && tenth <= 9 && point == b'.' ^ b'0' && next > 9;
    is_it.then(|| f64::from(whole * 10 + tenth) / 10.0)
}

/// Any number that the window holds, and its length.
#[inline]
fn magnitude(window: &[u8; WINDOW], first: u64) -> Option<(f64, usize)> {
    let minus = usize::from(window[0] == b'-');
    let first = if minus == 1 { word(window, 1)? } else { first };
    let mut before = leading_digits(first);
    let mut whole = value_of(first, before);
    if before == 8 {
        let second = word(window, minus + 8)?;
        let more = leading_digits(second);
        whole = append(whole, second, more);
        before += more;
    }
    if before == 0 || before == 16 {
        return None;
    }
    let mut length = minus + before;
    let (mantissa, after) = if window[length] == b'.' {
        // All three words are looked at, wherever the digits end: what is not branched on is not
        // guessed wrong.
        let begin = length + 1;
        let digits: &[u8; 24] = window.get(begin..)?.first_chunk()?;
        let (a, b, c) = (word(digits, 0)?, word(digits, 8)?, word(digits, 16)?);
        let first = leading_digits(a);
        let second = leading_digits(b) * (first / 8);
        let third = leading_digits(c) * (second / 8);
        let after = first + second + third;
        if after == 0 {
            return None;
        }
        length = begin + after;
        let mantissa = append(append(append(whole, a, first), b, second), c, third);
        (mantissa, after)
    } else {
        (whole, 0)
    };
    if before + after > MAX_DIGITS {
        return None;
    }
    let value = decimal(mantissa, after)?;
    Some((if minus == 1 { -value } else { value }, length))
}

/// Digits that always fit a u64.
const MAX_DIGITS: usize = 19;

/// Eight bytes, the first in the lowest place.
#[inline(always)]
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*eight))
}

/// A byte in all eight places of a word.
pub(super) const fn every(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// How many of the first bytes of a word are digits.
#[inline(always)]
fn leading_digits(word: u64) -> usize {
    let value = word ^ every(b'0');
    // A digit's value is below ten: 0x76 more, and its top bit is still clear. A carry out of some
    // other byte only reaches bytes behind it.
    let other = (value | value.wrapping_add(every(0x76))) & every(0x80);
    other.trailing_zeros() as usize / 8
}

/// A word's first `count` digits behind those of `value`.
#[inline(always)]
fn append(value: u64, word: u64, count: usize) -> u64 {
    let shifted = value.wrapping_mul(INTEGER_POWERS[count]);
    shifted.wrapping_add(value_of(word, count))
}

/// The value of a word's first `count` digits, eight at most.
#[inline(always)]
fn value_of(word: u64, count: usize) -> u64 {
    // In front, where nothing is left of the word, zeros of the value zero.
    let one = word.unbounded_shl(64 - 8 * count as u32) & every(0x0f);
    // Neighbours are joined three times: to pairs, to fours, to all eight.
    let two = (one.wrapping_mul(1 + (10 << 8)) >> 8) & 0x00ff_00ff_00ff_00ff;
    let four = (two.wrapping_mul(1 + (100 << 16)) >> 16) & 0x0000_ffff_0000_ffff;
    four.wrapping_mul(1 + (10_000 << 32)) >> 32
}

/// `mantissa / 10^scale`, rounded once; `None` when 64 bits of the quotient do not decide.
#[inline(always)]
fn decimal(mantissa: u64, scale: usize) -> Option<f64> {
    if scale == 0 || mantissa == 0 {
        // Rounded once by the conversion.
        return Some(mantissa as f64);
    }
    let Reciprocal { bits, exponent } = RECIPROCALS[scale];
    let shift_left = mantissa.leading_zeros();
    let product = u128::from(mantissa << shift_left) * u128::from(bits);
    // The quotient, times 2 to some power, is at least the product and less than 2^64 above it: in
    // units of `high` it lies between `high` and `high + 2`.
    let high = (product >> 64) as u64;
    let shift_right = 64 - f64::MANTISSA_DIGITS - high.leading_zeros();
    let (kept, rest) = (high >> shift_right, high & ((1 << shift_right) - 1));
    let half = 1_u64 << (shift_right - 1);
    if rest == half || rest + 1 == half {
        return None;
    }
    let rounded = kept + u64::from(rest > half);
    // Of a float's bits the exponent stands above the mantissa without its first bit: should that
    // overflow by rounding, the exponent is one more, as it must be. The quotient is at least 10^-19
    // and below 2^64, so the exponent is one that floats have.
    let power = shift_right + 64 + FIRST_BIT + EXPONENT_BIAS - exponent - shift_left;
    Some(f64::from_bits(
        (u64::from(power) << FIRST_BIT) + rounded - (1 << FIRST_BIT),
    ))
}

/// The place of the first bit of a float's mantissa.
const FIRST_BIT: u32 = f64::MANTISSA_DIGITS - 1;
const EXPONENT_BIAS: u32 = 1023;

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

#[cfg(test)]
mod tests {
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

    use super::*;

    /// Parses as within a file: something follows.
    fn parsed(text: &str) -> Option<(f64, usize)> {
        parse(format!("{text},{}", " ".repeat(WINDOW)).as_bytes(), 0)
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
            "0.00000000000000001",
            "99999999.5",
            "1700000000",
            "1700000000.123",
            "-999999999999999.9999",
            "0.00",
            "00.5",
            "0.25",
            "0.3",
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
            "1234567890123456",
            "12345678901234567890",
            "0.12345678901234567890",
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
        assert!(decided > NUMBERS / 100 * 75, "{decided}");
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
            ("562949953421312.0625", false),
            ("562949953421312.0626", true),
            ("562949953421312.1875", false),
            ("562949953421312.1874", true),
            ("70368744177664.0078125", false),
        ] {
            assert_eq!(check(text), decided, "{text}");
        }
    }
}
