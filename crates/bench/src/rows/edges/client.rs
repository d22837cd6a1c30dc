//! A client of a binary cache that opens and reads its connections as a row wants it.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::firn::answer;
use crate::{
    error::BenchError,
    rows::http::{hash_of, url_in},
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that is kept.
pub(super) struct Client(BufReader<TcpStream>);

/// The head of an answer.
pub(super) struct Head {
    pub(super) status: u16,
    length: usize,
}

impl Client {
    /// A new connection.
    pub(super) async fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(TcpStream::connect(address).await?))
    }

    /// A client of a connection that is there.
    pub(super) fn over(stream: TcpStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// Sends a request and reads the head of the answer.
    pub(super) async fn ask(&mut self, path: &str) -> io::Result<Head> {
        let request = format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).await?;
        let status = self.line().await?.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut head = Head { status: status.unwrap_or(0), length: 0 };
        loop {
            let line = self.line().await?;
            match line.split_once(':') {
                Some((name, length)) if name.eq_ignore_ascii_case("content-length") => {
                    head.length = length.trim().parse().unwrap_or(0);
                }
                Some(_) => {}
                None => return Ok(head),
            }
        }
    }

    /// Reads no more than a piece of what follows a head.
    pub(super) async fn piece(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self.0.read(piece).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }

    /// The whole answer.
    pub(super) async fn get(&mut self, path: &str) -> io::Result<(u16, Vec<u8>)> {
        let Head { status, length } = self.ask(path).await?;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok((status, body))
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

/// The narinfo of a store path over a new connection, and how long it took.
pub(super) async fn narinfo(address: SocketAddr, path: &str) -> Result<(String, f64), BenchError> {
    let begun = Instant::now();
    let asked = async { Client::connect(address).await?.get(&format!("{}.narinfo", hash_of(path))).await };
    let (status, body) = in_time(address, asked).await?;
    match status {
        200 => Ok((String::from_utf8_lossy(&body).into_owned(), begun.elapsed().as_secs_f64())),
        _ => Err(answer(&format!("HTTP {status}"))),
    }
}

/// Where the NAR of a store path is.
pub(super) async fn nar_of(address: SocketAddr, path: &str) -> Result<String, BenchError> {
    let (narinfo, _) = narinfo(address, path).await?;
    Ok(url_in(&narinfo)?.to_owned())
}

/// How long a new client waits for the first byte of a NAR.
pub(super) async fn first_byte(address: SocketAddr, nar: &str) -> Result<f64, BenchError> {
    let begun = Instant::now();
    let asked = async {
        let mut client = Client::connect(address).await?;
        let head = client.ask(nar).await?;
        client.piece(&mut [0]).await?;
        Ok(head.status)
    };
    match in_time(address, asked).await? {
        200 => Ok(begun.elapsed().as_secs_f64()),
        status => Err(answer(&format!("HTTP {status}"))),
    }
}

/// An answer that came in time.
pub(super) async fn in_time<T>(
    address: SocketAddr,
    answer: impl Future<Output = io::Result<T>>,
) -> Result<T, BenchError> {
    let answer = match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer,
        Err(late) => Err(late.into()),
    };
    answer.map_err(|source| BenchError::Client { address, source })
}
