//! What a process of ours hears from the bench: lines on its standard input, and their end.

use std::{
    io::{Read, stdin},
    thread,
};

use futures::FutureExt;
use tokio::sync::oneshot;

/// Ends with standard input: whoever started this process closes that to end it, and so does its death.
pub(crate) fn input_ended() -> impl Future<Output = ()> + Send + 'static {
    heard(|| {
        let _ = stdin().read_to_end(&mut Vec::new());
    })
}

/// Ends with a line of standard input.
pub(crate) fn told_to_go() -> impl Future<Output = ()> + Send + 'static {
    heard(|| {
        let _ = stdin().read_line(&mut String::new());
    })
}

fn heard(listen: impl FnOnce() + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
    let (ended, end) = oneshot::channel();
    thread::spawn(move || {
        listen();
        let _ = ended.send(());
    });
    end.map(|_| ())
}
