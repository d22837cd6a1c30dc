use std::{
    fs,
    os::unix::{fs::PermissionsExt, net},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use firn_proto::control::{
    AddReply, AddRequest, AddedPath, AdoptReply, AdoptRequest, CollectReply, CollectRequest, GetReply,
    GetRequest, PinReply, PinRequest, PinnedItem, PinsReply, Progress, StatsReply, StatusReply, UnpinReply,
    UnpinRequest, VerifyReply, VerifyRequest,
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    config::Environment,
    failure::{Failure, Kind},
    operations::{Operations, Report},
};

const DEADLINE: Duration = Duration::from_secs(10);

/// Answers with what it was asked, so that a test sees that it arrived.
#[derive(Default)]
struct Echo {
    cancelled: Arc<AtomicBool>,
}

/// Says when a future that holds it is dropped.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl Operations for Echo {
    async fn status(&self) -> Result<StatusReply, Failure> {
        Ok(StatusReply { running: true, version: "echo".into(), ..StatusReply::default() })
    }

    async fn add(&self, request: AddRequest, report: Report) -> Result<AddReply, Failure> {
        for done_items in 1..=5 {
            report.send_replace(Progress { done_items, total_items: 5, ..Progress::default() });
            tokio::task::yield_now().await;
        }
        let path =
            AddedPath { store_path: request.name, signed_by: request.sign_keys, ..AddedPath::default() };
        Ok(AddReply { paths: vec![path], ..AddReply::default() })
    }

    /// Never ends.
    async fn get(&self, _: GetRequest, report: Report) -> Result<GetReply, Failure> {
        let _guard = OnDrop(self.cancelled.clone());
        report.send_replace(Progress { done_items: 1, ..Progress::default() });
        std::future::pending().await
    }

    async fn verify(&self, _: VerifyRequest, _: Report) -> Result<VerifyReply, Failure> {
        Err(Failure::missing("nobody has it"))
    }

    async fn adopt(&self, request: AdoptRequest, _: Report) -> Result<AdoptReply, Failure> {
        Ok(AdoptReply { goes_on: request.once, ..AdoptReply::default() })
    }

    async fn collect(&self, request: CollectRequest, _: Report) -> Result<CollectReply, Failure> {
        Ok(CollectReply { disk_bytes_max: request.bytes_max, ..CollectReply::default() })
    }

    async fn stats(&self) -> Result<StatsReply, Failure> {
        Ok(StatsReply { paths: 7, ..StatsReply::default() })
    }

    async fn pin(&self, request: PinRequest) -> Result<PinReply, Failure> {
        let pin = PinnedItem { subject: request.what, reason: request.reason };
        Ok(PinReply { pin: Some(pin), is_here: true })
    }

    async fn unpin(&self, request: UnpinRequest) -> Result<UnpinReply, Failure> {
        Ok(UnpinReply { subject: request.what })
    }

    async fn pins(&self) -> Result<PinsReply, Failure> {
        Ok(PinsReply { pins: vec![PinnedItem::default()] })
    }
}

struct Node {
    dir: tempfile::TempDir,
    cancelled: Arc<AtomicBool>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Node {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = ControlSocket::bind(&dir.path().join("control.sock")).unwrap();
        let echo = Echo::default();
        let (cancelled, shutdown) = (echo.cancelled.clone(), CancellationToken::new());
        let task = tokio::spawn(socket.serve(Arc::new(echo), shutdown.clone()));
        Self { dir, cancelled, shutdown, task }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("control.sock")
    }

    async fn client(&self) -> ControlClient {
        ControlClient::connect(&self.socket()).await.unwrap().unwrap()
    }
}

fn report() -> (Report, watch::Receiver<Progress>) {
    watch::channel(Progress::default())
}

#[tokio::test]
async fn a_request_goes_there_and_its_reply_comes_back() {
    let node = Node::start();
    let client = node.client().await;
    assert_eq!(client.status().await.unwrap().version, "echo");
    let request = AddRequest { name: "x".into(), sign_keys: vec!["k:s".into()], ..AddRequest::default() };
    let reply = client.add(request, report().0).await.unwrap();
    assert_eq!(reply.paths[0].store_path, "x");
    assert_eq!(reply.paths[0].signed_by, ["k:s"]);
}

#[tokio::test]
async fn the_stores_own_requests_go_there_as_well() {
    let node = Node::start();
    let client = node.client().await;
    let adopted = client.adopt(AdoptRequest { once: true, ..AdoptRequest::default() }, report().0).await;
    assert!(adopted.unwrap().goes_on);
    for bytes_max in [None, Some(0), Some(5)] {
        let request = CollectRequest { dry_run: false, bytes_max };
        assert_eq!(client.collect(request, report().0).await.unwrap().disk_bytes_max, bytes_max);
    }
    assert_eq!(client.stats().await.unwrap().paths, 7);
    let request = PinRequest { what: "x".into(), reason: "y".into() };
    assert_eq!(client.pin(request).await.unwrap().pin.unwrap().reason, "y");
    assert_eq!(client.unpin(UnpinRequest { what: "x".into() }).await.unwrap().subject, "x");
    assert_eq!(client.pins().await.unwrap().pins.len(), 1);
}

#[tokio::test]
async fn a_failure_keeps_its_kind() {
    let node = Node::start();
    let failure = node.client().await.verify(VerifyRequest::default(), report().0).await.unwrap_err();
    assert_eq!(failure.kind(), Kind::Missing);
    assert_eq!(failure.to_string(), "nobody has it");
}

#[tokio::test]
async fn progress_arrives_and_a_command_that_goes_away_cancels_its_request() {
    let node = Node::start();
    let client = node.client().await;
    let (report, mut progress) = report();
    let command = tokio::spawn(async move { client.get(GetRequest::default(), report).await });
    timeout(DEADLINE, progress.wait_for(|progress| progress.done_items == 1)).await.unwrap().unwrap();
    assert!(!node.cancelled.load(Ordering::SeqCst));
    command.abort();
    timeout(DEADLINE, async {
        while !node.cancelled.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn only_its_user_may_open_the_socket_and_it_goes_with_the_node() {
    let node = Node::start();
    let mode = fs::metadata(node.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    node.shutdown.cancel();
    timeout(DEADLINE, node.task).await.unwrap().unwrap().unwrap();
    assert!(!node.dir.path().join("control.sock").exists());
}

#[tokio::test]
async fn a_socket_that_is_answered_is_not_taken() {
    let node = Node::start();
    let error = ControlSocket::bind(&node.socket()).unwrap_err();
    assert!(matches!(error, BindError::NodeRuns(_)), "{error}");
    assert_eq!(node.client().await.status().await.unwrap().version, "echo");
}

#[tokio::test]
async fn a_socket_of_a_dead_node_is_no_node_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    assert!(ControlClient::connect(&path).await.unwrap().is_none());
    drop(net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(ControlClient::connect(&path).await.unwrap().is_none());
    let socket = ControlSocket::bind(&path).unwrap();
    let task = tokio::spawn(socket.serve(Arc::new(Echo::default()), CancellationToken::new()));
    let client = ControlClient::connect(&path).await.unwrap().unwrap();
    assert!(client.status().await.unwrap().running);
    task.abort();
}

#[test]
fn the_socket_goes_elsewhere_when_the_data_directory_is_deep() {
    let environment = |runtime: Option<&str>| Environment {
        xdg_runtime_dir: runtime.map(Into::into),
        ..Environment::default()
    };
    let none = environment(None);
    assert_eq!(socket_path(Path::new("/d"), &none).unwrap(), Path::new("/d/control.sock"));
    let longest = format!("/{}", "d".repeat(107 - "//control.sock".len()));
    assert_eq!(socket_path(Path::new(&longest), &none).unwrap().as_os_str().len(), 107);

    let deep = longest + "d";
    let error = socket_path(Path::new(&deep), &none).unwrap_err();
    assert!(error.to_string().contains("--data-dir"), "{error}");
    let runtime = environment(Some("/run/user/1000"));
    let socket = socket_path(Path::new(&deep), &runtime).unwrap();
    assert!(socket.starts_with("/run/user/1000/firn"), "{}", socket.display());
    assert_ne!(socket, socket_path(Path::new(&(deep.clone() + "d")), &runtime).unwrap());
    assert!(socket_path(Path::new(&deep), &environment(Some(&deep))).is_err());
}
