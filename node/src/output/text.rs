//! Text that cannot do anything but be read.

use std::{borrow::Cow, fmt, ops::Deref};

/// Text in which each character that a terminal may obey stands as Rust writes it: `\u{1b}`, `\n`.
///
/// Names of files, reasons of peers and paths in errors come from elsewhere. With these characters they could move the
/// cursor, forge a line of ours, or show a name from right to left.
pub fn plain(text: &str) -> Cow<'_, str> {
    replace(text, |c| c.escape_default().to_string())
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and what changes the direction of text.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Puts something else for each such character.
pub(super) fn replace(text: &str, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return text.into();
    }
    text.chars().map(|c| if is_obeyed(c) { escape(c) } else { c.to_string() }).collect::<String>().into()
}

/// The characters of base64 of the 64 bytes of a secret key, without the two `=` behind them.
const SECRET_CHARS: usize = 86;
/// The fewest behind a name and a colon that are taken for a secret, of which some may be missing. A public key has 44, a
/// hash in hex 64.
const NAMED_SECRET_CHARS_MIN: usize = 80;

/// The text without what has the shape of a secret key, `name:base64`, or of the second half of one: such a thing is given
/// by mistake where something else belongs, and then stands in an error, and so in a journal. Signatures look the same
/// and go, too.
pub fn hide_secrets(text: &str) -> Cow<'_, str> {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    let (mut shown, mut rest) = (Cow::Borrowed(""), text);
    let mut hides = false;
    while let Some(start) = rest.find(is_base64) {
        let (before, run) = rest.split_at(start);
        let after = run.trim_start_matches(is_base64);
        let unpadded = after.trim_start_matches('=');
        let length = run.len() - after.len();
        let is_named = before.ends_with(':') && length >= NAMED_SECRET_CHARS_MIN;
        let is_whole = after.len() - unpadded.len() == 2 && length >= SECRET_CHARS;
        shown += before;
        if is_named || is_whole {
            hides = true;
            // A path before it looks like base64.
            shown += if is_named { "" } else { &run[..length - SECRET_CHARS] };
            shown += "(hidden)";
            rest = unpadded;
        } else {
            shown += &run[..length];
            rest = after;
        }
    }
    shown += rest;
    if hides { shown.into_owned().into() } else { text.into() }
}

/// Whole lines for a person. What was put in as one line comes out as one line, whatever is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// No lines.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one line.
    pub fn line(&mut self, line: impl AsRef<str>) {
        self.0 += &plain(line.as_ref());
        self.0.push('\n');
    }
}

impl<S: AsRef<str>> FromIterator<S> for Text {
    fn from_iter<I: IntoIterator<Item = S>>(lines: I) -> Self {
        let mut text = Self::new();
        text.extend(lines);
        text
    }
}

impl<S: AsRef<str>> Extend<S> for Text {
    fn extend<I: IntoIterator<Item = S>>(&mut self, lines: I) {
        lines.into_iter().for_each(|line| self.line(line));
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_may_obey_is_written_out_and_the_rest_is_left() {
        for harmless in ["", "a b", "/nix/store/x", "d\u{e9}j\u{e0} vu \u{1f600}", "\\n", "\u{fffd}"] {
            assert!(matches!(plain(harmless), Cow::Borrowed(text) if text == harmless));
        }
        assert_eq!(plain("a\u{1b}]0;x\u{7}\r\n\tb"), "a\\u{1b}]0;x\\u{7}\\r\\n\\tb");
        let all = (0..0x3000).filter_map(char::from_u32).filter(|c| is_obeyed(*c));
        let plain_all: String = all.clone().map(|c| plain(&c.to_string()).into_owned()).collect();
        assert_eq!(
            all.clone().count(),
            65 + 3 + 7 + 4,
            "C0, DEL and C1; marks; separators and embeddings; isolates"
        );
        assert!(plain_all.is_ascii() && !plain_all.contains(|c: char| c.is_control()));
    }

    #[test]
    fn a_line_stays_one() {
        let mut text = Text::from_iter(["one\nfirn: forged"]);
        text.line("two");
        assert_eq!(&*text, "one\\nfirn: forged\ntwo\n");
    }

    #[test]
    fn what_looks_like_a_secret_key_is_hidden_wherever_it_stands() {
        let half = "Zm9v+/".repeat(14) + "Zg";
        let secret = half.clone() + "==";
        for (before, after) in
            [("", ""), ("error: '", "' is wrong"), ("a: b: ", " c"), ("x:", ":y"), ("", "\nz")]
        {
            let text = format!("{before}cache-1:{secret}{after}");
            assert_eq!(hide_secrets(&text), format!("{before}cache-1:(hidden){after}"));
        }
        let twice = hide_secrets(&format!("a:{secret} b:{secret}")).into_owned();
        assert_eq!(twice, "a:(hidden) b:(hidden)");
        for (text, shown) in [
            (format!("there is no {secret} here"), "there is no (hidden) here"),
            (format!("/home/me/{secret}/control.sock"), "/home/me/(hidden)/control.sock"),
            (format!("{secret}{secret}"), "(hidden)(hidden)"),
            (format!("cache-1:{}", &half[..80]), "cache-1:(hidden)"),
        ] {
            assert_eq!(hide_secrets(&text), shown);
        }
        let public = "cache-1:dt2+8nOVhhfN1DG1zYVEVjBEC+pwLTRH6hTXMIO7vDY=";
        let hash = format!("sha256:{}", "0f".repeat(32));
        let path = "/a/b".repeat(40);
        for shown in [
            "",
            ":",
            "a:b",
            public,
            &hash,
            "can't read /a/b: no such file",
            &path,
            &half,
            "a==",
            "d\u{e9}j\u{e0}",
        ] {
            assert_eq!(hide_secrets(shown), shown);
        }
    }
}
