//! How long a peer is waited for that hardly takes or gives anything. Pure: the time comes in.

use std::time::Duration;

/// In each so long that one side waits for the other ..
const WINDOW: Duration = Duration::from_secs(30);
/// .. at least this many bytes of replies have to go over their connection, or the reply is given up. On one stream nothing
/// may come for long, since replies are sent one after the other.
const WINDOW_BYTES_MIN: u64 = 16 << 10;

/// What is left of the patience with the other side of one reply. Only the time counts in which it could have done something.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    waited: Duration,
    moved: u64,
}

/// It has run out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RunOut;

impl Patience {
    /// How long it may be waited for at a stretch.
    pub(crate) fn left(&self) -> Duration {
        WINDOW.saturating_sub(self.waited)
    }

    /// It was waited for so long, and so much has gone over meanwhile.
    pub(crate) fn waited(&mut self, time: Duration, bytes: u64) -> Result<(), RunOut> {
        self.waited += time;
        self.moved = self.moved.saturating_add(bytes);
        if self.waited < WINDOW {
            return Ok(());
        }
        let enough = self.moved >= WINDOW_BYTES_MIN;
        *self = Self::default();
        if enough { Ok(()) } else { Err(RunOut) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For how many seconds a peer is borne with that takes so many bytes in each; an hour is for ever.
    fn borne(bytes_a_second: u64) -> usize {
        let mut patience = Patience::default();
        (0..3600).take_while(|_| patience.waited(Duration::from_secs(1), bytes_a_second).is_ok()).count()
    }

    #[test]
    fn a_byte_a_second_is_too_little() {
        assert_eq!(borne(0), 29);
        assert_eq!(borne(1), 29);
        assert_eq!(borne(500), 29);
        assert_eq!(borne(600), 3600);
    }

    #[test]
    fn what_went_over_long_ago_does_not_count() {
        let mut patience = Patience::default();
        patience.waited(Duration::ZERO, 1 << 30).unwrap();
        patience.waited(WINDOW, 0).unwrap();
        assert_eq!(patience.left(), WINDOW);
        assert_eq!(patience.waited(WINDOW, 0), Err(RunOut));
    }
}
