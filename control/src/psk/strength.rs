//! Whether a pre-shared key could be guessed. Entropy cannot be seen in a key, so this is a rule, and the rule is
//! written down here:
//!
//! * *Octets* (`0s…`, `0x…`) and text that is hex with 32 digits or more: at least 16 octets; not the same stretch
//!   over and over; no constant step from octet to octet (`000102…`, `ffff…`).
//! * *Any other text*: base64 of at least 16 octets (in which a random key always shows upper and lower case), or
//!   length times log2 of the alphabet used at least 128, where the alphabet is the sum of the classes that occur:
//!   26 lower, 26 upper, 10 digits, 33 other ASCII, 100 for everything beyond; and 16 for nothing but hex digits. And nothing repeats: it is not the same
//!   stretch over and over, no four equal characters stand side by side, no four that count up or down by one
//!   (`abcd`, `4321`), and no stretch of six stands in it twice, upper and lower case being the same.
//!
//! A random key passes with a probability over 0.999 in each form.

use zeroize::Zeroizing;

/// The fewest octets of a key; 128 bits.
const OCTETS_MIN: usize = 16;

/// The fewest bits that a text must be worth.
const BITS_MIN: f64 = 128.0;

/// How many equal or consecutive characters make a run.
const RUN: usize = 4;

/// How long a stretch must be to count as repeated.
const STRETCH: usize = 6;

/// How a key was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As octets, in base64 or hex with its prefix.
    Octets,
    /// As text that is the key.
    Text,
}

/// Why this key could be guessed; `None` if it is strong.
#[must_use]
pub fn weakness(key: &[u8], form: Form) -> Option<String> {
    match (form, std::str::from_utf8(key)) {
        (Form::Text, Ok(text)) => match as_hex(text) {
            Some(octets) => of_octets(&octets),
            None => of_text(text),
        },
        _ => of_octets(key),
    }
}

fn of_octets(octets: &[u8]) -> Option<String> {
    if octets.len() < OCTETS_MIN {
        return Some(format!("it has {} bits, and 128 are needed", octets.len() * 8));
    }
    if has_period(octets) {
        return Some("it is the same stretch over and over".into());
    }
    if octets.windows(3).all(|w| matches!(w, [a, b, c] if b.wrapping_sub(*a) == c.wrapping_sub(*b))) {
        return Some("its octets only count up or down".into());
    }
    None
}

fn of_text(text: &str) -> Option<String> {
    let characters: Zeroizing<Vec<char>> = Zeroizing::new(text.chars().collect());
    let bits = characters.len() as f64 * f64::from(alphabet(&characters)).log2();
    if bits < BITS_MIN && !is_base64(text) {
        return Some(format!("it has {} characters that are worth {bits:.0} bits at most, and 128 are needed", characters.len()));
    }
    let lower: Zeroizing<Vec<char>> = Zeroizing::new(characters.iter().flat_map(|c| c.to_lowercase()).collect());
    if has_period(&lower) {
        return Some("it is the same stretch over and over".into());
    }
    if has_run(&characters, 0) {
        return Some("four equal characters stand side by side in it".into());
    }
    if has_run(&characters, 1) || has_run(&characters, -1) {
        return Some("four characters in it count up or down".into());
    }
    if has_twice(&lower) {
        return Some("a stretch of six characters stands in it twice".into());
    }
    None
}

/// Hex of a whole key: 32 digits or more, and a letter among them, which a random key lacks once in three million.
fn as_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let hex = text.len() >= 2 * OCTETS_MIN && text.bytes().any(|b| b.is_ascii_alphabetic());
    if hex { super::decode_hex(text).map(Zeroizing::new) } else { None }
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    let mixed = text.bytes().any(|b| b.is_ascii_lowercase()) && text.bytes().any(|b| b.is_ascii_uppercase());
    mixed && super::BASE64.decode(text).is_ok_and(|octets| Zeroizing::new(octets).len() >= OCTETS_MIN)
}

/// How many characters the classes have that occur here; at least 1.
fn alphabet(characters: &[char]) -> u32 {
    if characters.iter().any(char::is_ascii_alphabetic) && characters.iter().all(char::is_ascii_hexdigit) {
        return 16;
    }
    let size = |class: fn(&char) -> bool, size: u32| if characters.iter().any(class) { size } else { 0 };
    let letters = size(char::is_ascii_lowercase, 26) + size(char::is_ascii_uppercase, 26);
    let others = size(char::is_ascii_digit, 10) + size(|c| c.is_ascii() && !c.is_ascii_alphanumeric(), 33) + size(|c| !c.is_ascii(), 100);
    (letters + others).max(1)
}

/// Whether a stretch of at most half the length, repeated, gives the whole (its last repetition may be cut short).
fn has_period<T: PartialEq>(items: &[T]) -> bool {
    (1..=items.len() / 2).any(|period| items.iter().zip(items.iter().skip(period)).all(|(a, b)| a == b))
}

/// Whether [`RUN`] characters stand side by side, each `step` above the one before.
fn has_run(characters: &[char], step: i64) -> bool {
    let steps = |w: &[char]| w.iter().zip(w.iter().skip(1)).all(|(a, b)| i64::from(u32::from(*b)) - i64::from(u32::from(*a)) == step);
    characters.windows(RUN).any(steps)
}

/// Whether a stretch of [`STRETCH`] characters stands twice without overlap. Keys have at most 4 KiB, so the plain
/// comparison of all pairs is good enough.
fn has_twice(characters: &[char]) -> bool {
    let stretches: Vec<&[char]> = characters.windows(STRETCH).collect();
    stretches.iter().enumerate().any(|(at, stretch)| stretches.iter().skip(at + STRETCH).any(|later| later == stretch))
}

#[cfg(test)]
mod tests {
    use super::{Form, weakness};

    #[test]
    fn strong_keys_pass_and_weak_ones_are_named() {
        let table: [(&str, Option<&str>); 26] = [
            // As text that a cloud or a person dictates.
            ("h7Gq2_xLp.9TzVb4KcWm1RnYd8sJf3Ae", None),
            ("kq8RzTfWbXnPcLmYhGvDsJ", None), // 22 base64 characters without a digit: 16 octets
            ("3f8a1c9e7b2d4056e1f0a9c8b7d6e5f4", None),
            ("3F8A1C9E7B2D4056E1F0A9C8B7D6E5F4", None),
            ("xkvqzjwmtrbhgpdnslcfyeuaoikr", None), // 28 lower case letters
            ("xkvqzjwmtrbhgpdnslcfyeuaoik", Some("27 characters that are worth 127 bits")),
            ("xkvqzjwmtrbhgpdnslcfyeuaoik g", None),
            ("größeßüöäßẞñçéèàâîôûïë", None),
            ("secret", Some("6 characters that are worth 28 bits")),
            ("kq8rztfwbxnpclmyhgvdsj", Some("22 characters that are worth 114 bits")), // one case only: no base64
            ("3f8a1c9e7b2d4056e1f0a9c8b7d6e5f", Some("are worth 124 bits")),
            ("38219405761", Some("are worth 37 bits")),
            ("47291058360274915836074920183657", Some("are worth 106 bits")), // digits are no hex
            ("PasswordPasswordPassword", Some("over and over")),
            ("passwordPASSWORDpassw0rd.x8-Zq", Some("six characters stands in it twice")),
            ("Password2024!xx-Password2024?", Some("six characters stands in it twice")),
            ("h7Gq2_xLp.9TzVbbbbcWm1RnYd8sJf3Ae", Some("four equal characters")),
            ("h7Gq2_xLp.9Tzabcd4KcWm1RnYd8sJf3Ae", Some("count up or down")),
            ("h7Gq2_xLp.9Tz9876b4KcWm1RnYd8sJf3Ae", Some("count up or down")),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Some("over and over")),
            ("0123456789abcdef0123456789abcdef", Some("over and over")),
            ("00112233445566778899aabbccddeeff", Some("count up or down")),
            ("a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3", Some("over and over")),
            ("ffffffffffffffffffffffffffffffff", Some("over and over")),
            ("é", Some("1 characters")),
            ("", Some("0 characters")),
        ];
        for (text, expected) in table {
            let found = weakness(text.as_bytes(), Form::Text);
            match expected {
                None => assert_eq!(found, None, "{text}"),
                Some(part) => assert!(found.as_deref().is_some_and(|why| why.contains(part)), "{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn octets_need_128_bits_and_no_pattern() {
        let counting: Vec<u8> = (0..16).collect();
        let random = [0x3f, 0x8a, 0x1c, 0x9e, 0x7b, 0x2d, 0x40, 0x56, 0xe1, 0xf0, 0xa9, 0xc8, 0xb7, 0xd6, 0xe5, 0xf4];
        let twice = [random.as_slice(), &random].concat();
        for (octets, expected) in [
            (random.as_slice(), None),
            (&random[..15], Some("120 bits")),
            (&[7; 32], Some("over and over")),
            (&counting, Some("count up or down")),
            (&twice, Some("over and over")),
            (&twice[..24], None), // 16 random octets and then half of them again are still 128 bits
            (b"abcdefghijklmnopqrstuvwxyz".as_slice(), Some("count up or down")),
        ] {
            let found = weakness(octets, Form::Octets);
            match expected {
                None => assert_eq!(found, None, "{octets:?}"),
                Some(part) => assert!(found.as_deref().is_some_and(|why| why.contains(part)), "{octets:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn random_keys_pass_in_every_form() {
        for _ in 0..200 {
            let text = crate::psk::generate().expect("randomness");
            assert_eq!(crate::psk::decode(&text).expect("a key").weak, None, "{}", *text);
            assert_eq!(weakness(text.as_bytes(), Form::Text).filter(|why| !why.contains("four")), None, "{}", *text);
        }
    }
}
