//! Nix's own base 32: the bytes as one little-endian number, its most significant digit first.

const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Text that is not the base 32 of so many bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NixBase32Error {
    /// Too short or too long.
    #[error("it has {len} characters, not {want}")]
    Length {
        /// How many there are.
        len: usize,
        /// How many there must be.
        want: usize,
    },
    /// A byte outside the alphabet, which lacks e, o, u and t.
    #[error("'{}' is no digit of Nix's base 32", .0.escape_ascii())]
    Digit(u8),
    /// A first digit that is too large for the number of bytes.
    #[error("its first digit is too large")]
    TooLarge,
}

/// How many digits so many bytes have.
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Writes bytes as [`encoded_len`] digits.
pub fn encode(bytes: &[u8]) -> String {
    let digit = |place: usize| {
        let (byte, shift) = (place * 5 / 8, place * 5 % 8);
        let above = bytes.get(byte + 1).copied().unwrap_or(0);
        let window = u16::from_le_bytes([bytes[byte], above]);
        char::from(ALPHABET[usize::from(window >> shift & 31)])
    };
    (0..encoded_len(bytes.len())).rev().map(digit).collect()
}

/// Reads what [`encode`] writes for `N` bytes, and nothing else.
pub fn decode<const N: usize>(text: &str) -> Result<[u8; N], NixBase32Error> {
    let (len, want) = (text.len(), encoded_len(N));
    if len != want {
        return Err(NixBase32Error::Length { len, want });
    }
    let mut bytes = [0; N];
    for (place, digit) in text.bytes().rev().enumerate() {
        let value = ALPHABET.iter().position(|of| *of == digit).ok_or(NixBase32Error::Digit(digit))?;
        let (byte, shift) = (place * 5 / 8, place * 5 % 8);
        let [low, high] = ((value as u16) << shift).to_le_bytes();
        bytes[byte] |= low;
        match bytes.get_mut(byte + 1) {
            Some(above) => *above |= high,
            None if high != 0 => return Err(NixBase32Error::TooLarge),
            None => {}
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_of_nothing() {
        // nix-hash --type sha256 --to-base32 e3b0c442...
        let digest = data_encoding::HEXLOWER
            .decode(b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
            .unwrap();
        let text = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        assert_eq!(encode(&digest), text);
        assert_eq!(decode::<32>(text).unwrap()[..], digest);
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(decode::<20>("0"), Err(NixBase32Error::Length { len: 1, want: 32 }));
        assert_eq!(decode::<20>(&"e".repeat(32)), Err(NixBase32Error::Digit(b'e')));
        assert_eq!(decode::<20>(&"A".repeat(32)), Err(NixBase32Error::Digit(b'A')));
        assert_eq!(decode::<32>(&"z".repeat(52)), Err(NixBase32Error::TooLarge));
    }

    proptest! {
        #[test]
        fn decode_of_encode_is_the_same(bytes: [u8; 20], longer: [u8; 32], odd: [u8; 7]) {
            prop_assert_eq!(decode(&encode(&bytes)), Ok(bytes));
            prop_assert_eq!(decode(&encode(&longer)), Ok(longer));
            prop_assert_eq!(decode(&encode(&odd)), Ok(odd));
        }

        #[test]
        fn what_decodes_is_canonical(text in "[0-9a-z]{52}|.*") {
            if let Ok(bytes) = decode::<32>(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
