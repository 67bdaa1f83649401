//! An S3 server in memory, for tests that want many requests and benchmarks that want to measure their client.
//!
//! Design: a bucket is one ordered map under a lock that is held for a lookup, an insertion or a page of a listing, never
//! while a body is read, hashed or sent. Conditions of a write are decided under the lock that writes, so of any number of
//! `If-None-Match: *` exactly one wins. A page of a listing starts where the last one ended and jumps over what a
//! delimiter rolls up: its cost does not grow with the bucket.
//!
//! It answers as S3 does where a client can tell: errors, their codes and XML, ETags that change with the content (a hash of it;
//! not MD5), times in whole seconds, tokens that must be encoded, objects that are archived and cannot be read.
//!
//! Left out: virtual hosts, authentication, checksums, versions, tags, policies, restoring, ListObjects before V2,
//! `ListParts`, 409 of concurrent conditional writes (the proxy makes those), and regions. What is not known is refused.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::{BoxFuture, Headers, Reply, Request, Response, Server, decode};

/// S3 never lists more, nor deletes more at once.
const PAGE: usize = 1000;
/// Any part but the last one is at least so long.
const PART: usize = 5 * 1024 * 1024;
const REGION: &str = "us-east-1";
const XMLNS: &str = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
/// What `encoding-type=url` leaves as it is; a space becomes a plus.
const LISTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*').remove(b'/').remove(b' ');

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// 0 for any that is free.
    pub port: u16,
    pub threads: usize,
    /// What each request takes at least.
    pub latency: Duration,
    /// Requests answered at the same time; more have to wait.
    pub concurrent: usize,
    /// Entries of a page at most, whatever is asked for.
    pub page: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { port: 0, threads: 2, latency: Duration::ZERO, concurrent: Semaphore::MAX_PERMITS, page: PAGE }
    }
}

/// Requests by kind, and bytes of bodies. `post` starts and completes multipart uploads; deleting many is one `delete`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub list: u64,
    pub get: u64,
    pub head: u64,
    pub put: u64,
    pub copy: u64,
    pub delete: u64,
    pub post: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Stats {
    const NAMES: [&str; 9] = ["list", "get", "head", "put", "copy", "delete", "post", "bytes_in", "bytes_out"];

    pub fn requests(&self) -> u64 {
        self.list + self.get + self.head + self.put + self.copy + self.delete + self.post
    }
}

pub struct S3Server {
    server: Server,
    inner: Arc<Inner>,
}

impl S3Server {
    pub fn start(options: Options) -> io::Result<Self> {
        let inner = Arc::new(Inner { options, buckets: RwLock::default(), counters: Default::default(), uploads: AtomicU64::new(0) });
        let own = Arc::clone(&inner);
        let permits = Arc::new(Semaphore::new(options.concurrent));
        let handler = move |request| {
            let (inner, permits) = (Arc::clone(&own), Arc::clone(&permits));
            Box::pin(async move {
                let _permit = permits.acquire().await;
                if !options.latency.is_zero() {
                    tokio::time::sleep(options.latency).await;
                }
                Reply::Whole(inner.handle(&request))
            }) as BoxFuture<Reply>
        };
        Ok(Self { server: Server::start(options.port, options.threads, Arc::new(handler))?, inner })
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn create_bucket(&self, bucket: &str) {
        self.inner.create(bucket);
    }

    /// Stores an object; the bucket is made if need be.
    pub fn put(&self, bucket: &str, key: &str, body: impl Into<Bytes>) {
        self.fill(bucket, [(key.to_owned(), body.into())]);
    }

    /// Stores many objects at once; fast for a million.
    pub fn fill(&self, bucket: &str, objects: impl IntoIterator<Item = (String, Bytes)>) {
        let bucket = self.inner.create(bucket);
        bucket.write().extend(objects.into_iter().map(|(key, body)| (key, Object::new(body))));
    }

    /// Stores the files of a folder: its own folders are the buckets, the paths in them the keys.
    pub fn load(&self, folder: &Path) -> io::Result<usize> {
        let mut loaded = 0;
        for bucket in std::fs::read_dir(folder)? {
            let bucket = bucket?;
            if bucket.file_type()?.is_dir() {
                let name = bucket.file_name().to_string_lossy().into_owned();
                self.create_bucket(&name);
                loaded += self.load_into(&name, &bucket.path(), "")?;
            }
        }
        Ok(loaded)
    }

    fn load_into(&self, bucket: &str, folder: &Path, prefix: &str) -> io::Result<usize> {
        let mut loaded = 0;
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let key = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
            if path.is_dir() {
                loaded += self.load_into(bucket, &path, &format!("{key}/"))?;
            } else {
                self.put(bucket, &key, std::fs::read(&path)?);
                loaded += 1;
            }
        }
        Ok(loaded)
    }

    pub fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.inner.bucket(bucket)?.read().get(key).map(|object| object.body.clone())
    }

    pub fn delete(&self, bucket: &str, key: &str) -> bool {
        self.inner.bucket(bucket).is_some_and(|bucket| bucket.write().remove(key).is_some())
    }

    /// All keys under a prefix, in order.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let Some(bucket) = self.inner.bucket(bucket) else { return Vec::new() };
        let objects = bucket.read();
        objects.range(prefix.to_owned()..).map(|(key, _)| key).take_while(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// As a lifecycle rule does it: content and ETag stay. False if there is no such object.
    pub fn set_storage_class(&self, bucket: &str, key: &str, class: &str) -> bool {
        self.change(bucket, key, |object| object.class = Some(class.into()))
    }

    /// Makes an object older or younger; in seconds of the epoch.
    pub fn set_modified(&self, bucket: &str, key: &str, seconds: i64) -> bool {
        self.change(bucket, key, |object| object.modified = seconds)
    }

    fn change(&self, bucket: &str, key: &str, change: impl FnOnce(&mut Object)) -> bool {
        self.inner.bucket(bucket).is_some_and(|bucket| bucket.write().get_mut(key).map(change).is_some())
    }

    /// Multipart uploads that were neither completed nor aborted.
    pub fn open_uploads(&self, bucket: &str) -> usize {
        self.inner.bucket(bucket).map_or(0, |bucket| bucket.uploads().len())
    }

    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    pub fn reset_stats(&self) {
        self.inner.reset();
    }
}

#[derive(Clone)]
struct Object {
    body: Bytes,
    hash: u128,
    /// Parts of a multipart upload, 0 if it was none.
    parts: usize,
    /// Seconds of the epoch: S3 knows no fractions, and its listing agrees with its headers.
    modified: i64,
    /// `STANDARD` if none.
    class: Option<Box<str>>,
    /// What was sent with it and is sent back.
    headers: Option<Arc<[(String, Bytes)]>>,
}

impl Object {
    fn new(body: Bytes) -> Self {
        Self { hash: xxh3_128(&body), body, parts: 0, modified: Utc::now().timestamp(), class: None, headers: None }
    }

    fn of(body: Bytes, headers: &Headers) -> Self {
        let class = headers.get("x-amz-storage-class").filter(|&class| class != "STANDARD").map(Into::into);
        Self { class, headers: Some(kept(headers)), ..Self::new(body) }
    }

    fn etag(&self) -> String {
        match self.parts {
            0 => format!("\"{:032x}\"", self.hash),
            parts => format!("\"{:032x}-{parts}\"", self.hash),
        }
    }

    fn class(&self) -> &str {
        self.class.as_deref().unwrap_or("STANDARD")
    }

    fn is_archived(&self) -> bool {
        matches!(self.class(), "GLACIER" | "DEEP_ARCHIVE")
    }

    fn time(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.modified, 0).unwrap_or_default()
    }

    /// ETag and what belongs to encryption: the headers of a write's answer.
    fn written(&self) -> Response {
        let mut response = Response::new(200).header("etag", self.etag());
        for (name, value) in self.headers.iter().flat_map(|headers| headers.iter()).filter(|(name, _)| name.starts_with(ENCRYPTION)) {
            response.headers.push(name.clone(), value.clone());
        }
        response
    }
}

const ENCRYPTION: &str = "x-amz-server-side-encryption";

fn kept(headers: &Headers) -> Arc<[(String, Bytes)]> {
    const NAMES: [&str; 6] = ["content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires"];
    let is_kept = |name: &str| NAMES.contains(&name) || name.starts_with("x-amz-meta-") || name.starts_with(ENCRYPTION);
    let own = headers.iter().filter(|(name, _)| is_kept(name)).filter_map(|(name, value)| {
        let chunked = name == "content-encoding" && value.starts_with(b"aws-chunked");
        let value = if chunked { value.slice(b"aws-chunked".len()..) } else { value.clone() };
        let start = value.iter().take_while(|&&byte| byte == b',' || byte == b' ').count();
        (start < value.len()).then(|| (name.to_owned(), value.slice(start..)))
    });
    own.collect()
}

struct Upload {
    key: String,
    headers: Headers,
    parts: BTreeMap<usize, (Bytes, u128)>,
}

#[derive(Default)]
struct Bucket {
    objects: RwLock<BTreeMap<String, Object>>,
    uploads: Mutex<BTreeMap<String, Upload>>,
}

impl Bucket {
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Object>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Object>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn uploads(&self) -> MutexGuard<'_, BTreeMap<String, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &str) -> Result<Object, Response> {
        self.read().get(key).cloned().ok_or_else(|| error(404, "NoSuchKey", "The specified key does not exist."))
    }

    /// Stores an object if the conditions of the request hold.
    fn store(&self, key: &str, object: Object, headers: &Headers) -> Result<(), Response> {
        let mut objects = self.write();
        let present = objects.get(key);
        if let Some(expected) = headers.get("if-match") {
            let present = present.ok_or_else(|| error(404, "NoSuchKey", "The specified key does not exist."))?;
            if !names(expected, &present.etag()) {
                return Err(failed("If-Match"));
            }
        }
        if let Some(refused) = headers.get("if-none-match") {
            if refused.trim() != "*" {
                return Err(error(501, "NotImplemented", "A header you provided implies functionality that is not implemented"));
            }
            if present.is_some() {
                return Err(failed("If-None-Match"));
            }
        }
        let replaced = objects.insert(key.to_owned(), object);
        drop(objects);
        // Freeing some hundred MB takes a while, so it happens out of the lock.
        drop(replaced);
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Kind {
    List,
    Get,
    Head,
    Put,
    Copy,
    Delete,
    Post,
    BytesIn,
    BytesOut,
}

type Answer = Result<Response, Response>;

struct Inner {
    options: Options,
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    counters: [AtomicU64; Stats::NAMES.len()],
    uploads: AtomicU64,
}

impl Inner {
    fn create(&self, name: &str) -> Arc<Bucket> {
        Arc::clone(self.buckets.write().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default())
    }

    fn bucket(&self, name: &str) -> Option<Arc<Bucket>> {
        self.buckets.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn count(&self, kind: Kind, by: usize) {
        self.counters[kind as usize].fetch_add(by as u64, Ordering::Relaxed);
    }

    fn stats(&self) -> Stats {
        let [list, get, head, put, copy, delete, post, bytes_in, bytes_out] =
            self.counters.each_ref().map(|counter| counter.load(Ordering::Relaxed));
        Stats { list, get, head, put, copy, delete, post, bytes_in, bytes_out }
    }

    fn reset(&self) {
        for counter in &self.counters {
            counter.store(0, Ordering::Relaxed);
        }
    }

    fn handle(&self, request: &Request) -> Response {
        let path = request.path();
        match (request.method.as_str(), path.as_str()) {
            ("GET", "/_stats") => return Response::new(200).body("application/json", self.stats_json()),
            ("POST", "/_reset") => {
                self.reset();
                return Response::new(204);
            }
            _ => {}
        }
        let query = Query::of(request);
        let (bucket, key) = path.strip_prefix('/').unwrap_or(&path).split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        let kind = kind_of(request, key, &query);
        self.count(kind, 1);
        self.count(Kind::BytesIn, request.body.len());
        let response = match self.answer(request, bucket, key, &query) {
            Ok(response) | Err(response) => response,
        };
        if request.method != "HEAD" {
            self.count(Kind::BytesOut, response.body.len());
        }
        response.header("server", "s3-in-memory").header("date", http_date(Utc::now()))
    }

    fn stats_json(&self) -> String {
        let mut json = String::from("{");
        for (name, counter) in Stats::NAMES.iter().zip(&self.counters) {
            let _ = write!(json, "\"{name}\":{},", counter.load(Ordering::Relaxed));
        }
        let _ = write!(json, "\"requests\":{},\"cpu_seconds\":{:.2}}}", self.stats().requests(), cpu_seconds());
        json
    }

    fn answer(&self, request: &Request, bucket: &str, key: &str, query: &Query) -> Answer {
        query.check()?;
        if key.is_empty() && request.method == "PUT" && !bucket.is_empty() && query.is_plain() {
            self.create(bucket);
            return Ok(Response::new(200).header("location", format!("/{bucket}")));
        }
        let name = bucket;
        let bucket = self.bucket(name).ok_or_else(|| error(404, "NoSuchBucket", "The specified bucket does not exist"))?;
        match (request.method.as_str(), key.is_empty()) {
            ("HEAD", true) => Ok(Response::new(200).header("x-amz-bucket-region", REGION)),
            ("GET", true) if query.get("location").is_some() => Ok(xml(format!("<LocationConstraint {XMLNS}/>"))),
            ("GET", true) if query.get("list-type") == Some("2") => self.list(&bucket, name, query),
            ("POST", true) if query.get("delete").is_some() => delete_many(&bucket, &request.body),
            ("GET" | "HEAD", false) if query.is_plain() => read(&bucket.find(key)?, request),
            ("PUT", false) if query.get("partNumber").is_some() => self.upload_part(&bucket, key, request, query),
            ("PUT", false) if query.is_plain() && request.headers.get("x-amz-copy-source").is_some() => {
                self.copy(&bucket, name, key, request)
            }
            ("PUT", false) if query.is_plain() => {
                let object = Object::of(payload(request)?, &request.headers);
                let response = object.written();
                bucket.store(key, object, &request.headers)?;
                Ok(response)
            }
            ("DELETE", false) if query.is_plain() => {
                bucket.write().remove(key);
                Ok(Response::new(204))
            }
            ("POST", false) if query.get("uploads").is_some() => Ok(self.start_upload(&bucket, name, key, request)),
            ("POST", false) if query.get("uploadId").is_some() => complete(&bucket, name, key, request, query),
            ("DELETE", false) if query.get("uploadId").is_some() => {
                let aborted = bucket.uploads().remove(query.get("uploadId").unwrap_or_default());
                aborted.map(|_| Response::new(204)).ok_or_else(no_such_upload)
            }
            _ => Err(error(501, "NotImplemented", "This server does not know such a request.")),
        }
    }

    fn list(&self, bucket: &Bucket, name: &str, query: &Query) -> Answer {
        let page =
            query.get("max-keys").map_or(Ok(self.options.page), str::parse).map_err(|_| error(400, "InvalidArgument", "max-keys"))?;
        let listing = Listing {
            prefix: query.get("prefix").unwrap_or_default(),
            delimiter: query.get("delimiter").filter(|delimiter| !delimiter.is_empty()),
            after: match (query.get("continuation-token"), query.get("start-after")) {
                (Some(token), _) => untoken(token)
                    .map(After::Page)
                    .ok_or_else(|| error(400, "InvalidArgument", "The continuation token provided is incorrect"))?,
                (None, Some(key)) => After::Key(key.to_owned()),
                (None, None) => After::Nothing,
            },
            page: page.min(self.options.page),
        };
        let encoded = query.get("encoding-type") == Some("url");
        let text = |text: &str| if encoded { url_encoded(text) } else { escape(text) };
        let mut entries = String::with_capacity(listing.page * 200);
        let mut write = |key: &str, object: Option<&Object>| match object {
            Some(object) => {
                let (time, etag) = (object.time().to_rfc3339_opts(SecondsFormat::Millis, true), escape(&object.etag()));
                let (key, size, class) = (text(key), object.body.len(), object.class());
                let _ = write!(
                    entries,
                    "<Contents><Key>{key}</Key><LastModified>{time}</LastModified><ETag>{etag}</ETag><Size>{size}</Size><StorageClass>{class}</StorageClass></Contents>"
                );
            }
            None => {
                let _ = write!(entries, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", text(key));
            }
        };
        let (count, next) = listing.run(&bucket.read(), &mut write);
        let mut answer = format!(
            "<ListBucketResult {XMLNS}><Name>{name}</Name><Prefix>{}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>{}</MaxKeys><IsTruncated>{}</IsTruncated>",
            text(listing.prefix),
            listing.page,
            next.is_some(),
        );
        let echoed = [("Delimiter", query.get("delimiter").map(text)), ("StartAfter", query.get("start-after").map(text))];
        let tokens =
            [("ContinuationToken", query.get("continuation-token").map(escape)), ("NextContinuationToken", next.map(|last| token(&last)))];
        let encoding = [("EncodingType", encoded.then(|| "url".to_owned()))];
        for (element, value) in echoed.into_iter().chain(tokens).chain(encoding) {
            if let Some(value) = value {
                let _ = write!(answer, "<{element}>{value}</{element}>");
            }
        }
        answer.push_str(&entries);
        answer.push_str("</ListBucketResult>");
        Ok(xml(answer))
    }

    /// The object that `x-amz-copy-source` names, if it may be copied.
    fn source(&self, headers: &Headers) -> Result<(String, String, Object), Response> {
        let source = headers.get("x-amz-copy-source").unwrap_or_default();
        let source = decode(source.split_once('?').map_or(source, |(path, _)| path));
        let (bucket, key) =
            source.strip_prefix('/').unwrap_or(&source).split_once('/').ok_or_else(|| error(400, "InvalidArgument", "Copy Source"))?;
        let found = self.bucket(bucket).ok_or_else(|| error(404, "NoSuchBucket", "The specified bucket does not exist"))?.find(key)?;
        if found.is_archived() {
            return Err(archived(&found));
        }
        if headers.get("x-amz-copy-source-if-match").is_some_and(|expected| !names(expected, &found.etag())) {
            return Err(failed("x-amz-copy-source-If-Match"));
        }
        if headers.get("x-amz-copy-source-if-none-match").is_some_and(|refused| names(refused, &found.etag())) {
            return Err(failed("x-amz-copy-source-If-None-Match"));
        }
        Ok((bucket.to_owned(), key.to_owned(), found))
    }

    fn copy(&self, bucket: &Bucket, name: &str, key: &str, request: &Request) -> Answer {
        let (source_bucket, source_key, source) = self.source(&request.headers)?;
        let mut object = Object::of(source.body, &request.headers);
        if request.headers.get("x-amz-metadata-directive") != Some("REPLACE") {
            if (source_bucket.as_str(), source_key.as_str()) == (name, key) && source.class == object.class {
                return Err(error(400, "InvalidRequest", "This copy request is illegal because it changes nothing of the object."));
            }
            object.headers = source.headers;
        }
        let response = copied("CopyObjectResult", &object.etag(), object.time());
        bucket.store(key, object, &request.headers)?;
        Ok(response)
    }

    fn start_upload(&self, bucket: &Bucket, name: &str, key: &str, request: &Request) -> Response {
        // As long and as wild as those of S3.
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:016x}.{:016x}_{number}-", xxh3_64(&number.to_le_bytes()), xxh3_64(key.as_bytes()));
        bucket.uploads().insert(id.clone(), Upload { key: key.to_owned(), headers: request.headers.clone(), parts: BTreeMap::new() });
        xml(format!(
            "<InitiateMultipartUploadResult {XMLNS}><Bucket>{name}</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
            escape(key)
        ))
    }

    fn upload_part(&self, bucket: &Bucket, key: &str, request: &Request, query: &Query) -> Answer {
        let number = query.get("partNumber").and_then(|number| number.parse().ok()).filter(|number| (1..=10_000).contains(number));
        let number: usize =
            number.ok_or_else(|| error(400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive"))?;
        let copies = request.headers.get("x-amz-copy-source").is_some();
        let body = if copies {
            let (_, _, source) = self.source(&request.headers)?;
            match request.headers.get("x-amz-copy-source-range").map(|range| Range::of(range, source.body.len())) {
                None => source.body,
                Some(Range::Part(from, to)) => source.body.slice(from..to),
                Some(_) => return Err(error(400, "InvalidArgument", "The x-amz-copy-source-range value is not valid")),
            }
        } else {
            payload(request)?
        };
        let hash = xxh3_128(&body);
        let etag = format!("\"{hash:032x}\"");
        let mut uploads = bucket.uploads();
        let upload = query.get("uploadId").and_then(|id| uploads.get_mut(id)).filter(|upload| upload.key == key);
        upload.ok_or_else(no_such_upload)?.parts.insert(number, (body, hash));
        Ok(if copies { copied("CopyPartResult", &etag, Utc::now()) } else { Response::new(200).header("etag", etag) })
    }
}

/// What is listed: keys after `after` that begin with `prefix`; those that go on with the delimiter as their common prefix.
struct Listing<'a> {
    prefix: &'a str,
    delimiter: Option<&'a str>,
    after: After,
    page: usize,
}

enum After {
    Nothing,
    Key(String),
    /// The last entry of a page: a key or a common prefix.
    Page(String),
}

impl Listing<'_> {
    /// Hands on a page and returns the number of its entries, and the last one if more are to follow.
    fn run(&self, objects: &BTreeMap<String, Object>, emit: &mut impl FnMut(&str, Option<&Object>)) -> (usize, Option<String>) {
        let mut from = match &self.after {
            After::Key(key) if key.as_str() >= self.prefix => Bound::Excluded(key.clone()),
            // What a common prefix stands for was listed with it.
            After::Page(last) if self.common(last) == Some(last) => Bound::Included(successor(last)),
            After::Page(last) => Bound::Excluded(last.clone()),
            _ => Bound::Included(self.prefix.to_owned()),
        };
        let (mut count, mut last) = (0, String::new());
        loop {
            let mut jump = None;
            for (key, object) in objects.range::<String, _>((from, Bound::Unbounded)) {
                if !key.starts_with(self.prefix) {
                    return (count, None);
                }
                if count == self.page {
                    return (count, (count > 0).then_some(last));
                }
                count += 1;
                if let Some(common) = self.common(key) {
                    emit(common, None);
                    common.clone_into(&mut last);
                    jump = Some(successor(common));
                    break;
                }
                emit(key, Some(object));
                if count == self.page {
                    last.clone_from(key);
                }
            }
            match jump {
                Some(next) => from = Bound::Included(next),
                None => return (count, None),
            }
        }
    }

    fn common<'k>(&self, key: &'k str) -> Option<&'k str> {
        let delimiter = self.delimiter?;
        let rest = key.strip_prefix(self.prefix)?;
        rest.find(delimiter).map(|at| &key[..self.prefix.len() + at + delimiter.len()])
    }
}

/// The least string that is greater than all that begin with this one.
fn successor(prefix: &str) -> String {
    let mut next = prefix.to_owned();
    while let Some(last) = next.pop() {
        // The gap of the surrogates lies between two characters.
        if let Some(above) = (last as u32 + 1..=char::MAX as u32).find_map(char::from_u32) {
            next.push(above);
            break;
        }
    }
    next
}

/// A token that gets lost where it is not encoded in the query.
fn token(last: &str) -> String {
    let hex: String = last.bytes().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    format!("1+/{hex}==")
}

fn untoken(token: &str) -> Option<String> {
    let hex = token.strip_prefix("1+/")?.strip_suffix("==")?;
    let bytes = hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

fn kind_of(request: &Request, key: &str, query: &Query) -> Kind {
    match request.method.as_str() {
        "HEAD" => Kind::Head,
        "PUT" if request.headers.get("x-amz-copy-source").is_some() => Kind::Copy,
        "PUT" => Kind::Put,
        "DELETE" => Kind::Delete,
        "POST" if query.get("delete").is_some() => Kind::Delete,
        "POST" => Kind::Post,
        _ if key.is_empty() && query.get("location").is_none() => Kind::List,
        _ => Kind::Get,
    }
}

fn read(object: &Object, request: &Request) -> Answer {
    let headers = &request.headers;
    let etag = object.etag();
    let seconds = |name| headers.get(name).and_then(|date| DateTime::parse_from_rfc2822(date).ok()).map(|date| date.timestamp());
    let unmodified = match headers.get("if-match") {
        Some(expected) => names(expected, &etag),
        None => seconds("if-unmodified-since").is_none_or(|since| object.modified <= since),
    };
    if !unmodified {
        return Err(failed(if headers.get("if-match").is_some() { "If-Match" } else { "If-Unmodified-Since" }));
    }
    let known = match headers.get("if-none-match") {
        Some(known) => names(known, &etag),
        None => seconds("if-modified-since").is_some_and(|since| object.modified <= since),
    };
    if known {
        return Ok(Response::new(304).header("etag", etag).header("last-modified", http_date(object.time())));
    }
    if object.is_archived() && request.method == "GET" {
        return Err(archived(object));
    }
    let length = object.body.len();
    let mut response = match headers.get("range").map_or(Range::Whole, |range| Range::of(range, length)) {
        Range::Whole => Response { body: object.body.clone(), ..Response::new(200) },
        Range::Part(from, to) => {
            let part = Response { body: object.body.slice(from..to), ..Response::new(206) };
            part.header("content-range", format!("bytes {from}-{}/{length}", to - 1))
        }
        Range::Beyond => {
            let response = error(416, "InvalidRange", "The requested range is not satisfiable");
            return Err(response.header("content-range", format!("bytes */{length}")));
        }
    };
    let own = object.headers.iter().flat_map(|headers| headers.iter());
    for (name, value) in own {
        response.headers.push(name.clone(), value.clone());
    }
    if response.headers.get("content-type").is_none() {
        response.headers.push("content-type", "binary/octet-stream");
    }
    if let Some(class) = &object.class {
        response.headers.push("x-amz-storage-class", class.to_string());
    }
    Ok(response.header("etag", etag).header("last-modified", http_date(object.time())).header("accept-ranges", "bytes"))
}

enum Range {
    /// None was asked for that can be understood.
    Whole,
    Part(usize, usize),
    Beyond,
}

impl Range {
    fn of(header: &str, length: usize) -> Self {
        let Some((from, to)) = header.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else { return Self::Whole };
        match (from.parse::<usize>(), to.parse::<usize>()) {
            (Err(_), Ok(last)) if from.is_empty() && last > 0 && length > 0 => Self::Part(length.saturating_sub(last), length),
            (Err(_), Ok(_)) if from.is_empty() => Self::Beyond,
            (Ok(from), Ok(to)) if to < from => Self::Whole,
            (Ok(from), Ok(_)) if from >= length => Self::Beyond,
            (Ok(from), Ok(to)) => Self::Part(from, length.min(to.saturating_add(1))),
            (Ok(from), Err(_)) if to.is_empty() && from >= length => Self::Beyond,
            (Ok(from), Err(_)) if to.is_empty() => Self::Part(from, length),
            _ => Self::Whole,
        }
    }
}

fn delete_many(bucket: &Bucket, body: &[u8]) -> Answer {
    let malformed = || error(400, "MalformedXML", "The XML you provided was not well-formed");
    let body = std::str::from_utf8(body).map_err(|_| malformed())?;
    let document = elements(body, "Delete").next().ok_or_else(malformed)?;
    let quiet = elements(document, "Quiet").next().is_some_and(|quiet| quiet.trim() == "true");
    let keys: Option<Vec<String>> = elements(document, "Object").map(|object| elements(object, "Key").next().and_then(unescape)).collect();
    let keys = keys.filter(|keys| (1..=PAGE).contains(&keys.len())).ok_or_else(malformed)?;
    let mut answer = format!("<DeleteResult {XMLNS}>");
    let mut objects = bucket.write();
    for key in keys {
        objects.remove(&key);
        if !quiet {
            let _ = write!(answer, "<Deleted><Key>{}</Key></Deleted>", escape(&key));
        }
    }
    answer.push_str("</DeleteResult>");
    Ok(xml(answer))
}

fn complete(bucket: &Bucket, name: &str, key: &str, request: &Request, query: &Query) -> Answer {
    let id = query.get("uploadId").unwrap_or_default();
    let body = std::str::from_utf8(&request.body).unwrap_or_default();
    let asked: Option<Vec<(usize, String)>> = elements(body, "Part")
        .map(|part| {
            let number = elements(part, "PartNumber").next()?.trim().parse().ok()?;
            Some((number, unescape(elements(part, "ETag").next()?.trim())?))
        })
        .collect();
    let asked =
        asked.filter(|parts| !parts.is_empty()).ok_or_else(|| error(400, "MalformedXML", "The XML you provided was not well-formed"))?;
    if !asked.is_sorted_by(|(one, _), (next, _)| one < next) {
        return Err(error(400, "InvalidPartOrder", "The list of parts was not in ascending order."));
    }
    let (parts, headers) = {
        let uploads = bucket.uploads();
        let upload = uploads.get(id).filter(|upload| upload.key == key).ok_or_else(no_such_upload)?;
        let found = asked
            .iter()
            .map(|(number, etag)| upload.parts.get(number).filter(|(_, hash)| names(etag, &format!("\"{hash:032x}\""))).cloned());
        let parts: Option<Vec<_>> = found.collect();
        let parts = parts.ok_or_else(|| error(400, "InvalidPart", "One or more of the specified parts could not be found."))?;
        (parts, upload.headers.clone())
    };
    if parts.iter().rev().skip(1).any(|(body, _)| body.len() < PART) {
        return Err(error(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed object size."));
    }
    let mut whole = BytesMut::with_capacity(parts.iter().map(|(body, _)| body.len()).sum());
    let mut hashes = Vec::with_capacity(parts.len() * 16);
    for (body, hash) in &parts {
        whole.extend_from_slice(body);
        hashes.extend_from_slice(&hash.to_be_bytes());
    }
    let object = Object { hash: xxh3_128(&hashes), parts: parts.len(), ..Object::of(whole.freeze(), &headers) };
    let etag = object.etag();
    // Of two completions of one upload only one finds it; one that fails its condition leaves it to be aborted.
    let upload = bucket.uploads().remove(id).ok_or_else(no_such_upload)?;
    if let Err(refused) = bucket.store(key, object, &request.headers) {
        bucket.uploads().insert(id.to_owned(), upload);
        return Err(refused);
    }
    let (key, etag) = (escape(key), escape(&etag));
    Ok(xml(format!(
        "<CompleteMultipartUploadResult {XMLNS}><Location>/{name}/{key}</Location><Bucket>{name}</Bucket><Key>{key}</Key><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
    )))
}

/// The body as it is meant: uploads may come in chunks with signatures, within the body.
fn payload(request: &Request) -> Result<Bytes, Response> {
    let signed = request.headers.get("x-amz-content-sha256").is_some_and(|hash| hash.starts_with("STREAMING-"));
    if !signed {
        return Ok(request.body.clone());
    }
    let malformed = || error(400, "IncompleteBody", "The request body ended before it was complete");
    let (mut rest, mut whole) = (&request.body[..], BytesMut::with_capacity(request.body.len()));
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").ok_or_else(malformed)?;
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| malformed())?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16).map_err(|_| malformed())?;
        if size == 0 {
            return Ok(whole.freeze());
        }
        let chunk = rest.get(end + 2..end + 2 + size).ok_or_else(malformed)?;
        whole.extend_from_slice(chunk);
        rest = rest.get(end + 4 + size..).ok_or_else(malformed)?;
    }
}

/// Parameters of a request, of which S3 has many that change its meaning.
struct Query(Vec<(String, String)>);

impl Query {
    const KNOWN: [&str; 12] = [
        "list-type",
        "prefix",
        "delimiter",
        "start-after",
        "continuation-token",
        "max-keys",
        "encoding-type",
        "fetch-owner",
        "location",
        "delete",
        "uploads",
        "uploadId",
    ];

    fn of(request: &Request) -> Self {
        // An address that is signed for others, or names the operation once more, asks for nothing else.
        let signature =
            |name: &str| ["AWSAccessKeyId", "Signature", "Expires"].contains(&name) || name.to_ascii_lowercase().starts_with("x-amz-");
        let ignored = |name: &str| name == "x-id" || signature(name);
        Self(request.query().into_iter().filter(|(name, _)| !ignored(name)).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    fn is_plain(&self) -> bool {
        self.0.is_empty()
    }

    fn check(&self) -> Result<(), Response> {
        match self.0.iter().find(|(name, _)| name != "partNumber" && !Self::KNOWN.contains(&name.as_str())) {
            Some((name, _)) => Err(error(501, "NotImplemented", &format!("This server does not know the parameter {name}."))),
            None => Ok(()),
        }
    }
}

/// An error as S3 words it.
pub fn error(status: u16, code: &str, message: &str) -> Response {
    error_with(status, code, message, "")
}

fn error_with(status: u16, code: &str, message: &str, more: &str) -> Response {
    let (code, message) = (escape(code), escape(message));
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{more}<RequestId>0000000000000000</RequestId></Error>"
    );
    Response::new(status).header("x-amz-request-id", "0000000000000000").body("application/xml", body)
}

fn failed(condition: &str) -> Response {
    let more = format!("<Condition>{condition}</Condition>");
    error_with(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", &more)
}

fn archived(object: &Object) -> Response {
    let more = format!("<StorageClass>{}</StorageClass>", escape(object.class()));
    error_with(403, "InvalidObjectState", "The operation is not valid for the object's storage class", &more)
}

fn no_such_upload() -> Response {
    error(404, "NoSuchUpload", "The specified upload does not exist. It may have been aborted or completed.")
}

fn copied(element: &str, etag: &str, time: DateTime<Utc>) -> Response {
    let (time, etag) = (time.to_rfc3339_opts(SecondsFormat::Millis, true), escape(etag));
    xml(format!("<{element} {XMLNS}><LastModified>{time}</LastModified><ETag>{etag}</ETag></{element}>"))
}

fn xml(document: String) -> Response {
    Response::new(200).body("application/xml", format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{document}"))
}

/// Whether a list of ETags, or a star, names this one. S3 takes them without their quotes too.
fn names(list: &str, etag: &str) -> bool {
    list.split(',').map(|entry| entry.trim().trim_matches('"')).any(|entry| entry == "*" || entry == etag.trim_matches('"'))
}

fn url_encoded(text: &str) -> String {
    utf8_percent_encode(text, LISTED).to_string().replace(' ', "+")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // A parser may change or drop what white space is not written so.
            control if control < ' ' => drop(write!(escaped, "&#{};", control as u32)),
            other => escaped.push(other),
        }
    }
    escaped
}

/// None for an entity that XML does not know.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        let (entity, after) = after.split_once(';')?;
        plain.push_str(before);
        plain.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = entity.strip_prefix('#')?;
                let hex = number.strip_prefix(['x', 'X']);
                char::from_u32(hex.map_or_else(|| number.parse(), |hex| u32::from_str_radix(hex, 16)).ok()?)?
            }
        });
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}

/// The contents of the elements of this name, none of which lies in another one: all that the documents here need.
fn elements<'x>(document: &'x str, name: &str) -> impl Iterator<Item = &'x str> {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let mut rest = document;
    std::iter::from_fn(move || {
        loop {
            let (_, after) = rest.split_once(&open)?;
            rest = after;
            // Else it is the beginning of a longer name.
            if !after.starts_with(['>', '/', ' ', '\t', '\r', '\n']) {
                continue;
            }
            let (attributes, content) = after.split_once('>')?;
            if attributes.ends_with('/') {
                rest = content;
                return Some("");
            }
            let (content, after) = content.split_once(&close)?;
            rest = after;
            return Some(content);
        }
    })
}

fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Of this process so far, in the kernel and out of it.
fn cpu_seconds() -> f64 {
    /// Linux has shown times in hundredths of a second to programs for ever.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in brackets, may contain spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS
}
