//! The wire: every HTTP request to a bucket passes here, retries included.
//!
//! Counting, throttling and time limits are done where requests really leave, below object_store's own retries, so that the counts
//! are those of the bill. Answers are looked at in passing: SlowDown narrows the gate, a listing tells which objects lie in an archive
//! class (object_store drops that), a refusal over an ended session makes the credentials be fetched anew, and a redirect or a
//! clock that differs is remembered for the message.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body::Frame;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService, ReqwestConnector,
};
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use super::fault::element;

/// Requests by the kind that is billed, and bytes over the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    pub list: u64,
    pub get: u64,
    pub head: u64,
    /// PUT, and the POSTs of multipart uploads.
    pub put: u64,
    pub delete: u64,
    /// Answers that were SlowDown or another call for fewer requests.
    pub throttled: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Requests {
    pub fn total(&self) -> u64 {
        self.list + self.get + self.head + self.put + self.delete
    }

    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            list: with(self.list, other.list),
            get: with(self.get, other.get),
            head: with(self.head, other.head),
            put: with(self.put, other.put),
            delete: with(self.delete, other.delete),
            throttled: with(self.throttled, other.throttled),
            bytes_in: with(self.bytes_in, other.bytes_in),
            bytes_out: with(self.bytes_out, other.bytes_out),
        }
    }

    /// What came since.
    pub fn since(self, earlier: Self) -> Self {
        self.zip(earlier, u64::saturating_sub)
    }

    pub fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
}

/// What one store's requests have shown so far.
#[derive(Debug, Default)]
pub struct Seen {
    list: AtomicU64,
    get: AtomicU64,
    head: AtomicU64,
    put: AtomicU64,
    delete: AtomicU64,
    throttled: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// Keys that a listing showed in an archive class.
    archived: Mutex<HashSet<String>>,
    /// Where S3 says that the bucket is.
    region: Mutex<Option<String>>,
    /// The server's clock minus ours, in seconds.
    skew: AtomicI64,
    /// The session has ended: the credentials at hand are of no more use.
    pub(super) session_ended: AtomicBool,
}

impl Seen {
    pub fn requests(&self) -> Requests {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            list: of(&self.list),
            get: of(&self.get),
            head: of(&self.head),
            put: of(&self.put),
            delete: of(&self.delete),
            throttled: of(&self.throttled),
            bytes_in: of(&self.bytes_in),
            bytes_out: of(&self.bytes_out),
        }
    }

    pub fn is_archived(&self, key: &str) -> bool {
        self.archived.lock().is_ok_and(|archived| archived.contains(key))
    }

    pub fn region(&self) -> Option<String> {
        self.region.lock().ok()?.clone()
    }

    pub fn skew_seconds(&self) -> i64 {
        self.skew.load(Ordering::Relaxed)
    }

    fn count(&self, request: &HttpRequest) -> bool {
        let query = request.uri().query().unwrap_or_default();
        let listing = request.method() == "GET" && query.contains("list-type=2");
        let counter = match request.method().as_str() {
            "GET" if listing => &self.list,
            "GET" => &self.get,
            "HEAD" => &self.head,
            "DELETE" => &self.delete,
            "POST" if query.split('&').any(|part| part == "delete" || part == "delete=") => &self.delete,
            _ => &self.put,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.bytes_out.fetch_add(request.body().content_length() as u64, Ordering::Relaxed);
        listing
    }
}

/// Lets through as many requests as the store bears: half of them after a SlowDown, one more after every [`CALM`] good answers.
#[derive(Debug)]
struct Gate {
    permits: Semaphore,
    /// Locked while it changes: two that narrow at once must not close the gate.
    width: Mutex<usize>,
    widest: usize,
    calm: AtomicUsize,
}

const CALM: usize = 32;

impl Gate {
    fn new(widest: usize) -> Self {
        Self { permits: Semaphore::new(widest), width: Mutex::new(widest), widest, calm: AtomicUsize::new(0) }
    }

    async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    fn slow_down(&self) {
        self.calm.store(0, Ordering::Relaxed);
        let mut width = self.width.lock().unwrap_or_else(PoisonError::into_inner);
        // Permits in use are not forgotten, so the gate may narrow by less.
        *width -= self.permits.forget_permits(*width / 2);
    }

    fn calm_down(&self) {
        if self.calm.fetch_add(1, Ordering::Relaxed) % CALM != CALM - 1 {
            return;
        }
        let mut width = self.width.lock().unwrap_or_else(PoisonError::into_inner);
        if *width < self.widest {
            *width += 1;
            self.permits.add_permits(1);
        }
    }
}

/// Makes the clients of a store; they share one count and one gate.
#[derive(Debug)]
pub struct Wire {
    seen: Arc<Seen>,
    gate: Arc<Gate>,
    timeout: Duration,
}

impl Wire {
    pub fn new(seen: Arc<Seen>, requests: usize, timeout: Duration) -> Self {
        Self { seen, gate: Arc::new(Gate::new(requests)), timeout }
    }
}

impl HttpConnector for Wire {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Watched { inner, seen: self.seen.clone(), gate: self.gate.clone(), timeout: self.timeout }))
    }
}

#[derive(Debug, Clone)]
struct Watched {
    inner: HttpClient,
    seen: Arc<Seen>,
    gate: Arc<Gate>,
    timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
struct NoAnswer(Duration);

/// The other side proved to be somebody else, or nobody known: repeating changes nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Untrusted(String);

/// TLS says what it found only in words, and the client takes it for a connection that may work the next time.
fn final_if_untrusted(error: HttpError) -> HttpError {
    let told = super::fault::with_causes(&error);
    if told.contains("invalid peer certificate") { HttpError::new(HttpErrorKind::Unknown, Untrusted(told)) } else { error }
}

fn no_answer(timeout: Duration) -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, NoAnswer(timeout))
}

/// A request ends with whoever wants its answer.
struct UntilDropped<T>(JoinHandle<T>);

impl<T> Drop for UntilDropped<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[async_trait]
impl HttpService for Watched {
    /// In a task of its own: a caller that does not look for a while (a stream that is read slowly) would otherwise keep its place in
    /// the gate, and whoever that caller waits for could find the gate full of it.
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let this = self.clone();
        let mut task = UntilDropped(tokio::spawn(async move { this.send(request).await }));
        match (&mut task.0).await {
            Ok(answer) => answer,
            Err(error) => Err(HttpError::new(HttpErrorKind::Unknown, error)),
        }
    }
}

impl Watched {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let _entered = self.gate.enter().await;
        let listing = self.seen.count(&request);
        let answer = tokio::time::timeout(self.timeout, self.inner.execute(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(no_answer(self.timeout))).map_err(final_if_untrusted)?;
        let status = answer.status();
        if matches!(status.as_u16(), 429 | 503) {
            self.seen.throttled.fetch_add(1, Ordering::Relaxed);
            self.gate.slow_down();
        } else {
            self.gate.calm_down();
        }
        self.note_head(&answer);
        let (head, body) = answer.into_parts();
        if status.is_success() && !listing {
            return Ok(HttpResponse::from_parts(head, self.watch(body)));
        }
        // Listings and errors are small and are looked into.
        let text = tokio::time::timeout(self.timeout, body.bytes()).await.unwrap_or_else(|_| Err(no_answer(self.timeout)))?;
        self.seen.bytes_in.fetch_add(text.len() as u64, Ordering::Relaxed);
        if listing {
            note_archived(&self.seen, &text);
        } else {
            self.note_refusal(&text);
        }
        Ok(HttpResponse::from_parts(head, text.into()))
    }

    fn note_head(&self, answer: &HttpResponse) {
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(region) = header("x-amz-bucket-region")
            && let Ok(mut known) = self.seen.region.lock()
        {
            *known = Some(region.to_owned());
        }
        if let Some(date) = header("date").and_then(|date| chrono::DateTime::parse_from_rfc2822(date).ok()) {
            self.seen.skew.store(date.timestamp() - chrono::Utc::now().timestamp(), Ordering::Relaxed);
        }
    }

    fn note_refusal(&self, text: &[u8]) {
        const ENDED: [&[u8]; 3] = [b"<Code>ExpiredToken", b"<Code>InvalidToken", b"<Code>TokenRefreshRequired"];
        if ENDED.iter().any(|code| memchr::memmem::find(text, code).is_some()) {
            self.seen.session_ended.store(true, Ordering::Relaxed);
        }
        if let Ok(text) = std::str::from_utf8(text)
            && let Some(region) = element(text, "Region")
            && let Ok(mut known) = self.seen.region.lock()
        {
            *known = Some(region.to_owned());
        }
    }

    /// Counts a body and gives up on one that stands still; waiting for the reader is no standing still.
    fn watch(&self, body: HttpResponseBody) -> HttpResponseBody {
        let timeout = self.timeout;
        let parts = futures::stream::unfold(body.bytes_stream(), move |mut parts| async move {
            let next = tokio::time::timeout(timeout, parts.next()).await;
            let part: Result<Bytes, HttpError> = match next {
                Ok(part) => part?,
                Err(_) => Err(no_answer(timeout)),
            };
            Some((part, parts))
        });
        HttpResponseBody::new(WatchedBody { parts: Mutex::new(parts.boxed()), seen: self.seen.clone() })
    }
}

/// The lock is never taken: it makes a stream that is only ever read through `&mut` one that may be shared.
struct WatchedBody {
    parts: Mutex<BoxStream<'static, Result<Bytes, HttpError>>>,
    seen: Arc<Seen>,
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        let parts = this.parts.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        parts.poll_next_unpin(context).map(|next| {
            next.map(|part| {
                let part = part?;
                this.seen.bytes_in.fetch_add(part.len() as u64, Ordering::Relaxed);
                Ok(Frame::data(part))
            })
        })
    }
}

/// Classes whose objects must be restored before they can be read; `GLACIER_IR` needs no such thing.
const ARCHIVES: [&[u8]; 2] = [b"<StorageClass>GLACIER</StorageClass>", b"<StorageClass>DEEP_ARCHIVE</StorageClass>"];

/// Remembers the keys of a listing that lie in an archive class.
fn note_archived(seen: &Seen, listing: &[u8]) {
    if !ARCHIVES.iter().any(|class| memchr::memmem::find(listing, class).is_some()) {
        return;
    }
    let Ok(text) = std::str::from_utf8(listing) else { return };
    let Ok(mut archived) = seen.archived.lock() else { return };
    for entry in text.split("<Contents>").skip(1) {
        let entry = entry.split("</Contents>").next().unwrap_or(entry);
        if let (Some("GLACIER" | "DEEP_ARCHIVE"), Some(key)) = (element(entry, "StorageClass"), element(entry, "Key"))
            && let Ok(key) = quick_xml::escape::unescape(key)
        {
            archived.insert(key.into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_tells_what_is_archived() {
        let seen = Seen::default();
        let entry =
            |key: &str, class: &str| format!("<Contents><Key>{key}</Key><Size>1</Size><StorageClass>{class}</StorageClass></Contents>");
        let text = format!("<R>{}{}{}</R>", entry("a&amp;b", "GLACIER"), entry("c", "STANDARD"), entry("d", "GLACIER_IR"));
        note_archived(&seen, text.as_bytes());
        assert!(seen.is_archived("a&b") && !seen.is_archived("c") && !seen.is_archived("d"));
    }

    #[tokio::test]
    async fn the_gate_narrows_and_widens() {
        let gate = Gate::new(8);
        gate.slow_down();
        gate.slow_down();
        assert_eq!(gate.permits.available_permits(), 2);
        for _ in 0..10 {
            gate.slow_down();
        }
        assert_eq!(gate.permits.available_permits(), 1);
        for _ in 0..CALM * 20 {
            gate.calm_down();
        }
        assert_eq!(gate.permits.available_permits(), 8);
    }

    #[test]
    fn the_gate_stays_open_however_many_narrow_it_at_once() {
        for _ in 0..200 {
            let gate = Gate::new(64);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| gate.slow_down());
                }
            });
            let width = *gate.width.lock().unwrap();
            assert!(width >= 1 && gate.permits.available_permits() == width, "{width}");
        }
    }
}
