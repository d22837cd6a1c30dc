//! One bar for the whole, and below it a line for each peer that gives.

use firn_proto::control::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{line, measure};
use crate::{output::harmless, show::giver_lines};

/// What stands on the terminal. It is gone once this is dropped.
pub(super) struct Bars {
    all: MultiProgress,
    whole: ProgressBar,
    peers: Vec<ProgressBar>,
    spinner: ProgressStyle,
    measured: ProgressStyle,
    peer: ProgressStyle,
}

impl Bars {
    pub(super) fn new() -> Self {
        let all = MultiProgress::new();
        Self {
            whole: all.add(ProgressBar::new_spinner()),
            all,
            peers: Vec::new(),
            spinner: style("{spinner} {msg}"),
            measured: style("{bar:30} {msg}"),
            peer: style("  {msg}"),
        }
    }

    pub(super) fn show(&mut self, progress: &Progress) {
        let (done, total) = measure(progress).unwrap_or_default();
        self.whole.set_style(if total > 0 { self.measured.clone() } else { self.spinner.clone() });
        self.whole.set_length(total);
        self.whole.set_position(done);
        self.whole.set_message(line(progress));
        let lines = giver_lines(&progress.peers);
        while self.peers.len() < lines.len() {
            let peer = self.all.add(ProgressBar::new_spinner().with_style(self.peer.clone()));
            self.peers.push(peer);
        }
        for gone in self.peers.drain(lines.len()..) {
            self.all.remove(&gone);
        }
        for (peer, line) in self.peers.iter().zip(lines) {
            peer.set_message(harmless(&line));
        }
        self.whole.tick();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
