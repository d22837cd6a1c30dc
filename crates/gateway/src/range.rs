//! Which part of a NAR is wanted.

use std::ops::Range;

use axum::http::{HeaderMap, header};

/// What a request wants of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// These bytes; at least one.
    Bytes(Range<u64>),
    /// Bytes that it does not have.
    PastEnd,
}

impl Part {
    /// Reads the `Range` header of a request for something of this length, as RFC 9110 has it.
    ///
    /// What is not one range of bytes counts as absent, and so does a range under an `If-Range`: there is no validator
    /// that it could name.
    pub(crate) fn of(headers: &HeaderMap, size: u64) -> Self {
        let mut ranges = headers.get_all(header::RANGE).iter();
        match (ranges.next(), ranges.next()) {
            (Some(range), None) if !headers.contains_key(header::IF_RANGE) => {
                range.to_str().ok().and_then(|range| parse(range, size)).unwrap_or(Self::Whole)
            }
            _ => Self::Whole,
        }
    }
}

fn parse(range: &str, size: u64) -> Option<Part> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let bytes = match (first, last) {
        ("", length) => size.saturating_sub(number(length)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some(if bytes.is_empty() { Part::PastEnd } else { Part::Bytes(bytes) })
}

/// Digits alone; more than fit mean the end of everything.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(range: &str) -> Part {
        Part::of(&HeaderMap::from_iter([(header::RANGE, range.parse().unwrap())]), 10)
    }

    #[test]
    fn one_range_in_its_three_forms() {
        assert_eq!(part("bytes=0-0"), Part::Bytes(0..1));
        assert_eq!(part("bytes=3-5"), Part::Bytes(3..6));
        assert_eq!(part("Bytes= 3-"), Part::Bytes(3..10));
        assert_eq!(part("bytes=-3"), Part::Bytes(7..10));
        assert_eq!(part("bytes=-30"), Part::Bytes(0..10));
        assert_eq!(part("bytes=9-99999999999999999999999"), Part::Bytes(9..10));
        assert_eq!(part("bytes=0-18446744073709551615"), Part::Bytes(0..10));
    }

    #[test]
    fn what_lies_past_the_end() {
        for range in ["bytes=10-", "bytes=10-11", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(part(range), Part::PastEnd, "{range}");
        }
    }

    #[test]
    fn all_else_is_as_if_it_were_absent() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-3",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "bytes=1-+2",
            "lines=0-1",
        ] {
            assert_eq!(part(range), Part::Whole, "{range}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(Part::of(&headers, 10), Part::Whole);
        headers.append(header::RANGE, "bytes=0-1".parse().unwrap());
        headers.append(header::IF_RANGE, "\"tag\"".parse().unwrap());
        assert_eq!(Part::of(&headers, 10), Part::Whole);
        headers.remove(header::IF_RANGE);
        headers.append(header::RANGE, "bytes=0-1".parse().unwrap());
        assert_eq!(Part::of(&headers, 10), Part::Whole);
    }
}
