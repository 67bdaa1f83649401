//! Stores: a URL → an object store, and the few ways in which the layers above use it.
//!
//! Everything that touches bytes outside of this process goes through one [`Store`] per address, delta-rs included, so that
//! retries, credentials, throttling and counting have one place: [`wire`]. Local disk and S3 (and servers that speak it) are
//! supported; other schemes are refused by name.

mod ahead;
pub mod credentials;
pub mod fault;
mod list;
pub mod options;
pub mod probe;
mod reader;
mod s3;
mod upload;
pub mod wire;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::task::JoinError;
use url::Url;

pub use ahead::{ahead, ahead_on_a_thread};
pub use options::StoreOptions;
pub use reader::SourceFailed;
pub use upload::Upload;
pub use wire::Requests;

use reader::{Download, LocalReader};
use s3::Bucket;

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    List,
    Read,
    Write,
    Create,
    Delete,
}

impl Action {
    fn verb(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Write => "write",
            Self::Create => "create",
            Self::Delete => "delete",
        }
    }

    /// What the identity must be allowed to do, in IAM's words.
    pub fn iam(self) -> &'static str {
        match self {
            Self::List => "s3:ListBucket",
            Self::Read => "s3:GetObject",
            Self::Write | Self::Create => "s3:PutObject",
            Self::Delete => "s3:DeleteObject",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{address} is no address: {reason} (use a path, file:///path or s3://bucket/prefix)")]
    Address { address: String, reason: String },
    #[error("{address}: there is no way to `{scheme}://` here, only to local paths and s3://")]
    Scheme { address: String, scheme: String },
    #[error("{place}: {reason}")]
    Options { place: String, reason: String },
    #[error("{address} does not exist")]
    Missing { address: String },
    #[error("cannot create {address}: {source}")]
    CreateRoot { address: String, source: std::io::Error },
    #[error("s3://{bucket}: its region could not be found out: {source}; set the option region")]
    Region { bucket: String, source: object_store::Error },
    #[error("below {folder} there is a name that no object can have: {reason}; rename or move the file, nothing of this source was read")]
    Name { folder: String, reason: String },
    #[error("cannot {} {path}: {}", .action.verb(), told(*.action, .place, .source))]
    Access { action: Action, path: Box<str>, place: Box<str>, source: object_store::Error },
    #[error("{path} changed while it was read (listed as {listed}, now {found}); the next run reads it as it is then")]
    Changed { path: String, listed: String, found: String },
    #[error("{path} lies in an archive class; restore it with: {restore}")]
    Archived { path: String, restore: String },
    #[error(transparent)]
    Probe(#[from] probe::ProbeFailed),
}

/// A failure in words: S3's code and message and the remedy, or the error as it is.
fn told(action: Action, place: &str, source: &object_store::Error) -> String {
    let Some(refusal) = fault::refusal(source) else { return fault::with_causes(source) };
    let message = if refusal.message.is_empty() { String::new() } else { format!(" ({})", refusal.message.trim_end_matches('.')) };
    match refusal.code.as_str() {
        "AccessDenied" if !refusal.remedy.contains("KMS") => {
            format!("{}{message} at {place}: {} is needed; {}", refusal.code, action.iam(), refusal.remedy)
        }
        "Unreachable" => format!("{place} does not answer ({}); {}", fault::with_causes(source), refusal.remedy),
        _ => format!("{}{message} at {place}: {}", refusal.code, refusal.remedy),
    }
}

impl StoreError {
    /// Whether the person's address or rights are at fault, rather than the store's health.
    pub fn is_users(&self) -> bool {
        match self {
            Self::Address { .. }
            | Self::Scheme { .. }
            | Self::Options { .. }
            | Self::Missing { .. }
            | Self::CreateRoot { .. }
            | Self::Name { .. } => true,
            Self::Access { source, .. } => fault::refusal(source).is_some_and(|refusal| refusal.users) || denied_by_disk(source),
            Self::Region { source, .. } => fault::refusal(source).is_none_or(|refusal| refusal.users),
            Self::Probe(failed) => failed.is_users(),
            Self::Changed { .. } | Self::Archived { .. } => false,
        }
    }

    /// The object that cannot be read now and may be later, without a fault of the run.
    pub fn left_for_later(&self) -> Option<(&str, &'static str)> {
        match self {
            Self::Archived { path, .. } => Some((path, ARCHIVED)),
            Self::Changed { path, .. } => Some((path, CHANGED)),
            _ => None,
        }
    }
}

/// Why an object that became another one is left for the next run.
pub const CHANGED: &str = "objects that changed while they were read";
/// Why an object in an archive class is left alone.
pub const ARCHIVED: &str = "objects in an archive class";

fn denied_by_disk(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A place in an object store.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<dyn ObjectStore>,
    prefix: Path,
    url: Url,
    bucket: Option<Arc<Bucket>>,
    /// Local disk itself, with nothing around it.
    disk: Option<Arc<LocalFileSystem>>,
}

/// Whether the answer to a create is checked. Switched off only to show that the tests would notice.
const GUARDED: bool = cfg!(not(feature = "no-guards"));
/// Times that a create is tried that had no effect; object_store repeats it only where it knows that it had none.
const CREATE_TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

impl Store {
    /// A path, a `file://` URL or an `s3://` URL.
    pub async fn open(address: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        let bad = |reason: &str| StoreError::Address { address: address.to_owned(), reason: reason.to_owned() };
        let path = match Url::parse(address) {
            Ok(url) if url.scheme() == "file" => url.to_file_path().map_err(|()| bad("a file URL names an absolute path"))?,
            Ok(url) if matches!(url.scheme(), "s3" | "s3a") => return Self::open_s3(&url, options).await,
            Ok(url) if url.scheme().len() > 1 => {
                return Err(StoreError::Scheme { address: without_user(&url), scheme: url.scheme().to_owned() });
            }
            _ if address.is_empty() => return Err(bad("it is empty")),
            // Not echoed: a part of it may be a secret.
            Err(error) if address.contains("://") => {
                let scheme = address.split("://").next().unwrap_or_default();
                return Err(StoreError::Address { address: format!("{scheme}://…"), reason: error.to_string() });
            }
            _ => std::path::absolute(PathBuf::from(address)).map_err(|error| bad(&error.to_string()))?,
        };
        let path = normal(&path);
        if path.to_string_lossy().contains('%') {
            return Err(bad("a folder with % in its name cannot be a root; Delta readers would decode it"));
        }
        let url = Url::from_directory_path(&path).map_err(|()| bad("it is not absolute"))?;
        let disk = Arc::new(LocalFileSystem::new());
        Ok(Self { disk: Some(disk.clone()), ..Self::over(disk, url)? })
    }

    async fn open_s3(url: &Url, options: &StoreOptions) -> Result<Self, StoreError> {
        let shown = without_user(url);
        let bad = |reason: &str| StoreError::Address { address: shown.clone(), reason: reason.to_owned() };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("credentials do not belong into an address"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it has a ? or #; options go into --bronze-options and --silver-options"));
        }
        let name = url.host_str().filter(|name| !name.is_empty()).ok_or_else(|| bad("it names no bucket"))?;
        if url.path().contains('%') {
            return Err(bad("a prefix that needs % in its URL cannot be a root; Delta readers would decode it"));
        }
        let bucket = Arc::new(Box::pin(Bucket::open(name, options)).await?);
        let root: Arc<dyn ObjectStore> = Arc::new(bucket.client.clone());
        let trimmed = url.path().trim_matches('/');
        let plain = if trimmed.is_empty() { format!("s3://{name}/") } else { format!("s3://{name}/{trimmed}/") };
        let plain = Url::parse(&plain).map_err(|error| bad(&error.to_string()))?;
        Ok(Self { bucket: Some(bucket), ..Self::over(root, plain)? })
    }

    /// Any store whose root is the root of the URL's authority: tests put theirs here.
    pub fn over(root: Arc<dyn ObjectStore>, url: Url) -> Result<Self, StoreError> {
        let prefix =
            Path::from_url_path(url.path()).map_err(|error| StoreError::Address { address: url.to_string(), reason: error.to_string() })?;
        Ok(Self { root, prefix, url, bucket: None, disk: None })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    /// As a person would type it.
    pub fn address(&self) -> String {
        self.local_root().map_or_else(|| self.url.to_string(), |path| path.display().to_string())
    }

    /// The store rooted at the URL's authority.
    pub fn root(&self) -> Arc<dyn ObjectStore> {
        self.root.clone()
    }

    /// The store rooted here.
    pub fn here(&self) -> Arc<dyn ObjectStore> {
        Arc::new(PrefixStore::new(self.root.clone(), self.prefix.clone()))
    }

    /// Whether requests cost money and round trips.
    pub fn is_remote(&self) -> bool {
        self.bucket.is_some()
    }

    /// Requests so far; none on local disk.
    pub fn requests(&self) -> Requests {
        self.bucket.as_ref().map(|bucket| bucket.seen.requests()).unwrap_or_default()
    }

    /// A folder below.
    pub fn folder(&self, name: &str) -> Self {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(name.split('/')).push("");
        }
        let prefix = name.split('/').fold(self.prefix.clone(), deltalake::Path::join);
        Self { root: self.root.clone(), prefix, url, bucket: self.bucket.clone(), disk: self.disk.clone() }
    }

    fn locate(&self, path: &str) -> Path {
        // Keys come from listings, so they are already in the store's own spelling.
        Path::parse(format!("{}/{path}", self.prefix)).unwrap_or_else(|_| self.prefix.clone().join(path))
    }

    fn local_root(&self) -> Option<PathBuf> {
        self.url.to_file_path().ok().filter(|_| self.url.scheme() == "file")
    }

    fn access<'p>(&'p self, action: Action, path: &'p str) -> impl FnOnce(object_store::Error) -> StoreError + use<'p> {
        move |source| StoreError::Access { action, path: path.into(), place: self.place().into(), source }
    }

    /// A task that was at it ended early.
    pub fn interrupted(&self, action: Action, path: &str, error: JoinError) -> StoreError {
        self.access(action, path)(error.into())
    }

    /// The address, and where the bucket really is if that is elsewhere.
    fn place(&self) -> String {
        let elsewhere = self.bucket.as_ref().and_then(|bucket| bucket.seen.region().filter(|region| *region != bucket.region));
        elsewhere.map_or_else(|| self.address(), |region| format!("{} (the bucket is in {region})", self.address()))
    }

    /// A root that must be there already: bronze.
    pub fn require(&self) -> Result<(), StoreError> {
        match self.local_root() {
            Some(path) if !path.is_dir() => Err(StoreError::Missing { address: self.address() }),
            _ => Ok(()),
        }
    }

    /// A root that is made if need be: silver.
    pub fn ensure(&self) -> Result<(), StoreError> {
        match self.local_root() {
            Some(path) => std::fs::create_dir_all(&path).map_err(|source| StoreError::CreateRoot { address: self.address(), source }),
            None => Ok(()),
        }
    }

    /// Every object below a folder, keys relative to here; nothing where the folder is not there.
    pub fn list<'s>(&'s self, folder: &'s str) -> BoxStream<'s, Result<(String, ObjectMeta), StoreError>> {
        let prefix = if folder.is_empty() { self.prefix.clone() } else { self.locate(folder) };
        self.relative(folder, self.root.list(Some(&prefix)))
    }

    /// Names of the folders right below here.
    pub async fn folders(&self) -> Result<Vec<String>, StoreError> {
        let listed = self.root.list_with_delimiter(Some(&self.prefix)).await.map_err(self.access(Action::List, ""))?;
        Ok(listed.common_prefixes.iter().filter_map(|folder| folder.filename().map(str::to_owned)).collect())
    }

    /// The keys below a folder that come after one of them, which need not be there; both relative to here.
    pub async fn list_after(&self, folder: &str, after: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.root.list_with_offset(Some(&self.locate(folder)), &self.locate(after));
        self.relative(folder, listed).map_ok(|(key, _)| key).try_collect().await
    }

    /// Every object below a folder in no order, `levels` of folders side by side where that pays, and without the folders that are not kept.
    pub fn list_wide<'s>(
        &'s self,
        folder: &'s str,
        levels: usize,
        keep: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> BoxStream<'s, Result<(String, ObjectMeta), StoreError>> {
        let Some(bucket) = &self.bucket else { return self.list(folder) };
        let above = self.prefix.to_string();
        let keep: list::Keep = Arc::new(move |full: &str| keep(full.strip_prefix(&above).unwrap_or(full).trim_start_matches('/')));
        self.relative(folder, list::list(bucket.clone(), format!("{}/", self.locate(folder)), levels, keep))
    }

    fn relative<'s>(
        &'s self,
        folder: &'s str,
        listed: BoxStream<'s, object_store::Result<ObjectMeta>>,
    ) -> BoxStream<'s, Result<(String, ObjectMeta), StoreError>> {
        listed
            .filter_map(move |entry| async move {
                match entry {
                    Ok(meta) => {
                        let key = meta.location.as_ref().strip_prefix(self.prefix.as_ref())?.trim_start_matches('/').to_owned();
                        Some(Ok((key, meta)))
                    }
                    // A folder that is not there; a bucket has no folders, so there it is the bucket that is missing.
                    Err(object_store::Error::NotFound { .. }) if self.bucket.is_none() => None,
                    // The listing ends here: going on without the rest would pass over sound objects.
                    Err(object_store::Error::InvalidPath { source }) => {
                        Some(Err(StoreError::Name { folder: folder.to_owned(), reason: source.to_string() }))
                    }
                    Err(source) => Some(Err(self.access(Action::List, folder)(source))),
                }
            })
            .boxed()
    }

    /// What tells one content of an object from another.
    pub fn version_of(&self, meta: &ObjectMeta) -> String {
        match &meta.e_tag {
            // A listing knows no version ids, and an ETag is enough.
            Some(tag) if self.url.scheme() != "file" => tag.trim_matches('"').to_owned(),
            _ => format!("{}-{}", meta.size, meta.last_modified.timestamp_micros()),
        }
    }

    /// Whether the listing showed the object in an archive class.
    pub fn is_archived(&self, meta: &ObjectMeta) -> bool {
        self.bucket.as_ref().is_some_and(|bucket| bucket.seen.is_archived(meta.location.as_ref()))
    }

    /// Whether an object can be read, as it was listed where that is given: not in an archive class unless restored, not overwritten, not gone.
    pub async fn is_readable(&self, path: &str, version: Option<&str>) -> Result<bool, StoreError> {
        let if_match = version.filter(|_| self.is_remote()).map(|version| format!("\"{version}\""));
        let first_byte = GetOptions { range: Some(GetRange::Bounded(0..1)), if_match, ..GetOptions::default() };
        match self.root.get_opts(&self.locate(path), first_byte).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => match fault::refusal(&error).map(|refusal| refusal.code).as_deref() {
                Some("InvalidObjectState") => Ok(false),
                // An empty object has no first byte.
                Some("InvalidRange") => Ok(true),
                _ => Err(self.access(Action::Read, path)(error)),
            },
        }
    }

    /// The command that brings an archived object back for a week.
    pub fn restore_command(&self, path: &str) -> String {
        let bucket = self.bucket.as_ref().map_or("BUCKET", |bucket| &bucket.name);
        format!(
            "aws s3api restore-object --bucket {bucket} --key '{}' --restore-request Days=7,GlacierJobParameters={{Tier=Bulk}}",
            self.locate(path)
        )
    }

    /// Bytes in memory that reading an object ahead may cost.
    pub fn cost_of(&self, size: u64) -> u64 {
        if self.is_remote() { reader::cost_of(size) } else { 0 }
    }

    /// A blocking reader of one object, as it was when it was listed.
    pub async fn reader(&self, path: &str, version: &str, size: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        let location = self.locate(path);
        if self.is_remote() {
            let (this, path, listed) = (self.clone(), path.to_owned(), version.to_owned());
            let told: reader::Told = Box::new(move |error| this.cannot_read(&path, &listed, error));
            return match reader::fetch(self.root.clone(), location, size, version).await {
                Ok(parts) => Ok(Box::new(Download::start(parts, told))),
                Err(error) => Err(told(error)),
            };
        }
        if let Some(file) = self.disk.as_ref().and_then(|disk| disk.path_to_filesystem(&location).ok()) {
            let (this, path, listed) = (self.clone(), path.to_owned(), version.to_owned());
            return Ok(Box::new(LocalReader::Closed(Box::new(move || this.open_file(&file, &path, &listed)))));
        }
        let found = self.root.get_opts(&location, GetOptions::default()).await.map_err(self.access(Action::Read, path))?;
        let now = self.version_of(&found.meta);
        if now != version {
            return Err(StoreError::Changed { path: path.to_owned(), listed: version.to_owned(), found: now });
        }
        let (this, path, listed) = (self.clone(), path.to_owned(), version.to_owned());
        Ok(match found.payload {
            GetResultPayload::File(file, _) => Box::new(LocalReader::Open(file)),
            GetResultPayload::Stream(stream) => {
                Box::new(Download::start(stream, Box::new(move |error| this.cannot_read(&path, &listed, error))))
            }
        })
    }

    /// On the thread that will read it: handing it to another one takes longer than opening it.
    fn open_file(&self, file: &std::path::Path, path: &str, listed: &str) -> Result<std::fs::File, StoreError> {
        let failed = |source: std::io::Error| {
            let is_gone = source.kind() == std::io::ErrorKind::NotFound;
            let source = Box::new(source);
            let error = if is_gone {
                object_store::Error::NotFound { path: path.to_owned(), source }
            } else {
                object_store::Error::Generic { store: "LocalFileSystem", source }
            };
            self.cannot_read(path, listed, error)
        };
        let opened = std::fs::File::open(file).map_err(failed)?;
        let metadata = opened.metadata().map_err(failed)?;
        let last_modified = metadata.modified().map_err(failed)?.into();
        let meta = ObjectMeta { location: self.locate(path), last_modified, size: metadata.len(), e_tag: None, version: None };
        let found = self.version_of(&meta);
        if found == listed { Ok(opened) } else { Err(StoreError::Changed { path: path.to_owned(), listed: listed.to_owned(), found }) }
    }

    /// Why an object that was listed cannot be read, at its start or further on.
    fn cannot_read(&self, path: &str, listed: &str, error: object_store::Error) -> StoreError {
        let changed = |found: &str| StoreError::Changed { path: path.to_owned(), listed: listed.to_owned(), found: found.to_owned() };
        match error {
            object_store::Error::Precondition { .. } => return changed("another content"),
            object_store::Error::NotFound { .. } => return changed("nothing"),
            _ => {}
        }
        match fault::refusal(&error).map(|refusal| refusal.code).as_deref() {
            Some("InvalidObjectState") => StoreError::Archived { path: path.to_owned(), restore: self.restore_command(path) },
            // Only parts of what was listed are asked for; a server that knows If-Match would have said so.
            Some("InvalidRange") => changed("a shorter content"),
            _ => self.access(Action::Read, path)(error),
        }
    }

    /// The first bytes of an object that is there.
    pub async fn head(&self, path: &str, bytes: u64) -> Result<Bytes, StoreError> {
        let range = Some(object_store::GetRange::Bounded(0..bytes));
        match self.root.get_opts(&self.locate(path), GetOptions { range, ..GetOptions::default() }).await {
            Ok(found) => found.bytes().await.map_err(self.access(Action::Read, path)),
            // Of an empty object there is no range.
            Err(_) => Ok(self.get(path).await?.unwrap_or_default()),
        }
    }

    /// Removes everything under this folder.
    pub async fn delete_all(&self) -> Result<(), StoreError> {
        let paths: Vec<String> = self.list("").map_ok(|(path, _)| path).try_collect().await?;
        for path in paths {
            self.delete(&path).await?;
        }
        Ok(())
    }

    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        match self.root.get(&self.locate(path)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(self.access(Action::Read, path))?)),
            Err(object_store::Error::NotFound { source, .. }) if !fault::is_missing_bucket(source.as_ref()) => Ok(None),
            Err(source) => Err(self.access(Action::Read, path)(source)),
        }
    }

    /// The same piece by piece; `false` where it is not there.
    pub async fn read(&self, path: &str, mut take: impl FnMut(&[u8])) -> Result<bool, StoreError> {
        let mut pieces = match self.root.get(&self.locate(path)).await {
            Ok(found) => found.into_stream(),
            Err(object_store::Error::NotFound { source, .. }) if !fault::is_missing_bucket(source.as_ref()) => return Ok(false),
            Err(source) => return Err(self.access(Action::Read, path)(source)),
        };
        while let Some(piece) = pieces.try_next().await.map_err(self.access(Action::Read, path))? {
            take(&piece);
        }
        Ok(true)
    }

    /// `false` where another object exists already.
    ///
    /// Whatever the put was answered, the store is asked what is there: an error may hide a success, and object_store's repetition of a
    /// put whose answer was lost is refused over its own success. `bytes` therefore must differ between any two writers.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<bool, StoreError> {
        let location = self.locate(path);
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.root.put_opts(&location, PutPayload::from(bytes.clone()), options).await;
            let source = match put {
                Ok(_) => return Ok(true),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) if !GUARDED => return Ok(false),
                Err(source) if !GUARDED => return Err(self.access(Action::Create, path)(source)),
                Err(source) => source,
            };
            let error = self.access(Action::Create, path)(source);
            if error.is_users() {
                return Err(error);
            }
            match self.get(path).await? {
                Some(found) => return Ok(found == bytes),
                // Refused, and yet nothing there: another create was under way (409), or failed by now.
                None if tries == CREATE_TRIES => return Err(error),
                None => tracing::debug!(path, %error, "a create had no answer and no effect; trying again"),
            }
            tries += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.root.put(&self.locate(path), PutPayload::from(bytes)).await.map_err(self.access(Action::Write, path))?;
        Ok(())
    }

    /// An object that is not there is deleted.
    pub async fn delete(&self, path: &str) -> Result<(), StoreError> {
        match self.root.delete(&self.locate(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.access(Action::Delete, path)(source)),
        }
    }
}

fn without_user(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// Without `.` and `..`: as the file system resolves them, or by the names alone where nothing is there yet.
fn normal(path: &std::path::Path) -> PathBuf {
    if let Ok(found) = path.canonicalize() {
        return found;
    }
    path.components().fold(PathBuf::new(), |mut whole, part| {
        match part {
            std::path::Component::ParentDir => drop(whole.pop()),
            std::path::Component::CurDir => {}
            part => whole.push(part),
        }
        whole
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A local file is opened when it is first read, and is what was listed or nothing.
    #[tokio::test]
    async fn a_file_that_is_not_what_was_listed_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a b.json");
        std::fs::write(&place, "one").unwrap();
        let store = Store::open(folder.path().to_str().unwrap(), &StoreOptions::default()).await.unwrap();
        let listed = store.root.head(&store.locate("a b.json")).await.unwrap();
        let version = store.version_of(&listed);
        let mut text = String::new();
        let mut reader = store.reader("a b.json", &version, 3).await.unwrap();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
        let mut before = store.reader("a b.json", &version, 3).await.unwrap();
        std::fs::write(&place, "three").unwrap();
        let told = |reader: &mut dyn Read| {
            let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
            match SourceFailed::of(&error) {
                Some(StoreError::Changed { found, .. }) => found.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert!(told(&mut *before).starts_with("5-"));
        std::fs::remove_file(&place).unwrap();
        assert_eq!(told(&mut *before), "nothing");
        assert_eq!(told(&mut *store.reader("a b.json", &version, 3).await.unwrap()), "nothing");
    }
}
