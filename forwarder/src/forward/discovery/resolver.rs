//! Asking DNS.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Name;
use super::set::{Answer, Host, MAX_ADDRESSES, MAX_PAUSE};
use crate::config::Discovery;

/// A server has so long for an answer, and is asked twice.
const PATIENCE: Duration = Duration::from_secs(2);

/// One question may take so long, with all servers and search domains there are.
const DEADLINE: Duration = Duration::from_secs(10);

/// Most questions at a time, of all names together.
const QUESTIONS: usize = 16;

/// Asks for names.
#[derive(Debug)]
pub(super) struct Resolver {
    questions: Semaphore,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { questions: Semaphore::new(QUESTIONS) }
    }
}

impl Resolver {
    /// Looks `name` up at `server`, or else at those that the system asks.
    ///
    /// /etc/resolv.conf and /etc/hosts are read each time: they may change while we run.
    pub(super) async fn look_up(
        self: &Arc<Self>,
        name: &Name,
        server: Option<SocketAddr>,
    ) -> Result<Answer, String> {
        let client = client(server).map_err(|error| error.to_string())?;
        let Name { how, host, port } = name;
        match how {
            Discovery::Dns => Ok(self.addresses(client, vec![(host.clone(), *port)]).await),
            Discovery::Srv => {
                let records = self.ask(&client, host, RecordType::SRV).await?;
                let (targets, ttl) = (targets(&records.0), records.1);
                let answer = self.addresses(client, targets).await;
                Ok(Answer { ttl: ttl.min(answer.ttl), ..answer })
            }
        }
    }

    /// The addresses of hosts at ports, in the order of their names.
    async fn addresses(
        self: &Arc<Self>,
        client: TokioResolver,
        hosts: Vec<(String, u16)>,
    ) -> Answer {
        let mut asked = JoinSet::new();
        for (name, port) in hosts {
            let (this, client) = (Arc::clone(self), client.clone());
            asked.spawn(async move {
                let (v4, v6) = tokio::join!(
                    this.ask(&client, &name, RecordType::A),
                    this.ask(&client, &name, RecordType::AAAA),
                );
                let ttl = [&v4, &v6].into_iter().flatten().map(|(_, ttl)| *ttl).min();
                let [v4, v6] = [v4, v6].map(|kind| kind.map(|(records, _)| ips(&records)));
                (Host { name, port, v4, v6 }, ttl.unwrap_or(MAX_PAUSE))
            });
        }
        let mut answer = Answer { ttl: MAX_PAUSE, hosts: Vec::new() };
        while let Some(done) = asked.join_next().await {
            let Ok((host, ttl)) = done else { continue };
            answer.hosts.push(host);
            answer.ttl = answer.ttl.min(ttl);
        }
        answer.hosts.sort_by(|a, b| (&a.name, a.port).cmp(&(&b.name, b.port)));
        answer
    }

    /// The records of one kind, and how long they live. That there are none is an answer.
    async fn ask(
        &self,
        client: &TokioResolver,
        name: &str,
        kind: RecordType,
    ) -> Result<(Vec<RData>, Duration), String> {
        // It is never closed.
        let _permit = self.questions.acquire().await;
        match timeout(DEADLINE, client.lookup(name, kind)).await {
            Ok(Ok(found)) => Ok((records(&found), time_to_live(&found))),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none))))
                if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
            {
                let ttl =
                    none.negative_ttl.map_or(MAX_PAUSE, |ttl| Duration::from_secs(ttl.into()));
                Ok((Vec::new(), ttl))
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
                Err(format!("{kind}: {}", none.response_code))
            }
            Ok(Err(error)) => Err(format!("{kind}: {error}")),
            Err(_) => Err(format!("{kind}: no answer in time")),
        }
    }
}

fn client(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            let connections = connections.map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            let config = ResolverConfig::from_name_servers(vec![server]);
            let mut builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        }
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = PATIENCE;
    options.attempts = 2;
    // Who asks knows himself how long an answer lives.
    options.cache_size = 0;
    builder.build()
}

fn records(found: &Lookup) -> Vec<RData> {
    found.answers().iter().map(|record| record.data.clone()).collect()
}

fn time_to_live(found: &Lookup) -> Duration {
    found.valid_until().saturating_duration_since(Instant::now())
}

fn ips(records: &[RData]) -> Vec<IpAddr> {
    let ips = records.iter().filter_map(|record| match record {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    ips.collect()
}

/// The hosts and ports that a service's records name. Priority and weight are for those who choose
/// one; `.` says that there is none (RFC 2782).
fn targets(records: &[RData]) -> Vec<(String, u16)> {
    let targets = records.iter().filter_map(|record| match record {
        RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => {
            let name = srv.target.to_ascii().to_ascii_lowercase();
            Some((name.trim_end_matches('.').to_owned(), srv.port))
        }
        _ => None,
    });
    let targets: BTreeSet<(String, u16)> = targets.collect();
    targets.into_iter().take(MAX_ADDRESSES).collect()
}

#[cfg(test)]
mod tests;
