//! HTTP/1.1 as far as S3 needs it: the framing shared by the fault proxy (`proxy`) and the S3 server in memory (`s3`).
//!
//! Design: a message is gathered whole, as one `Bytes`, before anything looks at it. A proxy that cuts bodies in half or
//! throws answers away then needs no streaming, an S3 server stores what it was given without a copy, and a message that
//! breaks off is never handled at all. Bodies are read with as few calls as the socket allows into a buffer of their
//! exact length; some hundred MB at once are fine, what does not fit into memory is not.
//!
//! What is answered is a [`Reply`], because the servers here must also be able to break the protocol: an answer may be
//! cut off, and a connection reset or closed without one. Each [`Server`] has a runtime of its own, so it can be started
//! and dropped in a test with any runtime or none, and does not stand still when the test blocks.
//!
//! Left out: TLS, HTTP/2, pipelining, trailers (read and dropped), compressed transfer.

#![allow(dead_code, reason = "each binary that includes this uses its own part of it")]

pub mod proxy;
pub mod s3;

use std::fmt::Write;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// No head of a sound S3 message is longer.
const HEAD_LIMIT: usize = 64 * 1024;
const READ_AHEAD: usize = 16 * 1024;
/// What an answer that was cut off gets before the reset, which makes the kernel forget what is still to be sent.
const DRAIN: Duration = Duration::from_millis(30);

pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub type Handler = Arc<dyn Fn(Request) -> BoxFuture<Reply> + Send + Sync>;

/// Header lines in their order; names are in lower case, values as they were sent.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<(String, Bytes)>);

impl Headers {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(own, _)| *own == name).and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    pub fn push(&mut self, name: impl Into<String>, value: impl Into<Bytes>) {
        self.0.push((name.into(), value.into()));
    }

    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(own, _)| own != name);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    fn of(parsed: &[httparse::Header<'_>]) -> Self {
        Self(parsed.iter().map(|header| (header.name.to_ascii_lowercase(), Bytes::copy_from_slice(header.value))).collect())
    }

    /// Without the lines that speak of one connection or of the framing: these are written anew.
    fn end_to_end(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        const HOP: [&str; 6] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "expect"];
        self.iter().filter(|(name, _)| !HOP.contains(name))
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.get(name).is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    }

    fn length(&self) -> io::Result<Option<u64>> {
        self.get("content-length").map(|length| length.trim().parse().map_err(|_| invalid("Content-Length"))).transpose()
    }

    fn write(&self, head: &mut Vec<u8>) {
        for (name, value) in self.end_to_end() {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    pub headers: Headers,
    pub body: Bytes,
    keep_alive: bool,
}

impl Request {
    /// The path, decoded.
    pub fn path(&self) -> String {
        decode(self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path))
    }

    /// Names and values of the query, decoded.
    pub fn query(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(name, value)| (decode_form(name), decode_form(value))).collect()
    }

    fn head(&self, length: usize) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        self.headers.write(&mut head);
        // A request without a body that never spoke of a length is left so: the line may be signed.
        if length > 0 || self.headers.get("content-length").is_some() || self.headers.get("transfer-encoding").is_some() {
            head.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub body: Bytes,
    /// The length to be named where there is no body to be counted: the passed on answer to a HEAD.
    length: Option<u64>,
    keep_alive: bool,
}

impl Response {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Headers::default(), body: Bytes::new(), length: None, keep_alive: true }
    }

    pub fn header(mut self, name: &str, value: impl Into<Bytes>) -> Self {
        self.headers.push(name, value);
        self
    }

    pub fn body(mut self, kind: &'static str, body: impl Into<Bytes>) -> Self {
        self.headers.push("content-type", kind);
        self.body = body.into();
        self
    }

    fn head(&self, keep_alive: bool) -> Vec<u8> {
        let mut head = String::with_capacity(64);
        let _ = write!(head, "HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let mut head = head.into_bytes();
        head.reserve(512);
        self.headers.write(&mut head);
        let mut tail = String::new();
        if !has_no_body(self.status) {
            let _ = write!(tail, "content-length: {}\r\n", self.length.unwrap_or(self.body.len() as u64));
        }
        tail.push_str(if keep_alive { "\r\n" } else { "connection: close\r\n\r\n" });
        head.extend_from_slice(tail.as_bytes());
        head
    }
}

/// What becomes of a request at its client.
#[derive(Debug)]
pub enum Reply {
    Whole(Response),
    /// The head and half of the body (of an answer without one: half of the head), then a reset.
    Cut(Response),
    /// No answer: the connection is reset.
    Reset,
    /// No answer: the connection is closed in order.
    Close,
}

/// Serves on a runtime of its own until it is dropped; what is under way then is dropped too.
pub struct Server {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    /// Listens at a port of 127.0.0.1; port 0 finds a free one.
    pub fn start(port: u16, threads: usize, handler: Handler) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(serve(stream, Arc::clone(&handler)))),
                    // Out of file descriptors, or a connection that is gone already: neither is the end of the others.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Ok(Self { address, runtime: Some(runtime) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not to be waited for: a test may drop the server within a runtime of its own.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One connection from its first request to its last. What ends it early is of interest to nobody here.
async fn serve(stream: TcpStream, handler: Handler) {
    let Ok(mut connection) = Connection::new(stream) else { return };
    loop {
        let request = match connection.request().await {
            Ok(Some(request)) => request,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let _ = connection.write(Response::new(400).head(false), Bytes::new()).await;
                return;
            }
            Ok(None) | Err(_) => return,
        };
        let (head_only, keep_alive) = (request.method == "HEAD", request.keep_alive);
        let body_of = |response: &Response| if head_only || has_no_body(response.status) { Bytes::new() } else { response.body.clone() };
        match handler(request).await {
            Reply::Whole(response) => {
                let written = connection.write(response.head(keep_alive), body_of(&response)).await;
                if written.is_err() || !keep_alive {
                    return;
                }
            }
            Reply::Cut(response) => {
                let (mut head, mut body) = (response.head(keep_alive), body_of(&response));
                if body.len() > 1 {
                    body.truncate(body.len() / 2);
                } else {
                    head.truncate(head.len() / 2);
                    body.clear();
                }
                let _ = connection.write(head, body).await;
                tokio::time::sleep(DRAIN).await;
                return connection.reset();
            }
            Reply::Reset => return connection.reset(),
            Reply::Close => return,
        }
    }
}

/// A connection of either side, with what was read beyond the last message.
struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new() })
    }

    async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect(address).await?)
    }

    /// Whether the other side has neither closed the connection nor sent anything unasked.
    fn is_idle(&self) -> bool {
        let waits = self.stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        waits && self.buffer.is_empty()
    }

    fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ_AHEAD);
        self.stream.read_buf(&mut self.buffer).await
    }

    async fn fill_more(&mut self) -> io::Result<()> {
        if self.fill().await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The next request, or none after the last one.
    async fn request(&mut self) -> io::Result<Option<Request>> {
        let mut request = loop {
            let mut lines = [httparse::EMPTY_HEADER; 128];
            let mut parsed = httparse::Request::new(&mut lines);
            if let httparse::Status::Complete(length) = parsed.parse(&self.buffer).map_err(invalid)? {
                let headers = Headers::of(parsed.headers);
                let keep_alive = if parsed.version == Some(1) {
                    !headers.has_token("connection", "close")
                } else {
                    headers.has_token("connection", "keep-alive")
                };
                let method = parsed.method.unwrap_or_default().to_owned();
                let target = parsed.path.unwrap_or_default().to_owned();
                self.buffer.advance(length);
                break Request { method, target, headers, body: Bytes::new(), keep_alive };
            }
            self.check_head()?;
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        let chunked = request.headers.has_token("transfer-encoding", "chunked");
        let length = request.headers.length()?.unwrap_or(0);
        if self.buffer.is_empty() && (chunked || length > 0) && request.headers.has_token("expect", "100-continue") {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        request.body = if chunked { self.chunks().await? } else { self.exactly(length as usize).await? };
        Ok(Some(request))
    }

    /// The answer to a request that was sent: one to a HEAD names a length and has no body.
    async fn response(&mut self, for_head: bool) -> io::Result<Response> {
        let (mut response, version) = loop {
            let mut lines = [httparse::EMPTY_HEADER; 128];
            let mut parsed = httparse::Response::new(&mut lines);
            if let httparse::Status::Complete(length) = parsed.parse(&self.buffer).map_err(invalid)? {
                let mut response = Response::new(parsed.code.unwrap_or_default());
                response.headers = Headers::of(parsed.headers);
                let version = parsed.version;
                self.buffer.advance(length);
                if response.status < 200 {
                    continue;
                }
                break (response, version);
            }
            self.check_head()?;
            self.fill_more().await?;
        };
        response.keep_alive = version == Some(1) && !response.headers.has_token("connection", "close");
        let length = response.headers.length()?;
        if for_head || has_no_body(response.status) {
            response.length = length;
        } else if response.headers.has_token("transfer-encoding", "chunked") {
            response.body = self.chunks().await?;
        } else if let Some(length) = length {
            response.body = self.exactly(length as usize).await?;
        } else {
            while self.fill().await? > 0 {}
            response.body = self.buffer.split().freeze();
            response.keep_alive = false;
        }
        Ok(response)
    }

    fn check_head(&self) -> io::Result<()> {
        if self.buffer.len() > HEAD_LIMIT { Err(invalid("a head without end")) } else { Ok(()) }
    }

    /// A body of known length, in an allocation of its own: a small one must not keep the buffer alive.
    async fn exactly(&mut self, length: usize) -> io::Result<Bytes> {
        let ahead = self.buffer.len().min(length);
        let mut body = BytesMut::with_capacity(length);
        body.extend_from_slice(&self.buffer[..ahead]);
        self.buffer.advance(ahead);
        while body.len() < length {
            let missing = length - body.len();
            if self.stream.read_buf(&mut (&mut body).limit(missing)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(body.freeze())
    }

    async fn chunks(&mut self) -> io::Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let size = loop {
                if let httparse::Status::Complete((used, size)) =
                    httparse::parse_chunk_size(&self.buffer).map_err(|_| invalid("chunk size"))?
                {
                    self.buffer.advance(used);
                    break size as usize;
                }
                self.fill_more().await?;
            };
            if size == 0 {
                break;
            }
            body.extend_from_slice(&self.exactly(size).await?);
            self.line().await?;
        }
        while !self.line().await?.is_empty() {}
        Ok(body.freeze())
    }

    async fn line(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(2);
                return Ok(line);
            }
            self.check_head()?;
            self.fill_more().await?;
        }
    }

    async fn write(&mut self, head: Vec<u8>, body: Bytes) -> io::Result<()> {
        self.stream.write_all_buf(&mut Bytes::from(head).chain(body)).await
    }
}

fn invalid(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

fn has_no_body(status: u16) -> bool {
    status < 200 || status == 204 || status == 304
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// As `decode`, where a plus is a space.
fn decode_form(text: &str) -> String {
    decode(&text.replace('+', " "))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
