//! The commands: from the command line to an operation, and from its reply to what is printed.

mod store;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Parser, error::ErrorKind};
use firn_nix::SigningKey;
use firn_proto::control::GetRequest;
use serde_json::json;
use tracing_subscriber::EnvFilter;

#[cfg(feature = "demo")]
use crate::demo;
use crate::{
    alone::{Alone, Needs},
    cli::{Cli, Command, GetArgs, Global, KeyCommand, NodeArgs, PinCommand, StoreCommand},
    config::{Config, ConfigError, Environment, Settings},
    control::{ConnectError, ControlClient, SocketPathError, socket_path},
    failure::{Failure, Kind},
    key,
    node::{self, Behaviour},
    operations::Operations,
    output::{self, Log, Text, hide_secrets, plain},
    progress::{self, Style},
    show::{self, Answer},
    signals::{Signals, outlive_file_limit},
};

/// The program: reads the command line of this process and does what it says.
pub fn run() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return help_or_usage(&error),
    };
    let json = cli.global.json;
    start_log(matches!(cli.command, Command::Node(_)));
    leave_to_the_store_what_it_catches();
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => {
            tell(&failure, json);
            failure.exit_code()
        }
    }
}

/// Reads the command line. What is wrong with it is told as if its arguments were plain: clap quotes them.
fn parse() -> Result<Cli, clap::Error> {
    Cli::try_parse().map_err(|error| {
        let arguments = std::env::args_os().map(|argument| plain(&argument.to_string_lossy()).into_owned());
        Cli::try_parse_from(arguments).err().unwrap_or(error)
    })
}

/// Tells of a failure on standard error; with `--json` on standard output, if that can be written to.
fn tell(failure: &Failure, json: bool) {
    let object = json!({ "error": failure.to_string(), "exit_code": failure.kind().code() });
    if !json || output::answer(&output::json_line(&object)).is_err() {
        output::remark(&format!("firn: {failure}\n"));
    }
}

/// What clap has to say: the help that was asked for, or what is wrong with the command line.
fn help_or_usage(error: &clap::Error) -> ExitCode {
    if !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        output::remark(&Text::from_iter(hide_secrets(&error.render().to_string()).lines()));
        return ExitCode::from(Kind::Usage.code());
    }
    match output::told(error.print()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let failure = Failure::failed(error);
            tell(&failure, false);
            failure.exit_code()
        }
    }
}

/// Logs to standard error, by `RUST_LOG`; a node says a little more than a command.
fn start_log(is_node: bool) {
    let usual = if is_node {
        // What noq_proto and libp2p_kad warn of is done by any stranger, as often as it likes.
        "warn,noq_proto=error,libp2p_kad=error,\
         firn=info,firn_node=info,firn_engine=info,firn_net=info,firn_gateway=info"
    } else {
        "error"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    // Where a line cannot be written, the formatter itself would print that, and panic.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Log::default)
        .with_ansi(false)
        .log_internal_errors(false)
        .init();
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

/// Prints an answer.
pub(crate) fn say(answer: &Answer, json: bool) -> Result<(), Failure> {
    let told = match json {
        true => output::answer(&output::json_line(&answer.json)),
        false => {
            let told = output::answer(&answer.text);
            output::remark(&answer.remarks);
            told
        }
    };
    told.map_err(Failure::failed)
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Key(command) => say(&run_key(command)?, global.json)?,
        Command::Node(arguments) => return run_node(&global, *arguments),
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => return demo::run(arguments, global.json),
        Command::Add(arguments) => {
            return with_store(&global, Needs::STORE, async |asked| store::add(asked, arguments).await);
        }
        Command::Get(arguments) => {
            let given = arguments.settings.clone();
            let command = async |asked| get(asked, *arguments).await;
            return run_operation(&global, given, Needs { peers: true, ..Needs::STORE }, command);
        }
        Command::Status => {
            return with_store(&global, Needs::EXISTING, async |asked| {
                say(&show::status(&asked.operations.status().await?), asked.json)?;
                Ok(ExitCode::SUCCESS)
            });
        }
        Command::Verify(arguments) if arguments.rebuild_index => {
            let config = Config::load(&global, arguments.settings, &Environment::of_process())?;
            say(&show::rebuilt(&node::rebuild_index(&config.data_dir)?), global.json)?;
        }
        Command::Verify(arguments) => {
            let given = arguments.settings.clone();
            let needs = Needs { peers: arguments.repair, ..Needs::EXISTING };
            let command = async |asked| store::verify(asked, *arguments).await;
            return run_operation(&global, given, needs, command);
        }
        Command::Adopt(arguments) => {
            return with_store(&global, Needs::STORE, async |asked| store::adopt(asked, arguments).await);
        }
        Command::Pin(command) => {
            let needs =
                if matches!(command, PinCommand::Add { .. }) { Needs::STORE } else { Needs::EXISTING };
            return with_store(&global, needs, async |asked| store::pin(asked, command).await);
        }
        Command::Gc(arguments) => {
            return with_store(&global, Needs::EXISTING, async |asked| store::gc(asked, arguments).await);
        }
        Command::Store(StoreCommand::Stats) => return with_store(&global, Needs::EXISTING, store::stats),
    }
    Ok(ExitCode::SUCCESS)
}

fn run_key(command: KeyCommand) -> Result<Answer, Failure> {
    match command {
        KeyCommand::Generate { name, out } => Ok(show::key(&key::generate(&name, &out)?.public(), &out)),
        KeyCommand::Public { file } => Ok(show::key(&read_key(&file)?.public(), &file)),
    }
}

/// Reads a secret key, and warns where others can, too.
fn read_key(file: &Path) -> Result<SigningKey, Failure> {
    let read = key::read(file)?;
    if read.is_open_to_others {
        let file = file.display();
        output::remark(&Text::from_iter([format!(
            "firn: warning: others than its owner may read or change the secret key in {file}: chmod 0600 {file}"
        )]));
    }
    Ok(read.key)
}

fn run_node(global: &Global, arguments: NodeArgs) -> Result<ExitCode, Failure> {
    let environment = Environment::of_process();
    let config = Config::load(global, arguments.settings, &environment)?;
    let socket = socket_path(&config.data_dir, &environment)?;
    if arguments.check {
        say(&show::config(&config, &socket), global.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    block_on(node::run(Arc::new(config), Behaviour::ByRole, global.json))
}

/// What may still run on other threads after the end is waited for so long.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::failed)?;
    let result = runtime.block_on(async {
        outlive_file_limit().map_err(Failure::failed)?;
        command.await
    });
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    result
}

/// Whom a command asks, and how it prints.
struct Asked {
    operations: Arc<dyn Operations>,
    config: Config,
    json: bool,
}

/// Runs a command that takes its settings from the environment and the file.
fn with_store(
    global: &Global,
    needs: Needs,
    command: impl AsyncFnOnce(Asked) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    let given = Settings::of_environment().map_err(WrongVariable::from_clap)?;
    run_operation(global, given, needs, command)
}

/// An environment variable with a value that it cannot have.
#[derive(Debug, thiserror::Error)]
#[error("the environment: {0}")]
struct WrongVariable(String);

impl WrongVariable {
    /// The first paragraph of what clap says: the others are about the command line.
    fn from_clap(error: clap::Error) -> Failure {
        let text = error.render().to_string();
        let lines =
            text.trim_start_matches("error: ").lines().map(str::trim).take_while(|line| !line.is_empty());
        Failure::usage(Self(lines.collect::<Vec<_>>().join(" ")))
    }
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
        let mut signals = Signals::of_command().map_err(Failure::failed)?;
        let alone = match until(&mut signals, reach(&config, &socket, needs)).await? {
            Reached::Node(node) => {
                return until(&mut signals, command(Asked { operations: Arc::new(node), config, json }))
                    .await;
            }
            Reached::Alone(alone) => alone,
        };
        let operations = alone.operations.clone();
        let result = until(&mut signals, command(Asked { operations, config, json })).await;
        let close = async {
            alone.close().await;
            Ok(())
        };
        // A second signal does not wait for that.
        let closed = until(&mut signals, close).await;
        result.and_then(|code| closed.map(|()| code))
    })
}

/// Who does what a command asks for.
enum Reached {
    Node(ControlClient),
    Alone(Box<Alone>),
}

/// The running node, or an engine of its own for the command. A node that starts has the store open before it can be asked.
async fn reach(config: &Config, socket: &Path, needs: Needs) -> Result<Reached, Failure> {
    let until = Instant::now() + node::IN_USE_TIMEOUT;
    loop {
        if let Some(node) = ControlClient::connect(socket).await? {
            return Ok(Reached::Node(node));
        }
        match Alone::open(config.clone(), needs).await {
            Err(failure) if failure.is_in_use() && Instant::now() < until => {
                tokio::time::sleep(node::IN_USE_POLL).await;
            }
            opened => return opened.map(|alone| Reached::Alone(Box::new(alone))),
        }
    }
}

/// What comes of it, unless a signal ends it before.
pub(crate) async fn until<T>(
    signals: &mut Signals,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        ending = signals.next() => Err(Failure::new(Kind::Ended(ending), ending)),
        result = work => result,
    }
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
    say(&show::get(&reply.await?, out.as_deref()), asked.json)?;
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
            key::GenerateError::Name(_) => Self::usage(error),
            _ => Self::failed(error),
        }
    }
}

impl From<key::ReadKeyError> for Failure {
    fn from(error: key::ReadKeyError) -> Self {
        Self::usage(error)
    }
}
