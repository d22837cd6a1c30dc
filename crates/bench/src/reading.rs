//! Out of a store: as a NAR into standard output, and over HTTP through engine and gateway as a node does it.

use std::{error::Error, fs::File, io::Read, net::Ipv4Addr, path::Path, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use firn_engine::{Ask, AskError, Engine, EngineConfig, Find, Found};
use firn_exchange::{Key, Limits, PeerId, Request};
use firn_gateway::{Gateway, GatewayConfig, PRIORITY, WRITE_TIMEOUT};
use firn_store::{DiskStore, Paths, write_nar_to};
use firn_trust::Policy;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
    stream::{self, BoxStream},
};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A network in which there is nobody.
struct Nobody;

impl Ask for Nobody {
    fn ask(&self, _peer: PeerId, _request: Request) -> BoxFuture<'static, Result<Bytes, AskError>> {
        ready(Err(AskError::Stalled)).boxed()
    }
}

impl Find for Nobody {
    fn find(&self, _key: Key) -> BoxStream<'static, Found> {
        stream::empty().boxed()
    }
}

async fn open(store: &Path) -> Outcome<Engine> {
    let store = Arc::new(DiskStore::open(store)?);
    let config = EngineConfig { limits: Limits::default(), seed: 0 };
    Ok(Engine::open(store, Policy::new(Vec::new()), Arc::new(Nobody), Arc::new(Nobody), config).await?)
}

/// Writes the NAR of the store's only path to standard output.
pub(crate) fn write_nar(store: &Path) -> Outcome<()> {
    let store = DiskStore::open(store)?;
    let path = store.paths()?.into_iter().next().ok_or("the store has no path")?;
    let closure = firn_store::closure(&store, path.root())?.ok_or("the path's tree is not whole")?;
    // Not through `Stdout`, which looks for line ends.
    let mut output = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    Ok(write_nar_to(&store, Arc::new(closure), &mut output)?)
}

/// Ends with standard input: whoever started this process closes that to end it, and so does its death.
pub(crate) fn input_ended() -> impl Future<Output = ()> + Send + 'static {
    let (ended, end) = oneshot::channel();
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    end.map(|_| ())
}

/// Serves a store on a free port of the loopback until standard input ends; prints the address.
pub(crate) fn serve(store: &Path) -> Outcome<()> {
    Runtime::new()?.block_on(async {
        let engine = open(store).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let end = input_ended();
        println!("{}", listener.local_addr()?);
        let config = GatewayConfig {
            priority: PRIORITY,
            budget: Arc::new(|| Duration::ZERO),
            write_timeout: WRITE_TIMEOUT,
            version: String::new(),
        };
        Gateway { engine, config }.serve(listener, end).await;
        Ok(())
    })
}
