//! A proxy between an S3 client and an S3 server that breaks requests as a network and S3 itself do: before the server
//! has seen them, half way, or after they were applied and only the answer is lost.
//!
//! Design: [`Rule`]s say which requests a [`Fault`] meets; they are asked in the order they were added, and the first one
//! that fires decides. A request is read whole before the rules are asked, an answer is read whole before it is passed
//! on, and both pass as they are but for the framing: `Host` too, which is signed. What cannot be reached upstream, or
//! breaks off there, becomes a reset: the proxy invents no answer of its own.
//!
//! Chance comes from a seed. It is drawn for each request from the rule, the method, the target and the how-manieth such
//! request it is, so that the order in which concurrent requests arrive changes nothing.
//!
//! A request is applied upstream although its client is gone by then, as by a server to which it is still under way.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Connection, Reply, Request, Response, Server, decode, decode_form, s3};

/// The seed of a proxy that was not given one.
const SEED: u64 = 20_250_101;
/// How long the server is given to notice that a body ends in its middle.
const GIVES_UP: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub enum Fault {
    /// 503 instead of the request.
    SlowDown,
    /// 503 instead of the answer.
    SlowDownAfter,
    /// 500 instead of the answer.
    InternalErrorAfter,
    /// The connection is reset, the server sees nothing.
    ResetBefore,
    /// The connection is reset after the server has answered.
    ResetAfter,
    /// The server gets half of the body and the end of the connection, then the client's is reset. Meets only requests with a body.
    HalfBody,
    /// The server has answered, the client waits so long for nothing, then its connection is closed.
    Hang(Duration),
    /// The request stays under way so long.
    Delay(Duration),
    /// The client gets half of the answer, then a reset.
    CutResponse,
    /// The server does not hear of If-None-Match and If-Match, as from one that does not know them.
    ForgetCondition,
    /// 503 instead of what exceeds a rate: requests for keys under a prefix, and listings of it. A second's worth may come at once.
    Throttle { prefix: String, per_second: u32 },
    /// An error instead of the request.
    Status { status: u16, code: String, message: String, headers: Vec<(String, String)> },
}

impl Fault {
    pub fn status(status: u16, code: &str, message: &str) -> Self {
        Self::Status { status, code: code.to_owned(), message: message.to_owned(), headers: Vec::new() }
    }

    pub fn access_denied() -> Self {
        Self::status(403, "AccessDenied", "Access Denied")
    }

    pub fn expired_token() -> Self {
        Self::status(400, "ExpiredToken", "The provided token has expired.")
    }

    pub fn clock_skew() -> Self {
        Self::status(403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.")
    }

    pub fn no_such_bucket() -> Self {
        Self::status(404, "NoSuchBucket", "The specified bucket does not exist")
    }

    /// The 409 of two conditional writes at once, which S3 wants repeated.
    pub fn conflict() -> Self {
        Self::status(409, "ConditionalRequestConflict", "The conditional request cannot succeed due to a conflicting operation.")
    }

    /// The bucket is in another region.
    pub fn moved(region: &str) -> Self {
        Self::Status {
            status: 301,
            code: "PermanentRedirect".to_owned(),
            message: "The bucket you are attempting to access must be addressed using the specified endpoint.".to_owned(),
            headers: vec![("x-amz-bucket-region".to_owned(), region.to_owned())],
        }
    }

    /// What it is counted as.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SlowDown => "slow_down",
            Self::SlowDownAfter => "slow_down_after",
            Self::InternalErrorAfter => "internal_error_after",
            Self::ResetBefore => "reset_before",
            Self::ResetAfter => "reset_after",
            Self::HalfBody => "half_body",
            Self::Hang(_) => "hang",
            Self::Delay(_) => "delay",
            Self::CutResponse => "cut_response",
            Self::ForgetCondition => "forget_condition",
            Self::Throttle { .. } => "throttle",
            Self::Status { .. } => "status",
        }
    }
}

/// What the conditions of a rule are asked about; all decoded.
struct Subject {
    path: String,
    query: String,
    /// Path and query.
    target: String,
    /// The key, or the prefix of the keys that are to be listed.
    key: String,
}

impl Subject {
    fn of(request: &Request) -> Self {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let (path, query) = (decode(path), decode_form(query));
        let target = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        let mut key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key).to_owned();
        if key.is_empty() {
            key = request.query().into_iter().find(|(name, _)| name == "prefix").map(|(_, prefix)| prefix).unwrap_or_default();
        }
        Self { path, query, target, key }
    }
}

type Condition = Arc<dyn Fn(&str, &Subject) -> bool + Send + Sync>;

/// Which requests a fault meets: those that fulfil all conditions; without any, every one.
#[derive(Clone)]
pub struct Rule {
    fault: Fault,
    conditions: Vec<Condition>,
    skip: u32,
    times: Option<u32>,
    every: u32,
    probability: f64,
}

impl Rule {
    pub fn new(fault: Fault) -> Self {
        Self { fault, conditions: Vec::new(), skip: 0, times: None, every: 1, probability: 1.0 }
    }

    /// The method, and path and query (both decoded: `/bucket/a=b/c?list-type=2&prefix=x/`), fulfil this.
    pub fn when(self, condition: impl Fn(&str, &str) -> bool + Send + Sync + 'static) -> Self {
        self.and(move |method, subject| condition(method, &subject.target))
    }

    fn and(mut self, condition: impl Fn(&str, &Subject) -> bool + Send + Sync + 'static) -> Self {
        self.conditions.push(Arc::new(condition));
        self
    }

    pub fn methods(self, methods: &[&str]) -> Self {
        let methods: Vec<String> = methods.iter().map(|&method| method.to_owned()).collect();
        self.and(move |method, _| methods.iter().any(|own| own == method))
    }

    /// The path, which begins with `/bucket/`, contains this.
    pub fn contains(self, part: &str) -> Self {
        let part = part.to_owned();
        self.and(move |_, subject| subject.path.contains(&part))
    }

    pub fn prefix(self, prefix: &str) -> Self {
        let prefix = prefix.to_owned();
        self.and(move |_, subject| subject.path.starts_with(&prefix))
    }

    pub fn suffix(self, suffix: &str) -> Self {
        let suffix = suffix.to_owned();
        self.and(move |_, subject| subject.path.ends_with(&suffix))
    }

    /// Not the first so many.
    pub fn after(mut self, requests: u32) -> Self {
        self.skip = requests;
        self
    }

    /// Not more often than this.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Only each so-manieth, the first ones not.
    pub fn every(mut self, every: u32) -> Self {
        self.every = every.max(1);
        self
    }

    /// Only this share, by chance.
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }
}

/// A request and what became of it, in the order of the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    /// Decoded, as is the query.
    pub path: String,
    pub query: String,
    /// What the client was told; none where it got no answer, or only a part.
    pub status: Option<u16>,
    /// What the server answered; none where it was not asked, or did not answer.
    pub upstream: Option<u16>,
    pub fault: Option<&'static str>,
}

pub struct FaultProxy {
    server: Server,
    inner: Arc<Inner>,
}

impl FaultProxy {
    pub fn start(upstream: SocketAddr) -> Self {
        Self::seeded(upstream, SEED)
    }

    pub fn seeded(upstream: SocketAddr, seed: u64) -> Self {
        let inner = Arc::new(Inner { upstream, seed, state: Mutex::default(), idle: Mutex::default() });
        let own = Arc::clone(&inner);
        let handler = move |request| {
            let inner = Arc::clone(&own);
            Box::pin(async move { inner.handle(&request).await }) as super::BoxFuture<Reply>
        };
        let server = Server::start(0, 2, Arc::new(handler)).expect("a free port");
        Self { server, inner }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn seed(&self) -> u64 {
        self.inner.seed
    }

    pub fn add(&self, rule: Rule) {
        let tokens = if let Fault::Throttle { per_second, .. } = rule.fault { f64::from(per_second.max(1)) } else { 0.0 };
        self.inner.state().rules.push(Active { rule, met: 0, fired: 0, tokens, filled: Instant::now(), drawn: HashMap::new() });
    }

    /// Without any rules from now on. What is under way keeps its fault.
    pub fn clear(&self) {
        self.inner.state().rules.clear();
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.inner.state().seen.clone()
    }

    /// As if nothing had been seen yet.
    pub fn forget(&self) {
        self.inner.state().seen.clear();
    }

    /// How often each kind of fault has met a request.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for kind in self.inner.state().seen.iter().filter_map(|seen| seen.fault) {
            *counts.entry(kind).or_default() += 1;
        }
        counts
    }
}

impl std::fmt::Display for FaultProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "fault proxy at {} to {}, seed {}", self.server.address(), self.inner.upstream, self.inner.seed)
    }
}

struct Inner {
    upstream: SocketAddr,
    seed: u64,
    state: Mutex<State>,
    /// Connections to the server that wait for the next request.
    idle: Mutex<Vec<Connection>>,
}

#[derive(Default)]
struct State {
    rules: Vec<Active>,
    seen: Vec<Seen>,
}

/// A rule and what it has done so far.
struct Active {
    rule: Rule,
    met: u32,
    fired: u32,
    /// What a throttle lets through yet, and when that was true.
    tokens: f64,
    filled: Instant,
    /// How often chance was asked about the same method and target.
    drawn: HashMap<u64, u64>,
}

impl Active {
    fn fires(&mut self, request: &Request, subject: &Subject, seed: u64) -> bool {
        let rule = &self.rule;
        let all = rule.conditions.iter().all(|condition| condition(&request.method, subject));
        let halved = !matches!(rule.fault, Fault::HalfBody) || request.body.len() > 1;
        let under = if let Fault::Throttle { prefix, .. } = &rule.fault { subject.key.starts_with(prefix) } else { true };
        if !all || !halved || !under {
            return false;
        }
        self.met += 1;
        if self.met <= rule.skip
            || rule.times.is_some_and(|times| self.fired >= times)
            || !(self.met - rule.skip).is_multiple_of(rule.every)
        {
            return false;
        }
        if rule.probability < 1.0 {
            let same = xxh3_64_with_seed(format!("{} {}", request.method, request.target).as_bytes(), seed);
            let before = self.drawn.entry(same).or_default();
            *before += 1;
            if share(xxh3_64_with_seed(&before.to_le_bytes(), same)) >= rule.probability {
                return false;
            }
        }
        if let Fault::Throttle { per_second, .. } = rule.fault {
            let rate = f64::from(per_second);
            let now = Instant::now();
            self.tokens = (self.tokens + now.duration_since(self.filled).as_secs_f64() * rate).min(rate.max(1.0));
            self.filled = now;
            if self.tokens >= 1.0 {
                self.tokens -= 1.0;
                return false;
            }
        }
        self.fired += 1;
        true
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn choose(&self, request: &Request, subject: &Subject) -> Option<Fault> {
        let mut state = self.state();
        let mut rules = (0_u64..).zip(&mut state.rules);
        let chosen = rules.find_map(|(index, active)| {
            active.fires(request, subject, xxh3_64_with_seed(&index.to_le_bytes(), self.seed)).then_some(active)
        });
        chosen.map(|active| active.rule.fault.clone())
    }

    async fn handle(&self, request: &Request) -> Reply {
        let subject = Subject::of(request);
        let fault = self.choose(request, &subject);
        let Subject { path, query, .. } = subject;
        let mut seen =
            Seen { method: request.method.clone(), path, query, status: None, upstream: None, fault: fault.as_ref().map(Fault::kind) };

        let before = match &fault {
            Some(Fault::SlowDown | Fault::Throttle { .. }) => Some(Reply::Whole(slow_down())),
            Some(Fault::ResetBefore) => Some(Reply::Reset),
            Some(Fault::Status { status, code, message, headers }) => {
                let mut response = s3::error(*status, code, message);
                for (name, value) in headers {
                    response.headers.push(name.to_ascii_lowercase(), value.clone());
                }
                Some(Reply::Whole(response))
            }
            Some(Fault::HalfBody) => {
                seen.upstream = self.half(request).await;
                Some(Reply::Reset)
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(*time).await;
                None
            }
            _ => None,
        };
        let mut request = request.clone();
        if matches!(fault, Some(Fault::ForgetCondition)) {
            request.headers.remove("if-none-match");
            request.headers.remove("if-match");
        }
        let reply = match before {
            Some(reply) => reply,
            None => match self.forward(&request).await {
                None => Reply::Reset,
                Some(response) => {
                    seen.upstream = Some(response.status);
                    match fault {
                        Some(Fault::SlowDownAfter) => Reply::Whole(slow_down()),
                        Some(Fault::InternalErrorAfter) => {
                            Reply::Whole(s3::error(500, "InternalError", "We encountered an internal error. Please try again."))
                        }
                        Some(Fault::ResetAfter) => Reply::Reset,
                        Some(Fault::Hang(_)) => Reply::Close,
                        Some(Fault::CutResponse) => Reply::Cut(response),
                        _ => Reply::Whole(response),
                    }
                }
            },
        };
        if let Reply::Whole(response) = &reply {
            seen.status = Some(response.status);
        }
        self.state().seen.push(seen);
        if let Some(Fault::Hang(time)) = fault {
            tokio::time::sleep(time).await;
        }
        reply
    }

    /// The server's answer, if there is a whole one.
    async fn forward(&self, request: &Request) -> Option<Response> {
        let waiting = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            std::iter::from_fn(|| idle.pop()).find(Connection::is_idle)
        };
        let mut connection = match waiting {
            Some(connection) => connection,
            None => Connection::connect(self.upstream).await.ok()?,
        };
        // A server that refuses a request before it has read all of it answers, although the rest cannot be written.
        let _ = connection.write(request.head(request.body.len()), request.body.clone()).await;
        let response = connection.response(request.method == "HEAD").await.ok()?;
        if response.keep_alive && connection.buffer.is_empty() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        Some(response)
    }

    /// The server has noticed the end, and said so or not, before this returns: nothing of the request is under way then.
    async fn half(&self, request: &Request) -> Option<u16> {
        let mut connection = Connection::connect(self.upstream).await.ok()?;
        let half = request.body.slice(..request.body.len() / 2);
        connection.write(request.head(request.body.len()), half).await.ok()?;
        connection.stream.shutdown().await.ok()?;
        let response = tokio::time::timeout(GIVES_UP, connection.response(false)).await;
        response.ok()?.ok().map(|response| response.status)
    }
}

fn slow_down() -> Response {
    s3::error(503, "SlowDown", "Please reduce your request rate.")
}

/// A number from 0 to 1.
fn share(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}
