//! How far a long operation has come, for a person to see.
//!
//! On a terminal a bar, and below it who gives; elsewhere plain lines now and then; nothing with `--json`. All of it goes
//! to standard error.

mod bars;

use std::{future::pending, io::IsTerminal, pin::pin, time::Duration};

use firn_proto::control::{Progress, progress::Phase};
use indicatif::HumanBytes;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use self::bars::Bars;
use crate::{
    operations::Report,
    output::{self, harmless},
};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A bar that moves, and lines for those who give.
    Bar,
    /// A line now and then.
    Lines,
    /// Not at all.
    Silent,
}

/// The least time between two plain lines of the same phase.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
/// The least time between two movements of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(50);

impl Style {
    /// The style that suits where standard error goes.
    pub fn of_process(json: bool) -> Self {
        match json {
            true => Style::Silent,
            false if std::io::stderr().is_terminal() => Style::Bar,
            false => Style::Lines,
        }
    }
}

/// Runs an operation and shows how far it has come meanwhile.
pub async fn shown<T>(style: Style, operation: impl AsyncFnOnce(Report) -> T) -> T {
    let (report, progress) = watch::channel(Progress::default());
    let mut operation = pin!(operation(report));
    let show = async {
        match style {
            Style::Bar => show_bar(progress).await,
            Style::Lines => show_lines(progress).await,
            // Whoever reports sees by the receiver that it is still awaited.
            Style::Silent => pending().await,
        }
    };
    tokio::select! {
        biased;
        result = &mut operation => return result,
        () = show => {}
    }
    operation.await
}

async fn show_bar(mut progress: watch::Receiver<Progress>) {
    let mut bars = Bars::new();
    let mut next = Instant::now();
    while progress.changed().await.is_ok() {
        sleep_until(next).await;
        let now = progress.borrow_and_update().clone();
        bars.show(&now);
        next = Instant::now() + BAR_INTERVAL;
    }
}

async fn show_lines(mut progress: watch::Receiver<Progress>) {
    let mut shown = Phase::Starting;
    let mut next = Instant::now();
    while progress.changed().await.is_ok() {
        let now = progress.borrow_and_update().clone();
        if now.phase() != shown || Instant::now() >= next {
            output::remark(&(line(&now) + "\n"));
            shown = now.phase();
            next = Instant::now() + LINE_INTERVAL;
        }
    }
}

/// Done and total, by bytes if their total is known, else by items.
fn measure(progress: &Progress) -> Option<(u64, u64)> {
    let bytes = (progress.done_bytes, progress.total_bytes);
    let items = (progress.done_items, progress.total_items);
    [bytes, items].into_iter().find(|&(_, total)| total > 0)
}

/// What a state of progress says, such as `fetching /nix/store/..: 3 of 7, 1.2 MiB of 4 MiB from 2 peers`.
fn line(progress: &Progress) -> String {
    let verb = match progress.phase() {
        Phase::Starting => "starting",
        Phase::Reading => "reading",
        Phase::Finding => "looking for",
        Phase::Fetching => "fetching",
        Phase::Checking => "checking",
        Phase::Writing => "writing",
        Phase::Adopting => "adopting",
        Phase::Collecting => "deleting",
        Phase::Repairing => "getting again",
    };
    let mut line = [verb, &harmless(&progress.subject)].join(" ").trim_end().to_owned();
    let items = of_total(progress.done_items, progress.total_items, |count| count.to_string());
    let bytes = of_total(progress.done_bytes, progress.total_bytes, |bytes| HumanBytes(bytes).to_string());
    let amounts: Vec<String> = [items, bytes].into_iter().flatten().collect();
    if !amounts.is_empty() {
        line += &format!(": {}", amounts.join(", "));
    }
    match progress.peers.len() {
        0 => line,
        1 => line + " from 1 peer",
        peers => line + &format!(" from {peers} peers"),
    }
}

fn of_total(done: u64, total: u64, show: impl Fn(u64) -> String) -> Option<String> {
    match (done, total) {
        (0, 0) => None,
        (done, 0) => Some(show(done)),
        (done, total) => Some(format!("{} of {}", show(done), show(total))),
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::control::Giver;

    use super::*;

    #[test]
    fn a_line_tells_what_is_known() {
        let progress =
            Progress { phase: Phase::Finding.into(), subject: "firn:x".into(), ..Progress::default() };
        assert_eq!(line(&progress), "looking for firn:x");
        let progress = Progress {
            phase: Phase::Fetching.into(),
            done_items: 3,
            total_items: 7,
            done_bytes: 1024,
            peers: vec![Giver::default(); 2],
            ..progress
        };
        assert_eq!(line(&progress), "fetching firn:x: 3 of 7, 1.00 KiB from 2 peers");
        assert_eq!(measure(&progress), Some((3, 7)));
        assert_eq!(measure(&Progress { total_bytes: 9, ..progress }), Some((1024, 9)));
    }

    #[tokio::test]
    async fn the_operation_ends_whether_or_not_anybody_shows_it() {
        for style in [Style::Bar, Style::Lines, Style::Silent] {
            let result = shown(style, async |report: Report| {
                report.send_replace(Progress::default());
                tokio::task::yield_now().await;
                assert!(!report.is_closed(), "{style:?}: it is awaited");
                drop(report);
                tokio::task::yield_now().await;
                7
            });
            assert_eq!(result.await, 7);
        }
    }
}
