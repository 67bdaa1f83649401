//! Object stores that misbehave: one that lists in another order every time, one that fails at its n-th operation.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, UploadPart,
};

use crate::support::Random;

/// Lists in another order every time.
#[derive(Debug)]
pub struct Shuffled(pub Arc<dyn ObjectStore>);

impl std::fmt::Display for Shuffled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shuffled")
    }
}

#[async_trait]
impl ObjectStore for Shuffled {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.put_opts(location, payload, options).await
    }
    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.0.list(prefix);
        futures::stream::once(async move {
            let mut entries: Vec<_> = listed.collect().await;
            Random::new("shuffled listing").shuffle(&mut entries);
            futures::stream::iter(entries)
        })
        .flatten()
        .boxed()
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has no effect, and nothing works afterwards: the process died before it.
    DiesBefore,
    /// It takes effect, its answer is lost, and nothing works afterwards: the process died after it.
    DiesAfter,
    /// It takes effect, its answer is lost, and everything works afterwards.
    AnswerLost,
    /// The same, and the next operation fails, too: nobody can look at once what is there.
    AnswersLost,
    /// It has no effect, an error comes back, and everything works afterwards.
    Refused,
}

impl Fault {
    pub const ALL: [Fault; 5] = [Fault::DiesBefore, Fault::DiesAfter, Fault::AnswerLost, Fault::AnswersLost, Fault::Refused];
}

/// Counts operations and lets the n-th one (from 1) go wrong; each part of an upload is one.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<FaultPlan>,
}

#[derive(Debug)]
struct FaultPlan {
    at: u64,
    fault: Fault,
    count: AtomicU64,
    dead: AtomicBool,
    /// Operations that concern uploads in parts.
    uploads: Mutex<Vec<u64>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Now {
    Works,
    Fails,
    LosesAnswer,
}

impl Faulty {
    pub fn new(inner: Arc<dyn ObjectStore>, at: u64, fault: Fault) -> Self {
        let plan = FaultPlan { at, fault, count: AtomicU64::new(0), dead: AtomicBool::new(false), uploads: Mutex::default() };
        Self { inner, plan: Arc::new(plan) }
    }

    pub fn operations(&self) -> u64 {
        self.plan.count.load(Ordering::SeqCst)
    }

    /// The numbers of those that begin uploads in parts, send parts and complete them.
    pub fn uploads(&self) -> Vec<u64> {
        self.plan.uploads.lock().unwrap().clone()
    }

    fn next(&self) -> Now {
        self.plan.next()
    }
}

impl FaultPlan {
    fn next_of_upload(&self) -> Now {
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        self.uploads.lock().unwrap().push(number);
        self.at_operation(number)
    }

    fn next(&self) -> Now {
        self.at_operation(self.count.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn at_operation(&self, number: u64) -> Now {
        if self.dead.load(Ordering::SeqCst) {
            return Now::Fails;
        }
        if self.fault == Fault::AnswersLost && number == self.at + 1 {
            return Now::Fails;
        }
        if number != self.at {
            return Now::Works;
        }
        self.dead.store(matches!(self.fault, Fault::DiesBefore | Fault::DiesAfter), Ordering::SeqCst);
        match self.fault {
            Fault::DiesBefore | Fault::Refused => Now::Fails,
            Fault::DiesAfter | Fault::AnswerLost | Fault::AnswersLost => Now::LosesAnswer,
        }
    }
}

fn injected() -> Error {
    Error::Generic { store: "Faulty", source: "injected".into() }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Faulty")
    }
}

/// Runs an operation as the fault has it.
macro_rules! faulted {
    ($now:expr, $operation:expr) => {
        match $now {
            Now::Works => $operation,
            Now::Fails => Err(injected()),
            Now::LosesAnswer => {
                let _ = $operation;
                Err(injected())
            }
        }
    };
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        faulted!(self.next(), self.inner.put_opts(location, payload, options).await)
    }
    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let begun: Result<Box<dyn MultipartUpload>> =
            faulted!(self.plan.next_of_upload(), self.inner.put_multipart_opts(location, options).await);
        Ok(Box::new(FaultyUpload { inner: begun?, plan: self.plan.clone() }))
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        faulted!(self.next(), self.inner.get_opts(location, options).await)
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.next() {
            Now::Works => self.inner.delete_stream(locations),
            Now::Fails => futures::stream::once(async { Err(injected()) }).boxed(),
            Now::LosesAnswer => {
                let deleted = self.inner.delete_stream(locations);
                futures::stream::once(async move {
                    let _: Vec<_> = deleted.collect().await;
                    Err(injected())
                })
                .boxed()
            }
        }
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.next() {
            Now::Works => self.inner.list(prefix),
            _ => futures::stream::once(async { Err(injected()) }).boxed(),
        }
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        faulted!(self.next(), self.inner.list_with_delimiter(prefix).await)
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        faulted!(self.next(), self.inner.copy_opts(from, to, options).await)
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    plan: Arc<FaultPlan>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let now = self.plan.next_of_upload();
        if now == Now::Fails {
            return futures::future::ready(Err(injected())).boxed();
        }
        let sent = self.inner.put_part(data);
        async move { if now == Now::Works { sent.await } else { sent.await.and(Err(injected())) } }.boxed()
    }
    async fn complete(&mut self) -> Result<PutResult> {
        faulted!(self.plan.next_of_upload(), self.inner.complete().await)
    }
    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

/// Told of every operation on one path before it takes effect, and may refuse it.
pub type Before = Box<dyn Fn(&Path) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A store with something to happen before its operations.
pub struct Hooked {
    inner: Arc<dyn ObjectStore>,
    before_put: Before,
    /// Before reads, uploads in parts and listings of one level.
    before_others: Option<Before>,
    loses_answers: bool,
}

impl Hooked {
    /// Every put-if-absent takes effect, and its answer is a reset connection.
    pub fn losing_answers(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, before_put: Box::new(|_| futures::future::ready(Ok(())).boxed()), before_others: None, loses_answers: true }
    }

    /// Before the first put of an object whose path has `part`, something else happens.
    pub fn interposed(
        inner: Arc<dyn ObjectStore>,
        part: &'static str,
        then: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        let happened = AtomicBool::new(false);
        let before_put = move |path: &Path| {
            let now = path.as_ref().contains(part) && !happened.swap(true, Ordering::SeqCst);
            if now { then().map(Ok).boxed() } else { futures::future::ready(Ok(())).boxed() }
        };
        Self { inner, before_put: Box::new(before_put), before_others: None, loses_answers: false }
    }

    /// Every operation waits for its turn.
    pub fn in_turn(inner: Arc<dyn ObjectStore>, turn: impl Fn() -> BoxFuture<'static, Result<()>> + Clone + Send + Sync + 'static) -> Self {
        let others = turn.clone();
        Self { inner, before_put: Box::new(move |_| turn()), before_others: Some(Box::new(move |_| others())), loses_answers: false }
    }

    async fn before_others(&self, path: &Path) -> Result<()> {
        match &self.before_others {
            Some(before) => before(path).await,
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hooked")
    }
}

impl std::fmt::Display for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hooked")
    }
}

#[async_trait]
impl ObjectStore for Hooked {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        (self.before_put)(location).await?;
        let create = options.mode == object_store::PutMode::Create;
        let put = self.inner.put_opts(location, payload, options).await;
        if create && self.loses_answers { Err(injected()) } else { put }
    }
    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.before_others(location).await?;
        self.inner.put_multipart_opts(location, options).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.before_others(location).await?;
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.before_others(prefix.unwrap_or(&Path::default())).await?;
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// The first puts of objects whose path has `part` fail; the very first of them lands all the same, right before the next one that does
/// not fail: a request that was long under way.
#[derive(Debug)]
pub struct Late {
    pub inner: Arc<dyn ObjectStore>,
    pub part: &'static str,
    pub failing: AtomicU64,
    pub held: std::sync::Mutex<Option<(Path, PutPayload, PutOptions)>>,
}

impl Late {
    pub fn new(inner: Arc<dyn ObjectStore>, part: &'static str, failing: u64) -> Self {
        Self { inner, part, failing: AtomicU64::new(failing), held: std::sync::Mutex::default() }
    }
}

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Late")
    }
}

#[async_trait]
impl ObjectStore for Late {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if location.as_ref().contains(self.part) {
            let fails = self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            if fails {
                self.held.lock().unwrap().get_or_insert((location.clone(), payload, options));
                return Err(injected());
            }
            let held = self.held.lock().unwrap().take();
            if let Some((location, payload, options)) = held {
                self.inner.put_opts(&location, payload, options).await.unwrap();
            }
        }
        self.inner.put_opts(location, payload, options).await
    }
    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
