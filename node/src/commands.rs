//! The commands: from the command line to an operation, and from its reply to what is printed.

mod store;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use firn_proto::control::GetRequest;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::{
    alone::{Alone, Needs},
    cli::{Cli, Command, GetArgs, Global, KeyCommand, NodeArgs, StoreCommand},
    config::{Config, ConfigError, Environment, Settings},
    control::{ConnectError, ControlClient, SocketPathError, socket_path},
    failure::{Failure, Kind},
    key,
    node::{self, Behaviour},
    operations::Operations,
    progress::{self, Style},
    show::{self, Answer},
};

/// The program: reads the command line of this process and does what it says.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    start_log(matches!(cli.command, Command::Node(_)));
    leave_to_the_store_what_it_catches();
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => {
            if json {
                let object = json!({ "error": failure.to_string(), "exit_code": failure.kind().code() });
                print(&mut io::stdout(), &format!("{object}\n"));
            } else {
                print(&mut io::stderr(), &format!("firn: {failure}\n"));
            }
            failure.exit_code()
        }
    }
}

/// Logs to standard error, by `RUST_LOG`; a node says a little more than a command.
fn start_log(is_node: bool) {
    let usual = if is_node {
        "warn,firn=info,firn_node=info,firn_engine=info,firn_net=info,firn_gateway=info"
    } else {
        "error"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

/// The index panics on pages that are not what it has written. The store catches that and names the index; that it was
/// a panic is for the log.
fn leave_to_the_store_what_it_catches() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match panic.location() {
        Some(at) if at.file().contains("/redb-") => tracing::debug!(%panic, "the index is damaged"),
        _ => usual(panic),
    }));
}

/// Writes text; that nobody reads it (`firn status | head -1`) is no failure.
fn print(output: &mut dyn Write, text: &str) {
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// Prints an answer.
pub(crate) fn say(answer: &Answer, json: bool) {
    if json {
        print(&mut io::stdout(), &format!("{}\n", answer.json));
    } else {
        print(&mut io::stdout(), &answer.text);
        print(&mut io::stderr(), &answer.remarks);
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Key(command) => say(&run_key(command)?, global.json),
        Command::Node(arguments) => return run_node(&global, *arguments),
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => return block_on(crate::demo::run(arguments, global.json)),
        Command::Add(arguments) => {
            return with_store(&global, async |asked| store::add(asked, arguments).await);
        }
        Command::Get(arguments) => {
            let given = arguments.settings.clone();
            let command = async |asked| get(asked, *arguments).await;
            return run_operation(&global, given, Needs::Peers, command);
        }
        Command::Status => {
            return with_store(&global, async |asked| {
                say(&show::status(&asked.operations.status().await?), asked.json);
                Ok(ExitCode::SUCCESS)
            });
        }
        Command::Verify(arguments) if arguments.rebuild_index => {
            let config = Config::load(&global, arguments.settings, &Environment::of_process())?;
            say(&show::rebuilt(&node::rebuild_index(&config.data_dir)?), global.json);
        }
        Command::Verify(arguments) => {
            let given = arguments.settings.clone();
            let needs = if arguments.repair { Needs::Peers } else { Needs::Store };
            let command = async |asked| store::verify(asked, *arguments).await;
            return run_operation(&global, given, needs, command);
        }
        Command::Adopt(arguments) => {
            return with_store(&global, async |asked| store::adopt(asked, arguments).await);
        }
        Command::Pin(command) => return with_store(&global, async |asked| store::pin(asked, command).await),
        Command::Gc(arguments) => {
            return with_store(&global, async |asked| store::gc(asked, arguments).await);
        }
        Command::Store(StoreCommand::Stats) => return with_store(&global, store::stats),
    }
    Ok(ExitCode::SUCCESS)
}

fn run_key(command: KeyCommand) -> Result<Answer, Failure> {
    match command {
        KeyCommand::Generate { name, out } => Ok(show::key(&key::generate(&name, &out)?.public(), &out)),
        KeyCommand::Public { file } => Ok(show::key(&key::read(&file)?.public(), &file)),
    }
}

fn run_node(global: &Global, arguments: NodeArgs) -> Result<ExitCode, Failure> {
    let environment = Environment::of_process();
    let config = Config::load(global, arguments.settings, &environment)?;
    let socket = socket_path(&config.data_dir, &environment)?;
    if arguments.check {
        say(&show::config(&config, &socket), global.json);
        return Ok(ExitCode::SUCCESS);
    }
    block_on(node::run(Arc::new(config), Behaviour::ByRole, global.json))
}

/// What may still run on other threads after the end is waited for so long.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::failed)?;
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    result
}

/// Whom a command asks, and how it prints.
struct Asked {
    operations: Arc<dyn Operations>,
    config: Config,
    json: bool,
}

/// Runs a command that needs no peers.
fn with_store(
    global: &Global,
    command: impl AsyncFnOnce(Asked) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    let given = Settings::of_environment().map_err(Failure::usage)?;
    run_operation(global, given, Needs::Store, command)
}

/// Runs a command against the node of this data directory, or in this process where none runs.
fn run_operation(
    global: &Global,
    given: Settings,
    needs: Needs,
    command: impl AsyncFnOnce(Asked) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    let environment = Environment::of_process();
    let config = Config::load(global, given, &environment)?;
    let socket = socket_path(&config.data_dir, &environment)?;
    let json = global.json;
    block_on(async {
        if let Some(node) = ControlClient::connect(&socket).await? {
            return command(Asked { operations: Arc::new(node), config, json }).await;
        }
        let alone = Alone::open(config.clone(), needs).await?;
        let operations = alone.operations.clone();
        let result = command(Asked { operations, config, json }).await;
        alone.close().await;
        result
    })
}

/// The path to add, absolute. A closure is asked for by any path that leads to it, such as `./result`.
fn add_path(path: &Path, closure: bool) -> Result<PathBuf, Failure> {
    let failed = |source: io::Error| {
        let missing = source.kind() == io::ErrorKind::NotFound;
        let kind = if missing { Kind::Missing } else { Kind::Failed };
        Failure::new(kind, PathError { path: path.into(), source })
    };
    match closure && path.is_symlink() {
        true => path.canonicalize().map_err(failed),
        false => std::path::absolute(path).map_err(failed),
    }
}

/// A path that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = path.display())]
struct PathError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

async fn get(asked: Asked, arguments: GetArgs) -> Result<ExitCode, Failure> {
    let out = arguments.out.as_deref().map(|out| add_path(out, false)).transpose()?;
    let request = GetRequest {
        what: arguments.what,
        closure: arguments.closure,
        out: out.as_deref().map(bytes_of).unwrap_or_default(),
    };
    let reply = progress::shown(Style::of_process(asked.json), async |report| {
        asked.operations.get(request, report).await
    });
    say(&show::get(&reply.await?, out.as_deref()), asked.json);
    Ok(ExitCode::SUCCESS)
}

fn bytes_of(path: &Path) -> bytes::Bytes {
    use std::os::unix::ffi::OsStrExt;
    bytes::Bytes::copy_from_slice(path.as_os_str().as_bytes())
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

impl From<SocketPathError> for Failure {
    fn from(error: SocketPathError) -> Self {
        Self::usage(error)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::failed(error)
    }
}

impl From<key::GenerateError> for Failure {
    fn from(error: key::GenerateError) -> Self {
        match error {
            key::GenerateError::Name { .. } => Self::usage(error),
            _ => Self::failed(error),
        }
    }
}

impl From<key::ReadKeyError> for Failure {
    fn from(error: key::ReadKeyError) -> Self {
        Self::usage(error)
    }
}
