//! Stores: a URL → an object store, and the few ways in which the layers above use it.
//!
//! Everything that touches bytes outside of this process goes through one [`Store`] per URL, delta-rs included, so that
//! retries, credentials and counting have one place. Local disk is supported; other schemes are refused by name.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{GetOptions, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use url::Url;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{address} is no address: {reason} (use a path, or file:///path)")]
    Address { address: String, reason: String },
    #[error("{address}: this build reads local disk only, not `{scheme}://`")]
    Scheme { address: String, scheme: String },
    #[error("{address} does not exist")]
    Missing { address: String },
    #[error("cannot create {address}: {source}")]
    CreateRoot { address: String, source: std::io::Error },
    #[error("below {folder} there is a name that no object can have: {reason}; rename or move the file, nothing of this source was read")]
    Name { folder: String, reason: String },
    #[error("{action} {path}: {source}")]
    Access { action: &'static str, path: String, source: object_store::Error },
    #[error("{path} changed while it was read (listed as {listed}, now {found}); run again")]
    Changed { path: String, listed: String, found: String },
}

impl StoreError {
    /// Whether the person's address or rights are at fault, rather than the store's health.
    pub fn is_users(&self) -> bool {
        match self {
            Self::Address { .. } | Self::Scheme { .. } | Self::Missing { .. } | Self::CreateRoot { .. } | Self::Name { .. } => true,
            Self::Access { source, .. } => {
                matches!(source, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. })
                    || denied_by_disk(source)
            }
            Self::Changed { .. } => false,
        }
    }
}

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
}

impl Store {
    /// A path or a `file://` URL.
    pub fn open(address: &str) -> Result<Self, StoreError> {
        let bad = |reason: &str| StoreError::Address { address: address.to_owned(), reason: reason.to_owned() };
        let path = match Url::parse(address) {
            Ok(url) if url.scheme() == "file" => url.to_file_path().map_err(|()| bad("a file URL names an absolute path"))?,
            Ok(url) if url.scheme().len() > 1 => {
                return Err(StoreError::Scheme { address: address.to_owned(), scheme: url.scheme().to_owned() });
            }
            _ if address.is_empty() => return Err(bad("it is empty")),
            _ => std::path::absolute(PathBuf::from(address)).map_err(|error| bad(&error.to_string()))?,
        };
        let path = normal(&path);
        if path.to_string_lossy().contains('%') {
            return Err(bad("a folder with % in its name cannot be a root; Delta readers would decode it"));
        }
        let url = Url::from_directory_path(&path).map_err(|()| bad("it is not absolute"))?;
        Self::over(Arc::new(LocalFileSystem::new()), url)
    }

    /// Any store whose root is the root of the URL's authority: tests put theirs here.
    pub fn over(root: Arc<dyn ObjectStore>, url: Url) -> Result<Self, StoreError> {
        let prefix =
            Path::from_url_path(url.path()).map_err(|error| StoreError::Address { address: url.to_string(), reason: error.to_string() })?;
        Ok(Self { root, prefix, url })
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

    /// A folder below.
    pub fn folder(&self, name: &str) -> Self {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(name.split('/')).push("");
        }
        let prefix = name.split('/').fold(self.prefix.clone(), deltalake::Path::join);
        Self { root: self.root.clone(), prefix, url }
    }

    fn locate(&self, path: &str) -> Path {
        // Keys come from listings, so they are already in the store's own spelling.
        Path::parse(format!("{}/{path}", self.prefix)).unwrap_or_else(|_| self.prefix.clone().join(path))
    }

    fn local_root(&self) -> Option<PathBuf> {
        self.url.to_file_path().ok().filter(|_| self.url.scheme() == "file")
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
        let listed = self.root.list(Some(&prefix));
        listed
            .filter_map(move |entry| async move {
                match entry {
                    Ok(meta) => {
                        let key = meta.location.as_ref().strip_prefix(self.prefix.as_ref())?.trim_start_matches('/').to_owned();
                        Some(Ok((key, meta)))
                    }
                    Err(object_store::Error::NotFound { .. }) => None,
                    // The listing ends here: going on without the rest would pass over sound objects.
                    Err(object_store::Error::InvalidPath { source }) => {
                        Some(Err(StoreError::Name { folder: folder.to_owned(), reason: source.to_string() }))
                    }
                    Err(source) => Some(Err(StoreError::Access { action: "cannot list", path: folder.to_owned(), source })),
                }
            })
            .boxed()
    }

    /// What tells one content of an object from another.
    pub fn version_of(&self, meta: &ObjectMeta) -> String {
        match &meta.e_tag {
            Some(tag) if self.url.scheme() != "file" => {
                meta.version.as_ref().map_or_else(|| tag.clone(), |version| format!("{tag}@{version}"))
            }
            _ => format!("{}-{}", meta.size, meta.last_modified.timestamp_micros()),
        }
    }

    /// A blocking reader of one object, as it was when it was listed.
    pub async fn reader(&self, path: &str, version: &str) -> Result<Box<dyn Read + Send>, StoreError> {
        let location = self.locate(path);
        let found = self.root.get_opts(&location, GetOptions::default()).await.map_err(access("cannot read", path))?;
        let now = self.version_of(&found.meta);
        if now != version {
            return Err(StoreError::Changed { path: path.to_owned(), listed: version.to_owned(), found: now });
        }
        Ok(match found.payload {
            GetResultPayload::File(file, _) => Box::new(LocalReader(file)),
            GetResultPayload::Stream(stream) => {
                Box::new(StreamReader { handle: tokio::runtime::Handle::current(), stream, current: Bytes::new() })
            }
        })
    }

    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        match self.root.get(&self.locate(path)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(access("cannot read", path))?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::Access { action: "cannot read", path: path.to_owned(), source }),
        }
    }

    /// `false` where the object exists already.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<bool, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.root.put_opts(&self.locate(path), PutPayload::from(bytes), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(StoreError::Access { action: "cannot create", path: path.to_owned(), source }),
        }
    }

    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.root.put(&self.locate(path), PutPayload::from(bytes)).await.map_err(access("cannot write", path))?;
        Ok(())
    }

    /// An object that is not there is deleted.
    pub async fn delete(&self, path: &str) -> Result<(), StoreError> {
        match self.root.delete(&self.locate(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StoreError::Access { action: "cannot delete", path: path.to_owned(), source }),
        }
    }
}

fn access<'p>(action: &'static str, path: &'p str) -> impl FnOnce(object_store::Error) -> StoreError + use<'p> {
    move |source| StoreError::Access { action, path: path.to_owned(), source }
}

/// A local file whose failures are the store's, not the content's.
struct LocalReader(std::fs::File);

impl Read for LocalReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(std::io::Error::other(SourceFailed(error.to_string()))),
            outcome => outcome,
        }
    }
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

/// A byte stream read from a thread that may block.
struct StreamReader {
    handle: tokio::runtime::Handle,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    current: Bytes,
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.handle.block_on(self.stream.next()) {
                None => return Ok(0),
                Some(Ok(bytes)) => self.current = bytes,
                Some(Err(error)) => return Err(std::io::Error::other(SourceFailed(error.to_string()))),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// Marks an error of the store on its way through a decoder.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceFailed(pub String);
