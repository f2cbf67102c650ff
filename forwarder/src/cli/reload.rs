//! `forwarder reload`

use anyhow::{Context as _, bail};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::status::{Asked, exchange};
use super::{Failure, complain, say};
use crate::status::reload::{Outcome, Refused, Reloaded};

const PATH: &str = "/api/v1/reload";

/// Have a running server load its configuration again
///
/// Prints what changed. A file that is refused changes nothing: what is wrong goes to stderr as
/// `forwarder check` says it, and the exit code is 1.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of its HTTP API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1985")]
    api: String,
    /// `token` of its [http_api], for a server on another host
    ///
    /// Others on this machine see what stands here; FORWARDER_TOKEN in the environment they do not.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

#[derive(Deserialize)]
struct Done {
    reload: Reloaded,
}

#[derive(Deserialize)]
struct Failed {
    error: Refused,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match answer(args) {
        Ok(Ok(reloaded)) if reloaded.changes.is_empty() && reloaded.notes.is_empty() => {
            say("nothing has changed");
            Ok(())
        }
        Ok(Ok(reloaded)) => {
            say(&reloaded.to_string());
            Ok(())
        }
        Ok(Err(refused)) => {
            complain(&refused.shown);
            Err(Failure::Refused)
        }
        Err(error) => {
            complain(&format!("{}: {error:#}", args.api));
            Err(Failure::Runtime)
        }
    }
}

fn answer(args: &Args) -> anyhow::Result<Outcome> {
    const FOREIGN: &str = "the answer is not forwarder's";
    let token = args.token.clone().or_else(|| std::env::var("FORWARDER_TOKEN").ok());
    let asked = Asked { method: Method::POST, path: PATH, token: token.as_deref() };
    let (status, body) = exchange(&args.api, &asked)?;
    match status {
        StatusCode::OK => {
            let done: Done = serde_json::from_slice(&body).context(FOREIGN)?;
            Ok(Ok(done.reload))
        }
        StatusCode::BAD_REQUEST => {
            let failed: Failed = serde_json::from_slice(&body).context(FOREIGN)?;
            Ok(Err(Box::new(failed.error)))
        }
        StatusCode::UNAUTHORIZED => bail!("the server wants the token of its [http_api]"),
        status => bail!("the server answers {status}"),
    }
}
