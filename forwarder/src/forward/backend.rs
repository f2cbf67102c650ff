//! Backends that say where a stream goes, asked beside it: no publisher waits for one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::{Backend, BackendFailure, ForwardTarget};
use crate::conn::{Context, Refusal};
use crate::hooks::{Client, Failure};
use crate::hub::{Phase, Source, Stream};
use crate::rtmp::url::escaped;
use crate::status::BackendStatus;
use crate::status::srs::id_of;

/// Most destinations of one answer.
const MAX_URLS: usize = 64;

/// After a failure it is asked again, after a second and then less and less often.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Whom is asked for which publish.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    pub(super) backend: Backend,
    pub(super) source: Source,
}

/// Every stream whose backend is asked.
#[derive(Debug)]
pub(super) struct Backends {
    context: Arc<Context>,
    client: Arc<Client>,
    /// By the address of the stream, which is kept alive.
    streams: Mutex<HashMap<usize, Asked>>,
    /// Rung when some answer has changed.
    changed: Arc<Notify>,
    failures: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Asked {
    stream: Arc<Stream>,
    question: Question,
    known: Arc<Known>,
    task: JoinHandle<()>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was said of one stream.
#[derive(Debug, Default)]
struct Known {
    /// The last answer and why the last question had none.
    said: Mutex<(Option<Vec<ForwardTarget>>, String)>,
    ask_now: Notify,
}

impl Known {
    fn said(&self) -> MutexGuard<'_, (Option<Vec<ForwardTarget>>, String)> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backends {
    /// Rings `changed` when some answer has changed.
    pub(super) fn new(context: Arc<Context>, changed: Arc<Notify>) -> Self {
        let (streams, failures) = (Mutex::default(), Arc::default());
        let client = Arc::new(Client::new(context.held()));
        Self { context, client, streams, changed, failures }
    }

    /// Asks these questions and no others. One that has been asked stays as it is; a new publish of
    /// a stream, or another backend, is a new one, and the last answer holds until it is answered.
    pub(super) fn follow(&self, wanted: Vec<(Arc<Stream>, Question)>) {
        let mut streams = self.lock();
        let mut before = std::mem::take(&mut *streams);
        for (stream, question) in wanted {
            let known = match before.remove(&id(&stream)) {
                Some(asked) if asked.question == question => {
                    streams.insert(id(&stream), asked);
                    continue;
                }
                Some(asked) => Arc::clone(&asked.known),
                None => Arc::default(),
            };
            let asker = Asker {
                context: Arc::clone(&self.context),
                client: Arc::clone(&self.client),
                stream: Arc::clone(&stream),
                question: question.clone(),
                known: Arc::clone(&known),
                changed: Arc::clone(&self.changed),
                failures: Arc::clone(&self.failures),
            };
            let task = tokio::spawn(asker.run());
            streams.insert(id(&stream), Asked { stream, question, known, task });
        }
    }

    /// Asks no more for streams that are over. True: there were some.
    pub(super) fn forget_ended(&self) -> bool {
        let mut streams = self.lock();
        let before = streams.len();
        streams.retain(|_, asked| asked.stream.phase() != Phase::Ended);
        streams.len() < before
    }

    /// Where `stream` goes besides; `None`: there was no answer yet.
    pub(super) fn targets(&self, stream: &Arc<Stream>) -> Option<Vec<ForwardTarget>> {
        self.lock().get(&id(stream))?.known.said().0.clone()
    }

    /// All that was answered.
    pub(super) fn all_targets(&self) -> Vec<ForwardTarget> {
        let streams = self.lock();
        streams
            .values()
            .flat_map(|asked| asked.known.said().0.clone().unwrap_or_default())
            .collect()
    }

    /// Asks at once for the streams called `name` (an id, `app/stream` or `vhost/app/stream`), or for
    /// all; how many there are.
    pub(super) fn refresh(&self, name: Option<&str>) -> usize {
        let streams = self.lock();
        let is_meant = |asked: &&Asked| name.is_none_or(|name| is_called(&asked.stream, name));
        let meant = streams.values().filter(is_meant);
        meant.map(|asked| asked.known.ask_now.notify_one()).count()
    }

    /// Each stream's.
    pub(super) fn status(&self) -> Vec<BackendStatus> {
        let streams = self.lock();
        let status = streams.values().map(|asked| {
            let (key, said) = (asked.stream.key(), asked.known.said());
            BackendStatus {
                vhost: key.vhost().to_owned(),
                app: key.app().to_owned(),
                stream: key.stream().to_owned(),
                answered: said.0.is_some(),
                destinations: said.0.iter().flatten().map(ToString::to_string).collect(),
                last_error: said.1.clone(),
            }
        });
        let mut status: Vec<BackendStatus> = status.collect();
        status.sort_by(|a, b| (&a.vhost, &a.app, &a.stream).cmp(&(&b.vhost, &b.app, &b.stream)));
        status
    }

    /// Questions without an answer, since start.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Asked>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id(stream: &Arc<Stream>) -> usize {
    Arc::as_ptr(stream) as usize
}

fn is_called(stream: &Stream, name: &str) -> bool {
    let key = stream.key();
    let (vhost, app, stream) = (key.vhost(), key.app(), key.stream());
    name == id_of(&[vhost, app, stream])
        || name == format!("{app}/{stream}")
        || name == format!("{vhost}/{app}/{stream}")
}

/// Asks for one publish of a stream.
struct Asker {
    context: Arc<Context>,
    client: Arc<Client>,
    stream: Arc<Stream>,
    question: Question,
    known: Arc<Known>,
    changed: Arc<Notify>,
    failures: Arc<AtomicU64>,
}

impl Asker {
    /// Asks until it is aborted: at once, when it is told to, at intervals, and after failures.
    async fn run(self) {
        let Backend { url, timeout, failure, interval } = &self.question.backend;
        let (mut answered, mut failed) = (false, 0_u32);
        loop {
            let asked = self.client.post(url, self.body(), *timeout).await;
            let again = match asked.and_then(|answer| targets(&answer)) {
                Ok((targets, wrong)) => {
                    (answered, failed) = (true, 0);
                    self.take(targets, wrong);
                    *interval
                }
                Err(why) => {
                    self.fail(&why, failed == 0);
                    let decides = !answered && *failure == BackendFailure::Refuse;
                    if decides && self.refuse(&why) {
                        return;
                    }
                    failed = failed.saturating_add(1);
                    match why {
                        // It has spoken.
                        Failure::Refused(_) => *interval,
                        Failure::Broken(_) => {
                            FIRST_PAUSE.saturating_mul(1 << (failed - 1).min(16)).min(MAX_PAUSE)
                        }
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(again), if !again.is_zero() => {}
                () = self.known.ask_now.notified() => {}
            }
        }
    }

    /// SRS's on_forward.
    fn body(&self) -> Vec<u8> {
        let (key, source) = (self.stream.key(), &self.question.source);
        let param = match source.param.as_str() {
            "" => String::new(),
            param => format!("?{param}"),
        };
        let ip = source.peer.rsplit_once(':').map_or("", |(ip, _)| ip);
        let body = json!({
            "action": "on_forward",
            "server_id": self.context.identity.server,
            "service_id": self.context.identity.service,
            "client_id": source.client,
            "ip": ip.trim_matches(['[', ']']),
            "vhost": key.vhost(),
            "app": key.app(),
            "tcUrl": source.tc_url,
            "stream": key.stream(),
            "param": param,
        });
        body.to_string().into_bytes()
    }

    fn take(&self, targets: Vec<ForwardTarget>, wrong: Vec<String>) {
        let stream = self.stream.key();
        for why in &wrong {
            warn!(%stream, reason = %escaped(why), "a destination of the backend is none");
        }
        let mut said = self.known.said();
        let is_new = said.0.as_ref() != Some(&targets);
        if is_new {
            info!(%stream, destinations = targets.len(), "the backend answered");
        }
        *said = (Some(targets), wrong.into_iter().next().unwrap_or_default());
        drop(said);
        if is_new {
            self.changed.notify_one();
        }
    }

    fn fail(&self, why: &Failure, is_first: bool) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.known.said().1 = why.to_string();
        if is_first {
            let (stream, backend) = (self.stream.key(), &self.question.backend.url);
            let reason = why.to_string();
            warn!(%stream, %backend, reason = %escaped(&reason), "the backend has no answer");
        }
    }

    /// Sends the publisher away. False: it is gone, or was there before that could happen to it.
    fn refuse(&self, why: &Failure) -> bool {
        let description = match why {
            Failure::Broken(_) => "the backend has no answer",
            Failure::Refused(_) => "the backend refuses the stream",
        };
        let refusal = Refusal::new("NetStream.Publish.Denied", description);
        self.context.refusals.refuse(&self.question.source.peer, refusal)
    }
}

/// The destinations in an answer, and why others are none.
fn targets(answer: &Map<String, Value>) -> Result<(Vec<ForwardTarget>, Vec<String>), Failure> {
    let no_urls = || Failure::Refused("an answer without `data.urls`".to_owned());
    let urls = match answer.get("data") {
        None | Some(Value::Null) => return Err(no_urls()),
        Some(data) => data.get("urls").and_then(Value::as_array).ok_or_else(no_urls)?,
    };
    let (mut good, mut wrong): (Vec<ForwardTarget>, Vec<String>) = (Vec::new(), Vec::new());
    for url in urls.iter().take(MAX_URLS) {
        let Some(text) = url.as_str() else {
            wrong.push("not a text".to_owned());
            continue;
        };
        match text.parse::<ForwardTarget>() {
            Ok(target) if !good.contains(&target) => good.push(target),
            Ok(_) => {}
            Err(error) => {
                wrong.push(error.to_string().lines().next().unwrap_or_default().to_owned());
            }
        }
    }
    if urls.len() > MAX_URLS {
        wrong.push(format!("{} destinations, more than {MAX_URLS}", urls.len()));
    }
    Ok((good, wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str) -> Result<(Vec<String>, usize), Failure> {
        let answer: Map<String, Value> = serde_json::from_str(answer).expect("JSON");
        let (good, wrong) = targets(&answer)?;
        Ok((good.iter().map(ForwardTarget::written).collect(), wrong.len()))
    }

    #[test]
    fn urls_pass_the_same_checks_as_configured_ones() {
        let answer = r#"{"code":0,"data":{"urls":["rtmp://h/a/b?k=v","s:1936","dns+s","s:1936",
            "http://h/a","rtmp://h",7,"rtmp://u:p@h/a/b","-\n"]}}"#;
        let good = ["rtmp://h/a/b?k=v", "s:1936", "dns+s:1935"].map(str::to_owned).to_vec();
        assert_eq!(read(answer), Ok((good, 5)));
        assert_eq!(read(r#"{"code":0,"data":{"urls":[]}}"#), Ok((vec![], 0)));
        for answer in
            [r#"{"code":0}"#, r#"{"data":null}"#, r#"{"data":{}}"#, r#"{"data":{"urls":"a"}}"#]
        {
            assert!(matches!(read(answer), Err(Failure::Refused(_))), "{answer}");
        }
        let many = vec!["\"s\""; 100].join(",");
        assert_eq!(
            read(&format!(r#"{{"data":{{"urls":[{many}]}}}}"#)),
            Ok((vec!["s:1935".into()], 1))
        );
    }
}
