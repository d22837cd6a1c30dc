//! Reading as Nix does.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use firn_nix::NarHash;

use crate::{trees::Tree, world::Answer};

/// Reads a path's NAR and compares it with what it must be; `None` for a code where the node is gone meanwhile.
pub(crate) fn read_nar(address: &str, tree: &Tree) -> Answer {
    let hash = tree.what.strip_prefix("/nix/store/").unwrap().split_once('-').unwrap().0;
    let nar = get(address, &format!("{hash}.narinfo")).and_then(|info| {
        let info = String::from_utf8(info).unwrap();
        let url = info.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
        get(address, url)
    });
    let Some(nar) = nar else { return Answer { code: None, json: "it was not served".into() } };
    assert_eq!(NarHash::of(&nar).to_string(), tree.nar_hash, "the NAR of {}", tree.what);
    Answer { code: Some(0), json: "it was served".into() }
}

/// A whole body; `None` where it does not come, or was cut.
fn get(address: &str, url: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET /{url} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    let is_whole = head.starts_with("http/1.1 200") && length.parse() == Ok(body.len());
    is_whole.then_some(body)
}
