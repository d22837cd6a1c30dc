//! The commands that are about the store.

use std::process::ExitCode;

use firn_proto::control::{
    AddRequest, AdoptRequest, CollectRequest, PinRequest, UnpinRequest, VerifyRequest,
};

use super::{Asked, add_path, bytes_of, read_key, say};
use crate::{
    cli::{AddArgs, AdoptArgs, GcArgs, PinCommand, VerifyArgs},
    failure::{Failure, Kind},
    progress::{self, Style},
    show,
};

pub(super) async fn add(asked: Asked, arguments: AddArgs) -> Result<ExitCode, Failure> {
    let keys = arguments.sign_key.iter().map(|file| read_key(file));
    let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
    let request = AddRequest {
        path: bytes_of(&add_path(&arguments.path, arguments.closure)?),
        name: arguments.name.unwrap_or_default(),
        closure: arguments.closure,
        share: arguments.share,
        sign_keys: keys.iter().map(|key| key.to_secret_text()).collect(),
        nix_root: bytes_of(&asked.config.nix_root),
        in_place: arguments.in_place,
        rehash: arguments.rehash,
    };
    let reply = progress::shown(Style::of_process(asked.json), async |report| {
        asked.operations.add(request, report).await
    });
    say(&show::add(&reply.await?), asked.json)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn adopt(asked: Asked, arguments: AdoptArgs) -> Result<ExitCode, Failure> {
    let what = arguments.what.iter().map(|path| Ok(bytes_of(&add_path(path, true)?)));
    let request = AdoptRequest {
        what: what.collect::<Result<_, Failure>>()?,
        jobs: arguments.jobs.unwrap_or(0),
        once: arguments.once,
        nix_root: bytes_of(&asked.config.nix_root),
        closure: arguments.closure,
        share: arguments.share,
    };
    let reply = progress::shown(Style::of_process(asked.json), async |report| {
        asked.operations.adopt(request, report).await
    });
    let reply = reply.await?;
    say(&show::adopt(&reply), asked.json)?;
    // What is still going on has not failed yet.
    let has_failed = reply.status.is_some_and(|status| status.complete && status.failed_paths > 0);
    Ok(code(!has_failed))
}

pub(super) async fn pin(asked: Asked, command: PinCommand) -> Result<ExitCode, Failure> {
    let answer = match command {
        PinCommand::Add { what, reason } => {
            show::pin(&asked.operations.pin(PinRequest { what, reason }).await?)
        }
        PinCommand::Rm { what } => show::unpin(&asked.operations.unpin(UnpinRequest { what }).await?),
        PinCommand::List => show::pins(&asked.operations.pins().await?),
    };
    say(&answer, asked.json)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn gc(asked: Asked, arguments: GcArgs) -> Result<ExitCode, Failure> {
    let bytes_max = arguments.max_bytes.map(|limit| limit.0);
    let request = CollectRequest { dry_run: arguments.dry_run, bytes_max };
    let reply = progress::shown(Style::of_process(asked.json), async |report| {
        asked.operations.collect(request, report).await
    });
    say(&show::collect(&reply.await?), asked.json)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn stats(asked: Asked) -> Result<ExitCode, Failure> {
    say(&show::stats(&asked.operations.stats().await?), asked.json)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn verify(asked: Asked, arguments: VerifyArgs) -> Result<ExitCode, Failure> {
    let request = VerifyRequest { what: arguments.what, repair: arguments.repair };
    let reply = progress::shown(Style::of_process(asked.json), async |report| {
        asked.operations.verify(request, report).await
    });
    let reply = reply.await?;
    say(&show::verify(&reply), asked.json)?;
    Ok(code(reply.damages.iter().all(|damage| damage.repaired)))
}

/// Whether all went well, for the shell.
fn code(is_well: bool) -> ExitCode {
    if is_well { ExitCode::SUCCESS } else { ExitCode::from(Kind::Failed.code()) }
}
