//! Who gives to a transfer, as a line each.

use std::cmp::Reverse;

use firn_proto::control::Giver;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::or_null;

/// So many peers have a line of their own.
const LINES_MAX: usize = 8;
/// So much of a peer's id tells it from others.
const SHORT_CHARS: usize = 10;

/// The beginning of a peer's id, for a person.
pub(crate) fn short(id: &str) -> &str {
    id.get(..SHORT_CHARS).unwrap_or(id)
}

/// A line for each of those that have given most, in the order in which they come, and one for the others together.
pub(crate) fn giver_lines(givers: &[Giver]) -> Vec<String> {
    let mut shown: Vec<(usize, &Giver)> = givers.iter().enumerate().collect();
    shown.sort_by_key(|(_, giver)| Reverse(giver.bytes));
    shown.truncate(LINES_MAX);
    shown.sort_by_key(|(place, _)| *place);
    let mut lines: Vec<String> = shown.into_iter().map(|(_, giver)| giver_line(giver)).collect();
    match givers.len().saturating_sub(LINES_MAX) {
        0 => {}
        more => lines.push(format!("and {more} more")),
    }
    lines
}

/// Such as `1c58b4d09e   3.20 MiB   1.10 MiB/s  LAN, via mdns`.
fn giver_line(giver: &Giver) -> String {
    let (bytes, rate) = (HumanBytes(giver.bytes).to_string(), format!("{}/s", HumanBytes(giver.rate)));
    let way = way(&giver.route, &giver.via).unwrap_or_else(|| "not connected".into());
    format!("{:<SHORT_CHARS$} {bytes:>12} {rate:>14}  {way}", short(&giver.id))
}

/// How a peer is reached and how it was found, as far as either is known.
pub(super) fn way(route: &str, via: &str) -> Option<String> {
    match (route, via) {
        ("", "") => None,
        ("", via) => Some(format!("via {via}")),
        (route, "") => Some(route.into()),
        (route, via) => Some(format!("{route}, via {via}")),
    }
}

pub(super) fn giver_json(giver: &Giver) -> Value {
    json!({
        "id": giver.id, "via": or_null(&giver.via), "route": or_null(&giver.route),
        "bytes": giver.bytes, "rate": giver.rate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn giver(number: u64, bytes: u64) -> Giver {
        Giver { id: format!("{number:064x}"), bytes, route: "LAN".into(), ..Giver::default() }
    }

    #[test]
    fn a_line_tells_how_much_how_fast_and_over_which_way() {
        let giver = Giver {
            id: "1c58b4d09e4f".into(),
            via: "mdns".into(),
            route: "relayed".into(),
            bytes: 3 << 20,
            rate: 1 << 10,
        };
        let line = |giver: &Giver| giver_lines(std::slice::from_ref(giver)).concat();
        assert_eq!(line(&giver), "1c58b4d09e     3.00 MiB     1.00 KiB/s  relayed, via mdns");
        let gone = Giver { route: String::new(), ..giver };
        assert_eq!(line(&gone), "1c58b4d09e     3.00 MiB     1.00 KiB/s  via mdns");
        let unknown = Giver { via: String::new(), ..gone };
        assert!(line(&unknown).ends_with("/s  not connected"));
    }

    #[test]
    fn those_that_give_most_have_lines_and_keep_their_places() {
        let givers: Vec<Giver> = (0..20).map(|number| giver(number, number % 10)).collect();
        let lines = giver_lines(&givers);
        assert_eq!(lines.len(), LINES_MAX + 1);
        let places = [6, 7, 8, 9, 16, 17, 18, 19].map(|number| giver_line(&givers[number]));
        assert_eq!(lines[..LINES_MAX], places);
        assert_eq!(lines[LINES_MAX], "and 12 more");
        assert_eq!(giver_lines(&givers[..LINES_MAX]).len(), LINES_MAX);
        assert!(giver_lines(&[]).is_empty());
    }

    #[test]
    fn ids_are_shortened_without_a_panic() {
        assert_eq!(short(&firn_exchange::PeerId::from([0xab; 32]).to_string()), "ababababab");
        assert_eq!(short("ab"), "ab");
    }
}
