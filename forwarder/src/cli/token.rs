//! `forwarder token`
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Failure, complain, say};
use crate::access::{Action, token};
use crate::config::{Config, DEFAULT_VHOST, parse_duration};
use crate::rtmp::url::StreamKey;

/// Make a token that lets somebody publish or play a stream
///
/// Prints the stream's name with the parameters to add to it, signed with the first secret of
/// [vhost.tokens].
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration of the server
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// What for
    #[arg(value_enum)]
    action: Action,
    /// The stream, app/stream
    #[arg(value_name = "APP/STREAM")]
    stream: String,
    /// The vhost that serves it
    #[arg(long, value_name = "NAME", default_value = DEFAULT_VHOST)]
    vhost: String,
    /// How long it is good: a whole number and a unit (s, m, h)
    #[arg(long, value_name = "TIME", default_value = "1h")]
    expires: String,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match made(args) {
        Ok(text) => {
            say(&text);
            Ok(())
        }
        Err(error) => {
            complain(&error);
            Err(Failure::Refused)
        }
    }
}

fn made(args: &Args) -> Result<String, String> {
    let loaded = Config::load(&args.config).map_err(|error| error.to_string())?;
    let vhost = loaded.config.vhost(&args.vhost);
    let vhost = vhost.ok_or_else(|| format!("no vhost serves `{}`", args.vhost))?;
    let secret = vhost.tokens.secret.first();
    let secret = secret.ok_or_else(|| format!("vhost `{}` has no secret", vhost.name))?;
    let (app, stream) = args.stream.rsplit_once('/').ok_or("a stream is written app/stream")?;
    let key = StreamKey::new(&vhost.name, app, stream).map_err(|error| error.to_string())?;
    let lasts: Duration = parse_duration(&args.expires)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    let expires = now.as_secs() + lasts.as_secs().max(1);
    let parameters = token::parameters(secret, args.action, &key, expires);
    Ok(format!("{stream}?{}", parameters.ok_or("the secret is no key")?))
}
